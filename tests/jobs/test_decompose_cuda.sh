#!/usr/bin/env bash
# t2 decompose on a CUDA device (or the stand-in): the same bits on any number of ranks, the contract,
# kills, and wishes that contradict one another.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

model=${T2_SOURCE:?}/data/mini
unset T2_DEVICE
export T2_STANDIN_DEVICES=2

# What holds with and without a device.
t2 decompose "$model" --out "$scratch/x.h5" --device gpu
check "a device of no known kind is a mistake" "$code" -eq 2
contains "... that names the choices" "$err" "choose auto, cpu, cuda or cuda:N"
t2 decompose "$model" --out "$scratch/x.h5" --device cuda --method lapack
contains "the processor's methods are not for a device" "$err" "--method lapack works on the processor"
t2 decompose "$model" --out "$scratch/x.h5" --device cuda --precision f32
contains "nor is f32" "$err" "a device decomposes in f64"
t2 decompose "$model" --out "$scratch/x.h5" --device cpu --method cusolver
contains "the device's method is not for the processor" "$err" "leave --device cpu out"
t2 decompose --plan --model-shape llama3-8b --device cuda --ranks 8 --ranks-per-node 4
check "a plan needs no device" "$code" -eq 0
contains "... counts the matrices" "$out" "96 matrices on 8 ranks of 2 threads, 2 nodes"
contains "... and says what its times are worth" "$out" "rough guesses"

t2 --version
case $out in
*cuda:0*) ;;
*)
    contains "t2 --version says that there is no device" "$out" "CUDA"
    t2 decompose "$model" --out "$scratch/x.h5" --device cuda
    check "a device that is not there is an error" "$code" -eq 1
    contains "... that says what to do" "$err" "use --device cpu"
    check "... and leaves nothing" ! -e "$scratch/x.h5.parts"
    finish || exit 1
    echo "SKIPPED the rest: no CUDA device"
    exit 77
    ;;
esac
if ! command -v h5dump >/dev/null; then
    echo "SKIPPED: no h5dump (hdf5-tools)"
    exit 77
fi
data_of() {
    h5dump -A 0 -m %.9g -g /layers "$1" | tail -n +2 | sha256sum
}

ranks 2 decompose "$model" --out "$scratch/x.h5" --device cuda:999
check "a device that is not there is an error on all ranks" "$code" -eq 1
contains "... that says which there are" "$err" "--device cuda:999: there is no CUDA device 999"

what=(--modules mlp --check --device cuda)
t2 decompose "$model" --out "$scratch/one.h5" "${what[@]}"
check "a run with --check" "$code" -eq 0
contains "... names the device" "$out" "device    cuda, "
contains "... works in f64" "$out" "matrices  15: 0 ended in f32, 15 in f64, 0 by gesvd; 0 repaired"
expected=$(data_of "$scratch/one.h5")
t2 inspect "$scratch/one.h5"
contains "the file has the method" "$out" "cusolver f64 5"
contains "... and the device" "$out" "device        cuda, "
for n in 2 3; do
    ranks $n decompose "$model" --out "$scratch/more.h5" "${what[@]}"
    check "$n ranks give the same bits" "$(data_of "$scratch/more.h5")" = "$expected"
done
contains "ranks that share devices are told" "$err" "3 ranks share"
T2_DEVICE=cuda t2 decompose "$model" --out "$scratch/more.h5" --modules mlp --check --threads 1
check "T2_DEVICE stands for auto; one worker gives the same bits" \
    "$(data_of "$scratch/more.h5")" = "$expected"
T2_DEVICE=cuda t2 decompose "$model" --out "$scratch/cpu.h5" --modules mlp --device cpu
contains "... but not for what was asked for" "$out" "15 ended in f32"
T2_DEVICE=cuda t2 decompose "$model" --out "$scratch/cpu.h5" --modules mlp --device cpu --resume
contains "... which is then there" "$out" "nothing to do"
t2 decompose "$model" --out "$scratch/cpu.h5" --modules mlp --device cuda --resume
check "a device does not go on with what the processor has begun" "$code" -eq 1
contains "... which is told" "$err" "other options"

# Kills: what is finished stays.
"$T2_BINARY" decompose "$model" --out "$scratch/killed.h5" "${what[@]}" >"$scratch/log" 2>&1 &
pid=$!
for _ in $(seq 600); do
    parts=("$scratch"/killed.h5.parts/[0-9]*.h5)
    [ ${#parts[@]} -ge 3 ] && break
    kill -0 $pid 2>/dev/null || break
    sleep 0.05
done
kill -9 $pid 2>/dev/null || true
wait $pid 2>/dev/null || true
ranks 2 decompose "$model" --out "$scratch/killed.h5" "${what[@]}" --resume
check "a killed run goes on" "$code" -eq 0
check "... and gives the same bits" "$(data_of "$scratch/killed.h5")" = "$expected"
finish
