#!/usr/bin/env bash
# Every recipe of the comparison and of few-shot fine-tuning trains a few steps, by next-token prediction and
# by policy gradient.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

recipes=${T2_SOURCE:?}/jobs/recipes
mini=$T2_SOURCE/data/mini
export T2_DATA=$scratch/none
cd "$scratch"

t2 decompose "$mini" --modules all --out f.h5 -q
check "factors" "$code" -eq 0
for recipe in "$recipes"/compare-*.ini "$recipes"/fewshot-*.ini; do
    name=$(basename "$recipe" .ini)
    options=(--task sentiment --steps 2 --batch 4 --validate-every 0 --test-limit 4 --max-new 4 -t 1)
    case $name in compare-svf*) options+=(--factors f.h5) ;; esac
    t2 train "$mini" --recipe "$recipe" "${options[@]}" -q --out "$name.h5"
    check "$name trains" "$code" -eq 0
    check "... two steps" "$(awk '{ print $2 }' <<<"$out")" = 2
    t2 inspect "$name.h5"
    check "... and leaves an expert" "$code" -eq 0
done
# As few-shot fine-tuning is run: all shots in every step.
t2 train "$mini" --recipe "$recipes/fewshot-ia3.ini" --task sentiment --train-limit 3 --batch 3 --steps 3 --test-limit 4 -q -t 1 --out shots.h5
check "three shots, full batches" "$code" -eq 0

finish
