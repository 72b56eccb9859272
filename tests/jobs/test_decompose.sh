#!/usr/bin/env bash
# t2 decompose as a person runs it: plans, runs, kills and what is left of them, wrong options, bad
# weights, full disks.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

model=${T2_SOURCE:?}/data/mini
if [ ! -e "$model/config.json" ]; then
    echo "SKIPPED: no model in data/mini"
    exit 77
fi
if ! command -v h5dump >/dev/null; then
    echo "SKIPPED: no h5dump (hdf5-tools)"
    exit 77
fi

# The datasets of a factor file without attributes (which hold times), as one number.
data_of() {
    h5dump -A 0 -m %.9g -g /layers "$1" | tail -n +2 | sha256sum
}

# Options and help.
t2 decompose --help
contains "--help shows the methods" "$out" "auto|lapack|one-stage|two-stage|scalapack|elpa|gesvd"
t2 decompose "$model"
check "no --out is a mistake" "$code" -eq 2
contains "... that is told" "$err" "--out is missing"
t2 decompose --out "$scratch/x.h5"
check "no MODEL is a mistake" "$code" -eq 2
t2 decompose --out "$scratch/x.h5" --model-shape llama3-8b
contains "a shape is for plans" "$err" "--model-shape is for --plan"
t2 decompose "$model" --out "$scratch/x.h5" --modules mlq
check "unknown modules are an error" "$code" -eq 1
contains "... that names the choices" "$err" "attention"
t2 decompose "$model" --out "$scratch/x.h5" --layers 7
check "layers that are not there are an error" "$code" -eq 1
t2 decompose "$model" --out "$scratch/x.h5" --precison f32
contains "a misspelt option is told the nearest" "$err" "did you mean --precision"
t2 decompose "$model" --out "$scratch/none/x.h5"
contains "a folder that does not exist is told first" "$err" "--out $scratch/none/x.h5: the folder"
t2 decompose "$model" --out "$scratch/x.h5" --ranks 4
contains "ranks are planned, not asked for" "$err" "for --plan"

# Plans.
t2 decompose --plan --model-shape llama3-70b --ranks 512 --ranks-per-node 64 -t 1 \
    --costs "$scratch/costs.ini"
check "a plan for ranks that are not there" "$code" -eq 0
contains "... counts its matrices" "$out" "240 matrices on 512 ranks of 1 thread, 8 nodes"
contains "... and predicts time" "$out" "predicted time"
contains "... and memory" "$out" "memory per rank"
check "costs are left in a file" -s "$scratch/costs.ini"
t2 decompose --plan "$model" --costs "$scratch"
contains "a folder is no file of costs" "$err" "$scratch: cannot be read: Is a directory"
t2 decompose --plan "$model" --costs "$scratch/costs.ini" --verbose
contains "a plan for a model" "$out" "15 matrices on 1 rank"
contains "... with every matrix" "$out" "/layers/04/mlp.down_proj"
t2 decompose --plan --model-shape llama3-9b
contains "an unknown shape names the nearest" "$err" "did you mean llama3-8b"

# A run, and the same on two ranks.
what=(--modules all --precision f64 --check --threads 1)
t2 decompose "$model" --out "$scratch/one.h5" "${what[@]}"
check "a run" "$code" -eq 0
contains "... sums itself up" "$out" "matrices  35: 0 ended in f32, 35 in f64"
check "... leaves no parts" ! -e "$scratch/one.h5.parts"
expected=$(data_of "$scratch/one.h5")
ranks 2 decompose "$model" --out "$scratch/two.h5" "${what[@]}"
check "two ranks give the same bits" "$(data_of "$scratch/two.h5")" = "$expected"
t2 inspect "$scratch/two.h5"
contains "t2 inspect shows it" "$out" "matrices      35"
t2 decompose "$model" --out "$scratch/two.h5" "${what[@]}" --resume
check "a complete file needs nothing" "$code" -eq 0
contains "... and says so" "$out" "nothing to do"
t2 decompose "$model" --out "$scratch/two.h5" --modules all --resume
check "other options are not mixed" "$code" -eq 1
contains "... which is told" "$err" "other options"

# Ranks that are killed, at any moment: what is finished stays.
cat >"$scratch/rank.sh" <<'EOF2'
if [ "$OMPI_COMM_WORLD_RANK" = "$VICTIM" ]; then
    (sleep "$DELAY"; kill -9 $$) >/dev/null 2>&1 &
fi
exec "$T2_BINARY" "$@"
EOF2
export T2_BINARY VICTIM DELAY
killed=0 resumed=0 same=0 n=0
for DELAY in 0.3 0.45 0.6; do
    n=$((n + 1))
    VICTIM=$((n % 2))
    rm -rf "$scratch/killed.h5" "$scratch/killed.h5.parts"
    # Again and again, until one run is through.
    for again in 1 2 3; do
        [ "$again" -lt 3 ] || VICTIM=none
        run timeout 60 "$T2_MPIRUN" --oversubscribe --bind-to none -n 2 bash "$scratch/rank.sh" \
            decompose "$model" --out "$scratch/killed.h5" "${what[@]}" --resume -q
        [ "$code" -ne 124 ] || break
        [ "$code" -eq 0 ] && break
        killed=$((killed + 1))
    done
    case $out in *"from before"*) resumed=$((resumed + 1)) ;; esac
    if [ "$code" -eq 0 ] && [ ! -e "$scratch/killed.h5.parts" ] &&
        [ "$(data_of "$scratch/killed.h5")" = "$expected" ]; then
        same=$((same + 1))
    fi
done
check "killed runs, resumed, give the same bits ($killed killed, $resumed resumed with parts)" \
    "$same" -eq "$n"

# One process, killed later and later until it is through: at its start, between matrices, and with
# all parts there in the merge.
ms=40 kills=0 code=137
while [ "$code" -eq 137 ] && [ "$kills" -lt 60 ]; do
    run timeout -s KILL "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))" "$T2_BINARY" decompose \
        "$model" --out "$scratch/merge.h5" "${what[@]}" --resume -q 2>/dev/null
    kills=$((kills + 1)) ms=$((ms + ms / 4))
done 2>/dev/null
check "a run killed $((kills - 1)) times is through at last" "$code" -eq 0
check "... with the same bits" "$(data_of "$scratch/merge.h5")" = "$expected"

# Parts that are there are not overwritten.
mkdir "$scratch/new.h5.parts"
t2 decompose "$model" --out "$scratch/new.h5"
check "parts of another run are not overwritten" "$code" -eq 1
contains "... which names --resume" "$err" "--resume goes on with them"
if command -v flock >/dev/null; then
    run flock "$scratch/new.h5.parts" "$T2_BINARY" decompose "$model" --out "$scratch/new.h5" --resume
    check "two runs at once on one file are refused" "$code" -eq 1
    contains "... by the second" "$err" "another run is at work on this file"
fi
t2 decompose "$model" --out ""
contains "an empty --out is told at once" "$err" "--out needs the name of a file"

# Another model's factors.
cp -r "$model" "$scratch/model"
weights=$scratch/model/model.safetensors
# Where row 1, column 3 of a bf16 [352, 128] tensor lies: its data begin behind 8 bytes of length and
# the header.
header=$(od -An -t u8 -N 8 "$weights" | tr -d ' ')
start=$(dd if="$weights" bs=1 skip=8 count="$header" status=none |
    grep -o '"model.layers.2.mlp.gate_proj.weight": *{[^}]*}' |
    sed 's/.*"data_offsets": *\[ *\([0-9]*\).*/\1/')
at=$((8 + header + start + 2 * 131))
printf '\x01\x3f' | dd of="$weights" bs=1 seek="$at" conv=notrunc status=none
t2 decompose "$scratch/model" --out "$scratch/two.h5" "${what[@]}" --resume
check "another model's factors are not resumed" "$code" -eq 1
contains "... which is told" "$err" "two.h5"
printf '\xc0\x7f' | dd of="$weights" bs=1 seek="$at" conv=notrunc status=none
ranks 2 decompose "$scratch/model" --out "$scratch/nan.h5" --threads 1
check "a NaN ends all ranks" "$code" -eq 1
contains "... named by tensor and element" "$err" \
    "model.layers.2.mlp.gate_proj.weight: the weight in row 1, column 3 is NaN"
check "... once" "$(grep -c "is NaN" "$scratch/err")" -eq 1
check "... and makes no file" ! -e "$scratch/nan.h5"

# No room: a limit on file sizes, and where we may, a small disk.
run bash -c "ulimit -f 64; exec \"$T2_BINARY\" decompose \"$model\" --out \"$scratch/limit.h5\""
check "a file-size limit is a failure" "$code" -eq 1
check "... told in one line" "$(grep -c . "$scratch/err")" -eq 1
check "... that leaves no file" ! -e "$scratch/limit.h5"
check "... nor pieces of one" "$(find "$scratch" -name '*.tmp*' | wc -l)" -eq 0
if [ "$(id -u)" -eq 0 ] && mkdir "$scratch/disk" &&
    mount -t tmpfs -o size=700k none "$scratch/disk" 2>/dev/null; then
    t2 decompose "$model" --out "$scratch/disk/f.h5" --threads 1
    check "a full disk is a failure" "$code" -eq 1
    check "... told in one line" "$(grep -c . "$scratch/err")" -eq 1
    check "... that leaves no file" ! -e "$scratch/disk/f.h5"
    mount -o remount,size=8m "$scratch/disk"
    t2 decompose "$model" --out "$scratch/disk/f.h5" --threads 1 --resume
    check "... and goes on when there is room" "$code" -eq 0
    umount "$scratch/disk"
fi
finish
