#!/usr/bin/env bash
# LoRA, DoRA and (IA)^3 in use: merged and beside the weights, in one table, exported and read back.
# (How they train: test_train.sh. Against PEFT: tests/model/test_adapter_peft.c and test_peft.c.)
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

mini=${T2_SOURCE:?}/data/mini
export T2_DATA=$scratch/none
cd "$scratch"
score() { awk '{ print $2 }' <<<"$out"; }
evaluate() { t2 eval "$mini" --tasks sentiment --limit 40 --dtype f32 -q "$@"; }

kinds=(lora dora ia3)
! sanitized || kinds=(dora)
for kind in "${kinds[@]}"; do
    t2 train "$mini" --adapter "$kind" --task sentiment --steps 8 --rate 1e-2 --batch 8 --dtype f32 -q -t 2 --out "$kind.h5"
    check "$kind trains" "$code" -eq 0
    evaluate --adapter "$kind.h5" --out merged.h5
    merged=$(score)
    evaluate --adapter "$kind.h5" --unmerged --out unmerged.h5
    check "$kind: merged and unmerged score the same" "$(score)" = "$merged"
    ranks 2 eval "$mini" --tasks sentiment --limit 40 --dtype f32 -q --adapter "$kind.h5" --unmerged --out ranks.h5
    same "... item by item on two ranks" unmerged.h5 ranks.h5 /tasks/sentiment/items

    t2 export "$mini" --adapter "$kind.h5" --peft "peft-$kind"
    check "$kind: exported for PEFT" "$code" -eq 0
    check "... two files" "$(find "peft-$kind" -type f | wc -l)" -eq 2
    evaluate --adapter "peft-$kind" --out peft.h5
    same "... and read back, item by item" merged.h5 peft.h5 /tasks/sentiment/items
    t2 export "$mini" --adapter "peft-$kind" --merged "whole-$kind" -q
    t2 eval "whole-$kind" --tasks "$mini/tasks/sentiment.ini" --limit 40 --dtype f32 -q
    check "$kind: the exported model scores the same" "$(score)" = "$merged"
    t2 generate "$mini" "Mia has 2 stones." --adapter "peft-$kind" -q
    check "... and generates" "$code" -eq 0
done

kind=${kinds[0]}
evaluate --adapter "base,$kind.h5,peft-$kind/" --out table.h5
check "several adapters give one table" "$(wc -l <<<"$out")" -eq 4
check "... with the same score for the same adapter" "$(awk 'NR == 3 { s = $4 } NR == 4 { print s == $4 }' <<<"$out")" -eq 1
check "... no parameters for the base model" "$(awk '$1 == "base" { print $2 }' <<<"$out")" = 0
# shellcheck disable=SC2016 # of awk
check "... columns for what it cost and both speeds" "$(awk 'NR == 1 { print $5, $6, $7, $8 }' <<<"$out")" = "s/step peak_MB merged_tokens/s unmerged_tokens/s"
# shellcheck disable=SC2016
check "... all four of an adapter that t2 trained" "$(awk 'NR == 3 { for (i = 5; i <= 8; i++) n += $i > 0; print n }' <<<"$out")" -eq 4
# shellcheck disable=SC2016
check "... the base model's speed alone" "$(awk 'NR == 2 { print $5, $6, ($7 > 0), $8 }' <<<"$out")" = "- - 1 -"
check "... and a results file each" "$(find . -maxdepth 1 -name 'table.*.h5' | wc -l)" -eq 3
check "... with its name" -s "table.peft-$kind.h5"
evaluate --adapter "$kind.h5,./$kind.h5" --out twice.h5
check "two adapters of one name are refused" "$code" -ne 0
contains "... before the second replaces the first's results" "$err" "into the same file"
check "... and nothing is written" -z "$(find . -maxdepth 1 -name 'twice*')"
evaluate --adapter "$kind.h5,,base"
contains "an empty name is told" "$err" "an empty name"
evaluate --adapter "$kind.h5,absent.h5"
check "an absent one fails" "$code" -eq 1
contains "... and is named" "$err" "absent.h5"

t2 export "$mini" --adapter "$kind.h5" --peft "peft-$kind"
contains "an export replaces nothing" "$err" "is there already"
t2 export "$mini" --adapter "$kind.h5" --peft a --merged b
check "--merged or --peft, not both" "$code" -eq 2
t2 export "$mini" --peft a
contains "--peft needs an adapter" "$err" "needs an --adapter"
evaluate --adapter "$mini"
contains "a folder that is no adapter is told" "$err" "without an adapter_config.json"
evaluate --adapter "$kind.h5" --factors "$kind.h5"
contains "factors are SVF's" "$err" "has none"
head -c 300 "peft-$kind/adapter_model.safetensors" >part
mv part "peft-$kind/adapter_model.safetensors"
evaluate --adapter "peft-$kind"
check "a cut file fails" "$code" -eq 1
contains "... and is named" "$err" "adapter_model.safetensors"

finish
