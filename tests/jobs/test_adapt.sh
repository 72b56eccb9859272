#!/usr/bin/env bash
# t2 adapt and t2 transfer on the small model of our own.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

mini=${T2_SOURCE:?}/data/mini
export T2_DATA=$scratch/none
steps=15
! sanitized || steps=2
cd "$scratch"
same_mixture() { # same_mixture "statement" a.h5 b.h5
    same "$@" /layers /mixture /curve/means /scores
}

# ---- experts ------------------------------------------------------------------------------------
t2 decompose "$mini" --modules all --out f.h5 -q
for task in add sentiment; do
    t2 train "$mini" --task $task --modules all --factors f.h5 --batch 32 --steps $steps --rate 1e-2 --clip-norm 0 --test-limit 0 -q --out $task.h5
    check "an expert for $task" "$code" -eq 0
done
t2 train "$mini" --task choice --objective next-token --modules mlp --factors f.h5 --batch 32 --steps $steps --rate 1e-2 --clip-norm 0 --test-limit 0 -q --out choice.h5
check "an expert for choice, of the MLPs alone" "$code" -eq 0
three=(--experts 'add.h5,sentiment.h5,choice.h5' -q)
short=("${three[@]}" --task mixed --shots 6 --population 6 --elite 0.5 --iterations 3 --seed 5 --test-limit 12)

# ---- the command line ---------------------------------------------------------------------------
refused() { # refused "part of the sentence" options...
    local part=$1
    shift
    t2 adapt "$mini" "${short[@]}" --out m.h5 "$@"
    check "refused: $*" "$code" -ne 0
    contains "... with a sentence" "$err" "$part"
}
t2 adapt "$mini" --task mixed --out m.h5
contains "experts must be named" "$err" "--experts is missing"
t2 adapt "$mini" --task mixed --experts add.h5
contains "--out as well" "$err" "--out is missing"
refused "two experts are called add" --experts add.h5,add.h5
refused "no/such.h5" --experts add.h5,no/such.h5
refused "use --no-normalise" --lower -1
refused "not below" --lower 2 --no-normalise
refused "needs a --temperature" --samples 4
refused "counts right answers" --abandon --objective likelihood
refused "fewer than two" --elite 0.1
refused "too large" --method grid --per matrix
refused "sigmoid" --mix p
refused "takes all of" --sample 6
refused "nothing to search" --experts add.h5
refused "--sample saves work" --method grid --sample 3
refused "--abandon saves work" --method uniform --abandon
refused 'the split "train" has 94 items' --shots 101
refused "mixed" --task nothing

# ---- the same bits ------------------------------------------------------------------------------
kinds=("--method cem --weights factored" "--method cmaes --mix delta --no-normalise --lower -1 --per layer --objective likelihood --shrink 0.1"
    "--method cem --per matrix --sample 3 --samples 2 --temperature 0.7" "--method grid --grid 3"
    "--method uniform")
! sanitized || kinds=("${kinds[@]:0:2}")
n=2
for kind in "${kinds[@]}"; do
    read -ra words <<<"$kind"
    t2 adapt "$mini" "${short[@]}" "${words[@]}" --threads 2 --out one.h5
    check "adapts: $kind" "$code" -eq 0
    ranks $n adapt "$mini" "${short[@]}" "${words[@]}" --threads 1 --out many.h5
    same_mixture "$n ranks leave the same bits" one.h5 many.h5
    n=$((5 - n))
done
t2 adapt "$mini" "${short[@]}" --weights merged --threads 2 --out one.h5
ranks 3 adapt "$mini" "${short[@]}" --weights merged --threads 1 --out many.h5
same_mixture "3 ranks leave the same bits" one.h5 many.h5
t2 adapt "$mini" "${short[@]}" --weights factored --out one.h5
check "a row for base, experts, uniform and mixture" "$(awk 'NF == 7 { n++ } END { print n + 0 }' <<<"$out")" -eq 6
check "quiet is quiet" -z "$err"
check "no state is left" ! -e one.h5.state
rows=$out
t2 inspect one.h5
contains "inspect shows the method" "$out" "adaptation    cem"
contains "... the coefficients" "$out" "coefficients"
contains "... and the scores" "$out" "gap"
t2 adapt "$mini" "${short[@]}" --weights factored --abandon --out abandoned.h5
same_mixture "early abandonment changes nothing" one.h5 abandoned.h5
t2 eval "$mini" --tasks mixed --limit 12 --adapter one.h5 --unmerged -q
check "the mixture's file scores as the table says" "$(awk '{ print $2 }' <<<"$out")" = "$(awk '$1 == "mixture" { print $4 }' <<<"$rows")"
t2 eval "$mini" --tasks mixed --limit 12 --adapter one.h5 -q --out scores.h5
check "... and can be merged" "$code" -eq 0
check "its results keep the coefficients" "$(h5diff one.h5 scores.h5 /mixture/alpha /mixture/alpha 2>&1)" = ""
t2 inspect scores.h5
contains "... which inspect shows" "$out" "coefficients"
t2 eval "$mini" --tasks mixed --limit 4 --experts "${three[1]}" --adapt one.h5 -q --out scores.h5
check "... as the file for all prompts too" "$(h5diff one.h5 scores.h5 /mixture/groups /mixture/groups 2>&1)" = ""
t2 adapt "$mini" "${short[@]}" --shot-split test --test-limit -1 --out same-split.h5
check "shots of the test split are no test items" "$(h5dump -a test_items same-split.h5 | grep -c '(0): 194')" -eq 1

# ---- stopped and taken up -----------------------------------------------------------------------
long=("${three[@]}" --task mixed --shots 4 --population 6 --elite 0.5 --iterations 16 --seed 3 --test-limit 8 --no-normalise --per layer)
! sanitized || long+=(--iterations 6)
t2 adapt "$mini" "${long[@]}" --out whole.h5
check "the whole run" "$code" -eq 0
stop() { # stop SIGNAL PID: when the first state is there
    local tries=0
    while [ ! -e part.h5.state ] && [ ! -e part.h5 ] && [ $tries -lt 1200 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -"$1" "$2" 2>/dev/null || true
    code=0
    wait "$2" || code=$?
}
"$T2_BINARY" adapt "$mini" "${long[@]}" --out part.h5 >/dev/null 2>stop.err &
stop USR1 $!
if [ ! -e part.h5 ]; then
    check "a run that was asked to stop ends with 75" "$code" -eq 75
    contains "... and a sentence" "$(cat stop.err)" "--resume goes on from part.h5.state"
    t2 inspect part.h5.state
    contains "inspect shows the state" "$out" "not finished"
    t2 adapt "$mini" "${long[@]}" --out part.h5
    contains "a state is not thrown away" "$err" "--resume"
    t2 adapt "$mini" "${long[@]}" --out part.h5 --resume --seed 4
    contains "other settings are refused with the line" "$err" "it has 'seed = 3', this run has 'seed = 4'"
    cp part.h5.state keep
    for size in 100 3000 $(($(stat -c %s keep) - 500)); do
        head -c "$size" keep >part.h5.state
        t2 adapt "$mini" "${long[@]}" --out part.h5 --resume
        check "a state cut at $size bytes is refused" "$code" -eq 1
        check "... with a sentence" -n "$err"
    done
    cp one.h5 part.h5.state
    t2 adapt "$mini" "${long[@]}" --out part.h5 --resume
    contains "another file is no state" "$err" "is not the state of an adaptation"
    cp keep part.h5.state
fi
ranks 2 adapt "$mini" "${long[@]}" --out part.h5 --resume
check "it goes on, on other ranks" "$code" -eq 0
same_mixture "... to the same bits" whole.h5 part.h5
t2 adapt "$mini" "${long[@]}" --out part.h5 --resume
check "what is finished is not done again" "$code" -eq 0

rm -f part.h5 part.h5.state
"$T2_MPIRUN" --oversubscribe --bind-to none -n 2 "$T2_BINARY" adapt "$mini" "${long[@]}" --out part.h5 >/dev/null 2>stop.err </dev/null &
stop TERM $!
ranks 3 adapt "$mini" "${long[@]}" --out part.h5 --resume
check "after SIGTERM to mpirun it goes on" "$code" -eq 0
same_mixture "... to the same bits" whole.h5 part.h5

grid=("${three[@]}" --task mixed --shots 2 --population 2 --method grid --grid 6 --iterations 1 --test-limit 2)
t2 adapt "$mini" "${grid[@]}" --out whole.h5
check "a grid is as long as its points" "$(h5dump -a iterations whole.h5 | grep -c '(0): 11')" -eq 1
rm -f part.h5
"$T2_BINARY" adapt "$mini" "${grid[@]}" --out part.h5 >/dev/null 2>&1 &
stop USR1 $!
t2 adapt "$mini" "${grid[@]}" --out part.h5 --resume
check "... and goes on, past --iterations" "$code" -eq 0
same_mixture "... to the same bits" whole.h5 part.h5

t2 adapt "$mini" "${short[@]}" --shots 1 --test-limit 1 --out m.h5
check "of one item there is no standard error" "$(awk '$1 == "base" { print $3 $5 $7 }' <<<"$out")" = "---"
t2 adapt "$mini" "${short[@]}" --samples 2 --temperature 0.7 --out m.h5
check "test items are sampled as the shots are" "$code" -eq 0

# ---- transfer -----------------------------------------------------------------------------------
t2 transfer add.h5 --factors f.h5 --out t.h5 -q
same "a transfer to the same model is the expert" add.h5 t.h5 /layers/00/mlp.up_proj/z
t2 transfer add.h5 --factors f.h5 --order shuffled --seed 1 --out s.h5 -q
check "a shuffled one is not" "$(h5diff add.h5 s.h5 /layers /layers 2>&1 | grep -c differences)" -gt 0
t2 adapt "$mini" "${short[@]}" --experts add.h5,s.h5 --out m.h5
check "what is transferred can be mixed" "$code" -eq 0
t2 decompose "$mini" --modules mlp --layers 0-3 --out few.h5 -q
t2 transfer add.h5 --factors few.h5 --shape truncate --out t.h5
contains "a module that is not there is named" "$err" "self_attn"
t2 decompose "$mini" --modules mlp --layers 1-4 --out late.h5 -q
t2 transfer choice.h5 --factors late.h5 --out t.h5
contains "... and a layer" "$err" "no mlp.down_proj of layer 0"
t2 transfer choice.h5 --factors few.h5 --out t.h5
contains "another depth must be agreed to" "$err" "choose --shape truncate"
for shape in truncate interpolate; do
    t2 transfer choice.h5 --factors few.h5 --shape $shape --out t.h5
    check "$shape" "$code" -eq 0
    contains "... covers what is there" "$out" "12 of 12 matrices, from 12 of the expert's 15"
done
t2 transfer f.h5 --factors f.h5 --out t.h5
contains "factors are no expert" "$err" "is not an expert file"

finish
