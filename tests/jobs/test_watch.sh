#!/usr/bin/env bash
# The live curve of t2 train and t2 watch: a running, a killed, a resumed and a finished training.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

mini=${T2_SOURCE:?}/data/mini
export T2_DATA=$scratch/none LC_ALL=C
cd "$scratch"
task=(train "$mini" --task add --factors f.h5 --modules all --batch 4 --shard 2 --seed 7
    --validate-every 10 --valid-limit 10 --threads 1)

# steps FILE: how many the live curve has, as h5dump reads it.
steps() { h5dump -H -d /curve/reward "$1" 2>/dev/null | sed -n 's/.*SIMPLE { ( \([0-9]*\) .*/\1/p' || true; }
# until_step N: of e.live.h5, at most a minute.
until_step() {
    local n
    for _ in $(seq 600); do
        n=$(steps e.live.h5)
        [ "${n:-0}" -lt "$1" ] || break
        sleep 0.1
    done
}
same_curves() { # same_curves "statement" a b: all but the times
    local name different=
    for name in reward accuracy kl loss gradient_norm entropy length rate one_answer_share; do
        h5diff "$2" "$3" "/curve/$name" "/curve/$name" >/dev/null 2>&1 || different="$different $name"
    done
    check "$1" "$different" = ""
}
# Whoever still runs when a check ends the script.
watcher='' training=''
trap 'kill -9 $watcher $training 2>/dev/null || true; rm -rf "$scratch"' EXIT
t2 decompose "$mini" --modules all --out f.h5 -q

# ---- finished -----------------------------------------------------------------------------------
t2 "${task[@]}" --steps 12 --out e.h5
check "a training with a live curve" "$code" -eq 0
check "... beside its expert" -s e.live.h5
check "... which has the expert's own curve" "$(h5diff e.h5 e.live.h5 /curve /curve 2>&1)" = ""
check "... and validations" "$(h5diff e.h5 e.live.h5 /validation /validation 2>&1)" = ""
t2 "${task[@]}" --steps 12 --out off.h5 --live off
check "--live off" "$code" -eq 0
check "... leaves none" ! -e off.live.h5
check "the expert's bits are not affected" "$(h5diff e.h5 off.h5 /layers /layers 2>&1)" = ""
t2 watch e.live.h5
check "a finished training is shown and left" "$code" -eq 0
contains "... with its end" "$out" "add, svf: finished"
contains "... steps" "$out" "step 12 of 12"
contains "... and validations" "$out" "validation:"
t2 watch e.h5
contains "so is the expert" "$out" "add, svf: finished"
t2 inspect e.live.h5
contains "inspect knows a live curve" "$out" "live curve of t2 train"
t2 report e.live.h5
check "a report is not made of it alone" "$code" -eq 1
contains "... and says what is" "$err" "t2 watch"
t2 report e.h5 e.live.h5 --format md
check "beside its expert it is passed over" "$code" -eq 0

# ---- nothing of it ends a training ---------------------------------------------------------------
t2 "${task[@]}" --steps 2 --out other.h5 --live no/such/x.h5
check "a folder that is not there costs the curve, not the training" "$code" -eq 0
echo mine >mine.h5
t2 "${task[@]}" --steps 2 --out other2.h5 --live mine.h5
check "a file of another kind" "$code" -eq 0
check "... stays" "$(cat mine.h5)" = mine
check "... and costs a line" "$(grep -c "goes on without a live curve" <<<"$err")" -eq 1
t2 "${task[@]}" --steps 2 --out e9.h5 --live e9.h5
check "the expert's own name is refused" "$code" -eq 1
contains "... with a sentence" "$err" "is --out's file"

# ---- running, killed, resumed --------------------------------------------------------------------
rm -f e.h5 e.live.h5
"$T2_BINARY" watch e.h5 --every 0.2 >log 2>log.err </dev/null &
watcher=$!
for _ in $(seq 100); do
    [ ! -s log.err ] || break
    sleep 0.1
done
"$T2_BINARY" "${task[@]}" --steps 100000 --checkpoint-every 3 --out e.h5 >/dev/null 2>&1 </dev/null &
training=$!
until_step 8
check "a running training's rows are seen by h5dump" "$(steps e.live.h5)" -ge 8
t2 watch e.live.h5 --once
contains "it is shown as running" "$out" "add, svf: running"
contains "... with the time left" "$out" " left"
ln off.h5 e.h5
t2 watch e.h5 --once
contains "... also where an earlier expert has its name" "$out" "add, svf: running"
rm e.h5
kill -9 $training
wait $training 2>/dev/null || true
training=''
rows=$(steps e.live.h5)
check "killed, it is readable as it was" "$rows" -ge 8
contains "... whole" "$(h5dump -d /validation/score -d /state e.live.h5 2>&1)" '"running"'
code=0
wait $watcher || code=$?
watcher=''
check "whoever watches is told" "$code" -eq 1
contains "... that it waited" "$(cat log.err)" "waiting for e.h5"
contains "... what it saw" "$(cat log)" "of 100000"
contains "... and that it is gone" "$(tail -n 1 log)" "gone without a word"
t2 watch e.live.h5
contains "later too" "$out" "gone without a word"
t2 watch e.h5.state --once
contains "a state is shown" "$out" "saved state"
run timeout 20 "$T2_BINARY" watch e.h5.state
check "the state it left is one to resume" "$code" -eq 75
saved=$(sed -n 's/.*step \([0-9]*\) of 100000.*/\1/p' <<<"$out")
check "... with no more rows than were live" "$saved" -le "$rows"
cp e.live.h5 killed.h5

"$T2_BINARY" "${task[@]}" --steps 100000 --checkpoint-every 3 --resume --out e.h5 >/dev/null 2>&1 </dev/null &
training=$!
for _ in $(seq 600); do
    [ "$(h5dump -a began_step e.live.h5 2>/dev/null | sed -n 's/.*(0): //p')" = "$saved" ] && break
    sleep 0.1
done
check "a resumed one goes on after the state's step" \
    "$(h5dump -a began_step e.live.h5 | sed -n 's/.*(0): //p')" -eq "$saved"
until_step $((rows + 2))
kill -TERM $training
wait $training || true
training=''
check "... with more rows" "$(steps e.live.h5)" -ge $((rows + 2))
t2 watch e.live.h5
check "one that was stopped can be resumed" "$code" -eq 75
contains "... and says so" "$out" "stopped as asked"
h5dump -d /curve/loss -s 0 -c "$saved" -y -o a.txt killed.h5 >/dev/null
h5dump -d /curve/loss -s 0 -c "$saved" -y -o b.txt e.live.h5 >/dev/null
check "the rows before the kill are the same" "$(cmp a.txt b.txt 2>&1)" = ""

# ---- several ranks --------------------------------------------------------------------------------
rm -f e.h5 e.live.h5 e.h5.state
ranks 2 "${task[@]}" --steps 12 --out e.h5
check "two ranks leave one live curve" "$code" -eq 0
same_curves "... the same" e.live.h5 off.h5

# ---- what is no curve ------------------------------------------------------------------------------
t2 watch absent.live.h5 --once
check "--once does not wait" "$code" -eq 1
t2 watch none/x.h5
contains "nor does a folder that is not there" "$err" "no folder none"
t2 watch f.h5
contains "factors are no curve" "$err" "neither a live curve"
finish
