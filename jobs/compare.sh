#!/usr/bin/env bash
# Trains the compared adapters on one task with several seeds and prints, for each, parameters, means and
# standard errors of the test score, and seconds. What is there already is kept, so it can be run again.
#
#   jobs/compare.sh MODEL FACTORS.h5 TASK OUT-FOLDER [options of t2 train ...]
#   T2="mpirun -n 4 t2" SEEDS="0 1 2" ADAPTERS="svf lora" jobs/compare.sh MODEL f.h5 mawps compared -t 1
#
# TASK: mawps, sst2, math, wikisql ... The recipes are jobs/recipes/compare-NAME.ini.
set -euo pipefail
if [ $# -lt 4 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 2
fi
model=$1 factors=$2 task=$3 out=$4
shift 4
recipes=$(cd "$(dirname "$0")" && pwd)/recipes
read -ra t2 <<<"${T2:-t2}"
read -ra seeds <<<"${SEEDS:-0 1 2}"
read -ra adapters <<<"${ADAPTERS:-svf svf-next lora dora ia3 moslora}"
mkdir -p "$out"

for adapter in "${adapters[@]}"; do
    for seed in "${seeds[@]}"; do
        row=$out/$task-$adapter-$seed.row
        [ -s "$row" ] && continue
        options=(--recipe "$recipes/compare-$adapter.ini" --task "$task" --seed "$seed")
        case $adapter in svf*) options+=(--factors "$factors") ;; esac
        "${t2[@]}" train "$model" "${options[@]}" "$@" --out "${row%.row}.h5" --resume >"$row.part" </dev/null
        mv "$row.part" "$row"
    done
done

printf '%-10s %6s %12s %10s %10s %10s\n' adapter seeds test_before test_after stderr seconds
for adapter in "${adapters[@]}"; do
    cat "$out/$task-$adapter"-[0-9]*.row | awk -v adapter="$adapter" '
        $6 ~ /^[0-9.]+$/ { n++; before += $5; sum += $6; squares += $6 * $6; seconds += $7 }
        END {
            if (n == 0) exit
            mean = sum / n
            error = n > 1 ? sqrt((squares / n - mean * mean > 0 ? squares / n - mean * mean : 0) / (n - 1)) : 0
            printf "%-10s %6d %12.4f %10.4f %10.4f %10.1f\n", adapter, n, before / n, mean, error, seconds / n
        }'
done
