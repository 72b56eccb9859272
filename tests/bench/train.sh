#!/bin/sh
# Training's speed beside PyTorch's on the same machine in one run: each figure is taken from both in
# turn, ROUNDS times, and the median of each side counts. Prints a table with ratios and ends with
# status 1 where a ratio misses its bar.
#
#   tests/bench/train.sh HF_FOLDER FACTORS.h5 [PART...]
#
#   HF_FOLDER  a model for both; FACTORS.h5: its MLPs', of t2 decompose --modules mlp
#   PART       1  seconds a step of SST-2, 2 ranks, against PyTorch on 2 threads
#              2  tokens/s of forward and SVF backward on 32 x 64 tokens against PyTorch
#              3  the same beside what its products alone allow
#              4  tokens/s of rollouts, GSM8K, against transformers' generate
#              5  2 ranks beside two runs of one rank, and the reduction's share of a step
#              all of them when none is named
#
#   BUILD      folder of t2 and bench_pass              (build/release)
#   PYTHON     a Python with torch, transformers, h5py  (python3)
#   T2_DATA    folder of the data sets (sst2, gsm8k)
#   ROUNDS 3   BATCH 32   WAY grow | again (the peer's)   WARM 1: the peer's first steps, not counted
#   STEPS 10 (t2's of a round)   PEER_STEPS 5
#   PROMPTS 64   NEW 200: rollouts     WIDE 256: the batch of part 5
#   MPIRUN     "mpirun --oversubscribe --bind-to none"
#   BARS=no    print ratios only
# shellcheck disable=SC2317,SC2329 # functions are called by name from figure
set -eu

[ $# -ge 2 ] || { sed -n '2,/^#   BARS/s/^# \{0,1\}//p' "$0"; exit 2; }
model=$1 factors=$2
shift 2
parts=${*:-1 2 3 4 5}
here=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD:-build/release} python=${PYTHON:-python3}
mpirun=${MPIRUN:-mpirun --oversubscribe --bind-to none}
batch=${BATCH:-32} rounds=${ROUNDS:-3} prompts=${PROMPTS:-64} new=${NEW:-200} wide=${WIDE:-256}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
export HF_HUB_OFFLINE=1
missed=0

# ---- runs: each prints one number -----------------------------------------------------------------

median() {
    sort -g "$1" | awk '{x[NR] = $1} END {if (!NR) exit 1
        print (x[int((NR + 1) / 2)] + x[int(NR / 2) + 1]) / 2}'
}
# train RANKS EXPERT options...: a training on one thread a rank.
train() {
    n=$1 out=$2
    shift 2
    # shellcheck disable=SC2086
    $mpirun -n "$n" "$build/t2" train "$model" --factors "$factors" --seed 1 --dtype bf16 \
        --threads 1 --out "$out" --quiet "$@" </dev/null >/dev/null
}
# column EXPERT NAME: one value a step.
column() {
    h5dump -y -w 1 -m %.6f -d "/curve/$2" "$1" |
        awk '/DATA/ {on = 1; next} /}/ {on = 0} on {gsub(/[ ,]/, ""); print}'
}
# seconds EXPERT: of each step, the curve has its parts.
seconds() {
    for part in rollout gradient reduce other; do
        column "$1" "seconds_$part" >"$work/$part"
    done
    paste "$work/rollout" "$work/gradient" "$work/reduce" "$work/other" |
        awk '{print $1 + $2 + $3 + $4}'
}
our_step() {
    train 2 "$work/e.h5" --task sst2 --batch "$batch" --steps "${STEPS:-10}"
    seconds "$work/e.h5" | tail -n +2 >"$work/steps" # the first warms up
    median "$work/steps"
}
peer() {
    "$python" "$here/oracle/svf_train_bench.py" "$model" "$factors" --threads 2 --batch "$batch" \
        --way "${WAY:-grow}" --steps "${PEER_STEPS:-5}" --warm "${WARM:-1}" \
        --task "$here/../data/tasks/sst2.ini" "$@" 2>"$work/peer.err" >"$work/peer.log" || {
        tail -n 20 "$work/peer.err" >&2
        return 1
    }
    tail -n 1 "$work/peer.log"
}
their_step() { peer --what step | awk '$1 == "step" {print $2}'; }
our_pass() { "$build/bench_pass" "$model" --threads 2 --repeat "${STEPS:-10}" >"$work/pass"; }
our_tokens() { our_pass && awk '/together/ && !n++ {print $4}' "$work/pass"; }
their_tokens() { peer --what tokens | awk '{print $2}'; }
pass_together() { our_pass && awk '/together/ && !n++ {print $2}' "$work/pass"; }
pass_alone() { awk '/products alone/ && !n++ {print $3}' "$work/pass"; }
our_rollouts() {
    train 2 "$work/e.h5" --task gsm8k --batch "$prompts" --shard $((prompts / 2)) --steps 1 \
        --max-new "$new"
    column "$work/e.h5" length >"$work/length"
    column "$work/e.h5" seconds_rollout | paste "$work/length" - |
        awk -v n="$prompts" '{print n * $1 / $2}'
}
# Prompts as long as GSM8K's are on average, chat format included.
their_rollouts() {
    "$python" "$here/oracle/transformers_bench.py" "$model" --prompt 96 --decode "$new" \
        --batch "$prompts" --repeat 1 2>/dev/null | awk '/^generate/ {print $NF}'
}
wide_speed() {
    column "$1" tokens_per_second | tail -n +2 >"$work/speed"
    median "$work/speed"
}
two_ranks() {
    train 2 "$work/two.h5" --task sst2 --batch "$wide" --steps 3 && wide_speed "$work/two.h5"
}
two_runs() {
    train 1 "$work/a.h5" --task sst2 --batch "$wide" --steps 3 &
    train 1 "$work/b.h5" --task sst2 --batch "$wide" --steps 3 && wait $!
    a=$(wide_speed "$work/a.h5") b=$(wide_speed "$work/b.h5")
    echo "$a $b" | awk '{print $1 + $2}'
}
reduction() {
    column "$work/two.h5" seconds_reduce >"$work/x"
    median "$work/x"
}
whole_step() {
    seconds "$work/two.h5" >"$work/x"
    median "$work/x"
}

# ---- figures --------------------------------------------------------------------------------------

# figure PART NAME BAR OURS PEER less|more: bar on the ratio that says how many times better t2 is
figure() {
    round=0
    : >"$work/ours" && : >"$work/theirs"
    while [ "$round" -lt "$rounds" ]; do
        "$4" >>"$work/ours"
        "$5" >>"$work/theirs"
        round=$((round + 1))
    done
    we=$(median "$work/ours") they=$(median "$work/theirs")
    awk -v p="$1" -v n="$2" -v b="$3" -v w="$we" -v t="$they" -v k="$6" -v bars="${BARS:-yes}" '
        BEGIN {
            r = (k == "less") ? t / w : w / t
            verdict = (bars == "no") ? "" : (r >= b) ? "ok" : "MISSED"
            printf("%-4s %-42s %10.3f %10.3f %7.2f %6s %s\n", p, n, w, t, r, b, verdict)
            exit (verdict == "MISSED") }' || missed=1
}
title() { printf '%-4s %-42s %10s %10s %7s %6s\n' part "$1" "$2" "$3" ratio bar; }
part_1() {
    title '2 cores' t2 PyTorch
    figure 1 "seconds a step of $batch, SST-2, bf16" 4 our_step their_step less
}
part_2() {
    title '2 cores' t2 PyTorch
    figure 2 'tokens/s of 32 x 64, bf16' 2.3 our_tokens their_tokens more
}
part_3() {
    title 'ms' pass 'products'
    figure 3 'forward and backward of 32 x 64' 0.75 pass_together pass_alone less
}
part_4() {
    title 'rollouts' t2 transformers
    figure 4 "tokens/s, $prompts prompts x $new, 2 ranks" 4 our_rollouts their_rollouts more
}
part_5() {
    title "SST-2, batch of $wide" '2 ranks' '2 runs'
    figure 5 'tokens/s' 0.95 two_ranks two_runs more
    title '' reduction step
    rounds=1
    figure 5 'seconds' 100 reduction whole_step less
}

for part in $parts; do
    case $part in
    [1-5]) "part_$part" ;;
    *)
        echo "train.sh: there is no part $part" >&2
        exit 2
        ;;
    esac
done
exit $missed
