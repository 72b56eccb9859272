#!/usr/bin/env bash
# MoSLoRA through t2 train, inspect, eval, generate and export, on the small model of our own.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

mini=${T2_SOURCE:?}/data/mini
export T2_DATA=$scratch/none
cd "$scratch"
short=(--adapter moslora --modules all --batch 8 --shard 3 --steps 4 --seed 7 --rate 1e-2 -q)

# ---- the command line ---------------------------------------------------------------------------
refused() { # refused "part of the sentence" options...
    local part=$1
    shift
    t2 train "$mini" --task add --out e.h5 "$@"
    check "refused: $*" "$code" -ne 0
    contains "... with a sentence" "$err" "$part"
}
refused "two or more experts" --adapter moslora --experts h
refused "letters out of e" --adapter moslora --experts ehx
refused "each once" --adapter moslora --experts ehe
refused "no meaning with --adapter lora" --adapter lora --experts eh
refused "no meaning with --adapter svf" --adapter svf --routing top1
refused "must lie between 0 and the largest" --adapter moslora --curvature 1.5
refused "choose 1 to" --adapter moslora --rank 100
refused "are possible" --adapter moslora --rank 4000
t2 train "$mini" --adapter moslora --plan -t 1 --experts e
check "a plan has possible settings" "$code" -eq 2
contains "... or is told" "$err" "two or more experts"
t2 train "$mini" --adapter moslora --plan -t 1 --rank 100
contains "... and ranks" "$err" "a rank of 100 is not possible for"
t2 train "$mini" --adapter moslora --plan -t 1
check "there is a plan" "$code" -eq 0
t2 train "$mini" --recipe "$T2_SOURCE/jobs/recipes/moslora.ini" --plan -t 1
check "the recipe is one" "$code" -eq 0

# ---- the same bits ------------------------------------------------------------------------------
for dtype in bf16 f32; do
    t2 train "$mini" "${short[@]}" --task add --dtype $dtype --threads 2 --out one.h5 --validate-every 2 --valid-limit 20
    check "$dtype trains" "$code" -eq 0
    for n in 2 3; do
        if sanitized && [ "$n" -ne 3 ]; then
            continue
        fi
        ranks $n train "$mini" "${short[@]}" --task add --dtype $dtype --threads $((n % 2 + 1)) --out many.h5 --validate-every 2 --valid-limit 20
        same "$dtype: $n ranks leave the same bits" one.h5 many.h5
        for column in loss weight_hyperbolic router_entropy curvature_spherical; do
            same "... and the same curve of $column" one.h5 many.h5 /curve/$column
        done
    done
done
kinds=("--chart lorentz --routing top1 --recompute" "--experts ehsp --router layer --shared-a"
    "--experts hs --fixed-curvature --objective reinforce")
for options in "${kinds[@]}"; do
    # shellcheck disable=SC2086
    t2 train "$mini" "${short[@]}" --task sentiment $options --out a.h5 -t 1
    check "$options trains" "$code" -eq 0
    if sanitized; then
        continue
    fi
    # shellcheck disable=SC2086
    ranks 2 train "$mini" "${short[@]}" --task sentiment $options --out b.h5 -t 1
    same "$options: one rank and two" a.h5 b.h5
    t2 eval "$mini" --tasks sentiment --limit 2 -q --adapter a.h5
    check "... and t2 eval runs it" "$code" -eq 0
done

# ---- stopped and resumed ------------------------------------------------------------------------
long=(--adapter moslora --batch 8 --shard 3 --steps 30 --seed 3 --rate 1e-2 -q -t 1 --task add)
t2 train "$mini" "${long[@]}" --out whole.h5
for signal in TERM KILL; do
    rm -f part.h5 part.h5.state
    "$T2_MPIRUN" --oversubscribe --bind-to none -n 2 "$T2_BINARY" train "$mini" "${long[@]}" \
        --checkpoint-every 1 --out part.h5 </dev/null >/dev/null 2>stop.err &
    pid=$!
    for _ in $(seq 1200); do
        if [ -e part.h5.state ] || [ -e part.h5 ] || ! kill -0 $pid 2>/dev/null; then
            break
        fi
        sleep 0.02
    done
    if [ $signal = TERM ]; then
        kill -TERM $pid 2>/dev/null || true
    else
        pgrep -P $pid -x t2 | shuf -n 1 | xargs -r kill -KILL 2>/dev/null || true
    fi
    wait $pid || true
    ranks 3 train "$mini" "${long[@]}" --out part.h5 --resume
    check "after SIG$signal it goes on, on other ranks" "$code" -eq 0
    same "... to the same bits" whole.h5 part.h5 /layers /curve/weight_spherical
done

# ---- learning, and the adapter in use -----------------------------------------------------------
steps=40 limit=100
if sanitized; then
    steps=2 limit=10
fi
score() { awk '{ print $2 }' <<<"$out"; }
ranks 2 train "$mini" --adapter moslora --task sentiment --modules all --steps $steps --rate 5e-3 --dtype f32 --out learned.h5 -t 1 -q
check "it trains without factors" "$code" -eq 0
t2 inspect learned.h5
contains "inspect shows the settings" "$out" "experts = ehs"
contains "... the pieces" "$out" "hyperbolic_point"
contains "... and the routers" "$out" "curvature_hyperbolic"
t2 eval "$mini" --tasks sentiment --limit $limit -q --dtype f32
base=$(score)
t2 eval "$mini" --tasks sentiment --limit $limit -q --dtype f32 --adapter learned.h5
learned=$(score)
check "t2 eval runs it" "$code" -eq 0
if ! sanitized; then
    check "it has learned: $base to $learned" "$(awk "BEGIN { print ($learned > $base + 0.1) }")" -eq 1
fi
t2 generate "$mini" "Mia has 12 apples and gets 9 more." --adapter learned.h5 --max-new 4
check "t2 generate runs it" "$code" -eq 0
t2 export "$mini" --adapter learned.h5 --merged merged
check "it cannot be merged" "$code" -ne 0
contains "... and the sentence says what to do" "$err" "run it beside them"
python3 - learned.h5 <<'PYTHON' 2>/dev/null && damaged=yes || damaged=
import sys
data = open(sys.argv[1], "rb").read()
assert b"experts = ehs" in data
open("damaged.h5", "wb").write(data.replace(b"experts = ehs", b"experts = ehz"))
PYTHON
if [ "$damaged" ]; then
    t2 eval "$mini" --tasks sentiment --limit 1 -q --adapter damaged.h5
    check "unknown experts of a file are refused" "$code" -ne 0
    contains "... by name" "$err" "ehz"
fi

# Curvatures have a learning rate of their own.
curvature() { h5dump -d /curve/curvature_spherical -s 19 -c 1 -y -w 1 -m %.6f "$1" | awk '/DATA \{/ { getline; print $1 }'; }
for times in 0 1 20; do
    t2 train "$mini" --adapter moslora --task sentiment --steps 20 --batch 8 --rate 5e-5 --curvature-rate $times --dtype f32 -q -t 1 --out "times$times.h5"
    check "a curvature rate of $times times the others' trains" "$code" -eq 0
done
check "0: curvatures stay" "$(curvature times0.h5)" = 0.500000
check "1: they hardly move" "$(curvature times1.h5 | awk '{ d = $1 - 0.5; print (d * d < 1e-6) }')" -eq 1
check "20, the default: they move" "$(curvature times20.h5 | awk '{ d = $1 - 0.5; print (d * d > 4e-6) }')" -eq 1
t2 train "$mini" --adapter lora --task sentiment --curvature-rate 3 --out no.h5
contains "it is moslora's" "$err" "no meaning with --adapter lora"

finish
