#!/usr/bin/env bash
# --device of the commands that run models: wishes that cannot be met, what is recorded, and runs that
# are not gone on with on another device.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

model=${T2_SOURCE:?}/data/mini
unset T2_DEVICE
export T2_STANDIN_DEVICES=2
prompt=(generate "$model" "7 + 5" --max-new 4 --dtype f32)

t2 generate --help
contains "--help shows the devices" "$out" "auto|cpu|cuda[:N]"
t2 "${prompt[@]}" --device cude
check "a device of no known kind is a mistake" "$code" -eq 2
contains "... that names the choices" "$err" "--device: there is no device 'cude': choose auto, cpu"
for wrong in cuda: cuda:-1 cuda:1x cuda:99999999999; do
    t2 "${prompt[@]}" --device "$wrong"
    check "nor is $wrong one" "$code" -eq 2
done
T2_DEVICE=gpu t2 "${prompt[@]}"
check "T2_DEVICE is checked, too" "$code" -eq 1
contains "... and named" "$err" "T2_DEVICE: there is no device 'gpu'"
T2_DEVICE=gpu t2 "${prompt[@]}" --device cpu
check "... where it counts" "$code" -eq 0
answer=$out
for n in 1 2; do
    ranks $n "${prompt[@]}" --device cuda:999
    check "a device that is not there is an error on $n ranks" "$code" -eq 1
    contains "... that says what was asked for" "$err" "--device cuda:999: "
done
check "... in one sentence" "$(grep -c '^t2 generate' "$scratch/err")" -eq 1

t2 eval "$model" --tasks add --limit 2 --device cpu --out "$scratch/r.h5"
t2 inspect "$scratch/r.h5"
contains "results have the device" "$out" "device         cpu"
training=(train "$model" --task "$model/tasks/add.ini" --steps 1 --batch 2 --validate-every 0 --dtype f32)
t2 "${training[@]}" --device cpu --out "$scratch/e.h5"
check "a training" "$code" -eq 0
t2 inspect "$scratch/e.h5"
contains "experts have the device" "$out" "device"

t2 --version
case $out in
*cuda:0*) ;;
*)
    finish || exit 1
    echo "SKIPPED the rest: no CUDA device"
    exit 77
    ;;
esac
t2 "${prompt[@]}" --device cuda:1
check "a prompt on the second device" "$code" -eq 0
check "... gets the processor's answer" "$out" = "$answer"
contains "... and says where" "$err" "cuda, "
T2_DEVICE=cuda ranks 3 eval "$model" --tasks add --limit 3 --out "$scratch/r.h5"
check "T2_DEVICE stands for auto, on 3 ranks" "$code" -eq 0
contains "... which are told that they share" "$err" "3 ranks share"
t2 inspect "$scratch/r.h5"
contains "results have the device" "$out" "device         cuda, "
t2 "${training[@]}" --device cuda --out "$scratch/e.h5" --resume
check "a device does not go on with the processor's training" "$code" -eq 1
contains "... which is told" "$err" "device = cuda"
finish
