#!/usr/bin/env bash
# t2 eval as a person types it, on the small model of our own.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

mini=${T2_SOURCE:?}/data/mini
model=$mini
if [ ! -e "$model/config.json" ] || [ ! -d "$mini/tasks" ]; then
    echo "SKIPPED: no model in data/mini"
    exit 77
fi
export T2_DATA=$scratch/none
tasks=
for task in "$mini"/tasks/*.ini; do
    tasks=$tasks${tasks:+,}$task
done
# Fewer items where sanitizers make each dear.
limit=40
! sanitized || limit=8
n_tasks=$(find "$mini/tasks" -name '*.ini' | wc -l)

t2 eval "$model"
check "tasks must be named" "$code" -eq 1
contains "... and the known ones are listed" "$err" "arc_easy"
t2 eval "$model" --tasks arc_eazy
contains "a misspelt task suggests the nearest" "$err" "did you mean arc_easy?"
t2 eval "$model" --tasks add --limit 5
check "a model's own tasks are known by name" "$code" -eq 0
contains "... and scored" "$out" "add "
t2 eval "$model" --tasks gsm8k
check "absent data is a failure" "$code" -eq 1
contains "... that says where it is published" "$err" "https://github.com/openai/grade-school-math"
t2 eval "$model" --tasks "$tasks" --out "$scratch/no/such/r.h5"
check "an impossible --out fails before the work" "$code" -eq 1
contains "... with a sentence" "$err" "does not exist"
t2 eval "$model" --tasks "$tasks" --chat --raw
check "--chat and --raw exclude each other" "$code" -eq 2

t2 eval "$model" --tasks "$tasks" --limit $limit --out "$scratch/a.h5"
check "tasks are scored" "$code" -eq 0
rows=$out
check "one row a task" "$(wc -l <<<"$rows")" -eq "$n_tasks"
check "of five columns" "$(awk 'NF == 5 && $2 ~ /^[01]\.[0-9][0-9][0-9][0-9]$/ && $4 == '$limit'' <<<"$rows" | wc -l)" -eq "$n_tasks"
contains "the head goes to stderr" "$err" "tokens/s"

# The same whatever the batch, the chunks, the ranks and the threads: scores and every item.
same_scores() {
    check "$1" "$(awk '{ print $1, $2, $3, $4 }' <<<"$out")" = "$(awk '{ print $1, $2, $3, $4 }' <<<"$rows")"
    if command -v h5diff >/dev/null; then
        for task in "$mini"/tasks/*.ini; do
            name=$(basename "$task" .ini)
            same "... $name item by item" "$scratch/a.h5" "$scratch/b.h5" "/tasks/$name/items"
        done
    fi
}
t2 eval "$model" --tasks "$tasks" --limit $limit --batch 7 --chunk 17 --no-share-prefix --threads 1 -q --out "$scratch/b.h5"
check "quiet is quiet" -z "$err"
same_scores "batch 7, chunks of 17, nothing shared, one thread"
ranks 3 eval "$model" --tasks "$tasks" --limit $limit --batch 1 -q --out "$scratch/b.h5"
same_scores "three ranks, batch 1"

ranks 2 eval "$model" --tasks "$tasks" --limit $limit --threads 2 --chunk 1 -q --out "$scratch/b.h5"
same_scores "two ranks of two threads, chunks of 1"
ranks 4 eval "$model" --tasks "$tasks" --limit $limit --threads 1 -q --out "$scratch/b.h5"
same_scores "four ranks"

# bf16 products below AMX are one order of additions, f32 ones are one order everywhere.
for dtype in bf16 f32; do
    t2 eval "$model" --tasks "$tasks" --limit $limit --dtype $dtype --isa plain -q --out "$scratch/a.h5"
    rows=$out
    for isa in avx2 avx512 avx512bf16 amx; do
        t2 eval "$model" --tasks "$tasks" --limit $limit --dtype $dtype --isa $isa -q --batch 5 --out "$scratch/b.h5"
        if [ "$code" -ne 0 ]; then
            contains "$isa is refused where it is not there" "$err" "choose that or auto"
        elif [ $isa != amx ] || [ $dtype = f32 ]; then
            same_scores "$dtype on $isa is $dtype in plain C"
        fi
    done
done

printf 'Sum: {question} =\n' >"$scratch/prompt.txt"
t2 eval "$model" --tasks add --limit 3 --prompt-file "$scratch/prompt.txt" --out "$scratch/c.h5"
check "a prompt file is taken" "$code" -eq 0
t2 eval "$model" --tasks add --limit 3 --prompt-file "$scratch/none.txt"
check "... and must be there" "$code" -eq 1
contains "... or is named" "$err" "none.txt: cannot read the prompt file"
t2 eval "$model" --tasks wikisql --raw --limit 3 --data "$T2_SOURCE/tests/fixtures"
check "SQL is asked for and executed" "$code" -eq 0
contains "... with the logical form as second score" "$err" "acc_norm"

t2 inspect "$scratch/a.h5"
check "results are shown" "$code" -eq 0
contains "... with the command" "$out" "--limit $limit"

run bash -c "ulimit -f 4; \"$T2_BINARY\" eval \"$model\" --tasks \"$tasks\" --limit $limit --out \"$scratch/a.h5\""
check "a full disk is a failure" "$code" -eq 1
contains "... with a sentence" "$err" "cannot be written"
t2 inspect "$scratch/a.h5"
check "... and the earlier file is untouched" "$code" -eq 0
finish
