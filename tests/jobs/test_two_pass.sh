#!/usr/bin/env bash
# Experts that are chosen prompt by prompt, on the small model of our own: strategies "prompt" and
# "cls" from training to evaluation and generation (docs/adaptation.md).
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

mini=${T2_SOURCE:?}/data/mini
export T2_DATA=$scratch/none
cd "$scratch"
experts=add.h5,sentiment.h5,choice.h5
tasks=add,sentiment,choice

# ---- experts ------------------------------------------------------------------------------------
t2 decompose "$mini" --modules all --out f.h5 -q
steps() { # what is asked for, or 2, too few to be good
    if sanitized; then echo 2; else echo "$1"; fi
}
train() { # train TASK OUT STEPS
    t2 train "$mini" --recipe "$T2_SOURCE/jobs/recipes/mini.ini" --factors f.h5 --task "$1" \
        --out "$2" --steps "$(steps "$3")" --objective next-token --validate-every 0 \
        --test-limit 0 -q
    check "$2 is trained" "$code" -eq 0
}
train add add.h5 4
train sentiment sentiment.h5 8
train choice choice.h5 8
train cls cls.h5 60

t2 train "$mini" --task cls:add,nothing --out x.h5
contains "cls of an unknown task is refused" "$err" "task nothing is not known"
t2 train "$mini" --task cls:add,cls --out x.h5
contains "cls of itself is refused" "$err" "cannot be made of cls"
t2 eval "$mini" --tasks cls:add,sentiment --limit 8 --split valid
check "cls is a task as others" "$(awk 'NF == 5 && $1 == "cls" { n++ } END { print n + 0 }' <<<"$out")" -eq 1

# ---- the command line ---------------------------------------------------------------------------
refused() { # refused "part of the sentence" options...
    local part=$1
    shift
    t2 eval "$mini" --tasks add "$@"
    check "refused: $*" "$code" -ne 0
    contains "... with a sentence" "$err" "$part"
}
refused "--experts needs --adapt" --experts $experts
refused "--adapt needs --experts" --adapt prompt
refused "needs --cls-expert" --experts $experts --adapt cls
refused "no meaning without --adapt cls" --experts $experts --adapt prompt --cls-expert cls.h5
refused "exclude each other" --experts $experts --adapt prompt --adapter add.h5
refused "none of the experts has that name" --experts $experts --adapt nobody
refused "both of the domain sum" --experts add.h5,sum=choice.h5 --adapt prompt
refused "belongs to none of the domains" --experts x=cls.h5 --adapt prompt
refused "--domains has no meaning with --adapt add" --experts $experts --adapt add --domains no.ini
sed '/^examples/,/^$/d; s/^way = channel/way = rank/' "$mini/adapt.ini" >bare.ini
refused "has no key 'examples'" --experts $experts --adapt prompt --adapt-way channel --domains bare.ini
refused "no.ini" --experts $experts --adapt prompt --domains no.ini

# ---- evaluation ---------------------------------------------------------------------------------
# right FILE: the smallest share of a task's prompts that went to the right domain, in percent
right() {
    local task share least=100
    for task in ${tasks//,/ }; do
        share=$(h5dump -a "/tasks/$task/adapt/share_right" "$1" | awk '/\(0\)/ { print int(100 * $2) }')
        if [ "$share" -lt "$least" ]; then least=$share; fi
    done
    echo "$least"
}
limit=$(steps 100)
for how in prompt cls; do
    with=(--experts "$experts" --adapt "$how" --limit "$limit")
    if [ $how = cls ]; then with+=(--cls-expert cls.h5); fi
    t2 eval "$mini" --tasks $tasks "${with[@]}" --out one.h5
    check "$how evaluates" "$code" -eq 0
    check "... one row of five columns a task" "$(awk 'NF == 5 { n++ } END { print n + 0 }' <<<"$out")" -eq 3
    contains "... tells the passes' times" "$err" "in pass one)"
    contains "... and the confusion matrix" "$err" "chosen:"
    if ! sanitized; then
        check "$how picks the right expert for 90 % of each task's prompts" "$(right one.h5)" -ge 90
    fi
    ranks 2 eval "$mini" --tasks $tasks "${with[@]}" --out two.h5 --batch 5 --chunk 64
    check "$how on two ranks" "$code" -eq 0
    for task in ${tasks//,/ }; do
        same "... the same items of $task" one.h5 two.h5 "/tasks/$task/items"
        same "... the same choices" one.h5 two.h5 "/tasks/$task/adapt/chosen"
    done
    t2 inspect one.h5
    contains "inspect shows what was chosen" "$out" "prompts by domain"
done

# An expert for all prompts gives what the same file gives as an unmerged adapter.
t2 eval "$mini" --tasks sentiment --limit 20 --adapter sentiment.h5 --unmerged --out alone.h5
t2 eval "$mini" --tasks sentiment --limit 20 --experts $experts --adapt sentiment --out set.h5
same "a fixed expert answers as it does alone" alone.h5 set.h5 /tasks/sentiment/items/answer
t2 eval "$mini" --tasks sentiment --limit 20 --experts $experts --adapt cls.h5
contains "a further file can be the one for all" "$err" "adapt cls.h5: cls 20"

# ---- generation ---------------------------------------------------------------------------------
t2 generate "$mini" --experts $experts --adapt prompt -n 8 \
    $'Is this review positive or negative?\nReview: The soup was so bland.'
check "generate adapts" "$code" -eq 0
contains "... says what was chosen" "$err" "adapt prompt: review, so sentiment answers"
head -6 "$mini/data/add/test.jsonl" | sed 's/"question"/"prompt"/' >p.jsonl
head -6 "$mini/data/reverse/test.jsonl" | sed 's/"letters":"/"prompt":"Reverse: /' >>p.jsonl
t2 generate "$mini" --experts $experts --adapt prompt --batch-file p.jsonl
one=$out
contains "answers name their experts" "$one" '"expert":"add"'
ranks 2 generate "$mini" --experts $experts --adapt prompt --batch-file p.jsonl --batch 2
check "two ranks give the same answers" "$one" = "$out"
finish
