#!/usr/bin/env bash
# What goes wrong from outside: ranks that disagree or die, outputs that cannot be written, inputs
# that are no files. Every run ends, with one sentence and nothing left behind.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

model=${T2_SOURCE:?}/data/mini
add=$model/tasks/add.ini
if [ ! -e "$model/config.json" ]; then
    echo "SKIPPED: no model in data/mini"
    exit 77
fi

# Pipes and devices in place of files.
mkfifo "$scratch/pipe"
run timeout 20 "$T2_BINARY" inspect "$scratch/pipe"
check "a pipe is not waited for" "$code" -eq 1
t2 eval "$model" --tasks "$add" --limit 2 --out "$scratch/pipe"
check "results do not replace a pipe or a device" -p "$scratch/pipe"
contains "... which is told" "$err" "name an ordinary file"

ln -s "$scratch/target.h5" "$scratch/link.h5"
: >"$scratch/target.h5"
t2 eval "$model" --tasks "$add" --limit 2 -q --out "$scratch/link.h5"
check "a link stays a link" -L "$scratch/link.h5"
check "... and its file is written" -s "$scratch/target.h5"

# The standard descriptors.
run bash -c "\"$T2_BINARY\" eval \"$model\" --tasks \"$add\" --limit 2 -q --out \"$scratch/closed.h5\" >&-"
check "a closed stdout is a failure" "$code" -eq 1
t2 inspect "$scratch/closed.h5"
check "... and does not end up in the results" "$code" -eq 0
run bash -c "\"$T2_BINARY\" generate \"$model\" hi -n 3 -q >/dev/full"
check "a full stdout is a failure" "$code" -eq 1
contains "... that is told" "$err" "No space left"
run bash -c "\"$T2_BINARY\" generate \"$model\" - -n 3 <&-"
check "a closed stdin is a failure" "$code" -eq 1

# Told before the work.
printf '%s\n' "hello" "$(printf 'word %.0s' {1..2000})" >"$scratch/prompts.txt"
t2 generate "$model" -f "$scratch/prompts.txt" -n 3
check "a prompt that is too long fails the batch" "$code" -eq 1
check "... before any answer" -z "$out"
contains "... and is named" "$err" "prompts.txt: prompt 2: the prompt has"
printf '{"prompt": "a\\u0000b"}\n' >"$scratch/nul.jsonl"
t2 generate "$model" -f "$scratch/nul.jsonl"
contains "a NUL character cuts no prompt" "$err" "nul.jsonl:1: the prompt holds a NUL"
t2 eval "$model" --tasks "$add,$model/tasks/choice.ini" --fewshot 200 --limit 4
check "examples that do not fit fail all tasks" "$code" -eq 1
check "... before the first" -z "$out"
contains "... with the fix" "$err" "use fewer examples"

# Ranks that disagree, and one that dies.
cat >"$scratch/rank.sh" <<'EOF'
if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then
    case $TROUBLE in
    options) set -- "$@" --limit 3 ;;
    data) export T2_DATA=$OTHER_DATA ;;
    kill) (sleep 1; kill -9 $$) & ;;
    esac
fi
exec "$T2_BINARY" "$@"
EOF
mkdir -p "$scratch/tasks" "$scratch/other"
cp "$add" "$scratch/tasks/add.ini"
cp -r "$model/data/add" "$scratch/other/"
sed -i '$d' "$scratch/other/add/test.jsonl"
export T2_BINARY T2_DATA=$model/data OTHER_DATA=$scratch/other TROUBLE
trouble() {
    TROUBLE=$1
    run timeout 60 "$T2_MPIRUN" --oversubscribe --bind-to none -n 2 bash "$scratch/rank.sh" \
        eval "$model" --tasks "$scratch/tasks/add.ini" -q --batch 1 --out "$scratch/ranks.h5"
}
trouble options
check "ranks with different options end" "$code" -eq 2
contains "... with a sentence" "$err" "different command lines"
trouble data
check "ranks with different data end" "$code" -eq 1
contains "... with a sentence" "$err" "the data set add is not the same on all ranks"
# Work for minutes, so that the rank dies in the middle of it.
awk 'BEGIN { for (i = 0; i < 3000; i++) print "Mia has 12 apples" }' >"$scratch/prompts.txt"
TROUBLE="kill"
run timeout 60 "$T2_MPIRUN" --oversubscribe --bind-to none -n 2 bash "$scratch/rank.sh" \
    generate "$model" --batch-file "$scratch/prompts.txt" --raw --ignore-eos -n 200 --batch 1 -q
check "a killed rank ends the job" "$code" -ne 0
check "... soon" "$code" -ne 124

check "nothing is left behind" "$(find "$scratch" -name '*.tmp*' | wc -l)" -eq 0
finish
