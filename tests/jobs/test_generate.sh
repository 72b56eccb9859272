#!/usr/bin/env bash
# t2 generate as a person types it, on the small model of our own.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

model=${T2_SOURCE:?}/data/mini
if [ ! -e "$model/config.json" ]; then
    echo "SKIPPED: no model in data/mini"
    exit 77
fi

t2 generate --help
check "help leaves with 0" "$code" -eq 0
contains "help names the arguments" "$out" "usage: t2 generate [options] MODEL [PROMPT]"

t2 generate "$model" hello --max-nwe 3
check "an unknown option is a usage error" "$code" -eq 2
contains "... that suggests the nearest" "$err" "unknown option --max-nwe, did you mean --max-new?"

t2 generte "$model" hello
check "an unknown command is a usage error" "$code" -eq 2
contains "... that suggests the nearest" "$err" "did you mean 'generate'?"

t2 generate "$model"
check "a missing prompt is a usage error" "$code" -eq 2

t2 generate "$scratch/none" hello
check "a missing model is a failure" "$code" -eq 1
check "... told in one line" "$(wc -l <<<"$err")" -eq 1
contains "... that names it" "$err" "t2 generate: $scratch/none"

for dtype in f32 bf16; do
    t2 generate "$model" "hello" -n 12 --raw --dtype "$dtype"
    check "$dtype: a prompt is answered" "$code" -eq 0
    contains "$dtype: rates go to stderr" "$err" "tokens/s"
    text=$out

    t2 generate "$model" "hello" -n 12 --raw --dtype "$dtype" --chunk 1 --threads 1 -q
    check "$dtype: chunks and threads change nothing" "$out" = "$text"
    check "$dtype: quiet is quiet" -z "$err"

    ranks 2 generate "$model" "hello" -n 12 --raw --dtype "$dtype" -q
    check "$dtype: ranks change nothing" "$out" = "$text"
done

code=0
out=$(printf 'hello\n' | "$T2_BINARY" generate "$model" - -n 12 --raw -q) || code=$?
check "a prompt comes from the standard input" "$out" = "$text"

printf '%s\n' "hello" "one two" "a" "the" "zz" >"$scratch/prompts.txt"
for prompt in "hello" "one two" "a" "the" "zz"; do
    printf '{"prompt": "%s"}\n' "$prompt"
done >"$scratch/prompts.jsonl"
sampled=(--raw -n 9 --temperature 1 --seed 3 -q)
t2 generate "$model" --batch-file "$scratch/prompts.jsonl" "${sampled[@]}"
check "a batch is answered line by line" "$(wc -l <<<"$out")" -eq 5
batch=$out
t2 generate "$model" --batch-file "$scratch/prompts.jsonl" "${sampled[@]}" --batch 2
check "the batch size changes no answer" "$out" = "$batch"
for n in 2 3; do
    ranks "$n" generate "$model" --batch-file "$scratch/prompts.jsonl" "${sampled[@]}"
    check "$n ranks change no answer" "$out" = "$batch"
done

echo '{"question": "?"}' >"$scratch/wrong.jsonl"
ranks 2 generate "$model" --batch-file "$scratch/wrong.jsonl"
check "a wrong batch file fails on all ranks" "$code" -eq 1
check "... and is told once" "$(grep -c 'wrong.jsonl:1: the row has no text field' <<<"$err")" -eq 1

printf 'max-new = 12\nraw = yes\n[generate]\nquiet = yes\n' >"$scratch/r.ini"
t2 generate "$model" hello --recipe "$scratch/r.ini"
check "a recipe stands for options" "$out" = "$text"
check "... in silence" -z "$err"
finish
