#!/bin/sh
# Training's speed beside PyTorch's on the same machine in one run: each figure is taken from both in
# turn, ROUNDS times, and the median of each side counts. Prints a table with ratios and ends with
# status 1 where a ratio misses its bar.
#
#   tests/bench/train.sh HF_FOLDER FACTORS.h5
#
#   HF_FOLDER  a model for both; FACTORS.h5: its MLPs', of t2 decompose --modules mlp
#   BUILD      folder of t2 and bench_pass              (build/release)
#   PYTHON     a Python with torch, transformers, h5py  (python3)
#   T2_DATA    folder of the data sets (sst2)
#   ROUNDS 3   STEPS 10 (t2's of a round)   PEER_STEPS 5   BATCH 32   WAY grow | again (the peer's)
#   MPIRUN     "mpirun --bind-to none"
#   BARS=no    print ratios only
# shellcheck disable=SC2317 # functions are called by name from figure
set -eu

[ $# -eq 2 ] || { sed -n '2,/^#   BARS/s/^# \{0,1\}//p' "$0"; exit 2; }
model=$1 factors=$2
here=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD:-build/release} python=${PYTHON:-python3} mpirun=${MPIRUN:-mpirun --bind-to none}
batch=${BATCH:-32} rounds=${ROUNDS:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1

median() {
    sort -g "$1" | awk '{x[NR] = $1} END {if (!NR) exit 1
        print (x[int((NR + 1) / 2)] + x[int(NR / 2) + 1]) / 2}'
}
# The seconds of a median step: the curve has a step's parts.
our_step() {
    # shellcheck disable=SC2086
    $mpirun -n 2 "$build/t2" train "$model" --factors "$factors" --task sst2 --batch "$batch" \
        --steps "${STEPS:-10}" --seed 1 --dtype bf16 --threads 1 --out "$work/e.h5" --quiet \
        >/dev/null
    for part in rollout gradient reduce other; do
        h5dump -y -w 1 -m %.6f -d "/curve/seconds_$part" "$work/e.h5" |
            awk '/DATA/ {on = 1; next} /}/ {on = 0} on {gsub(/[ ,]/, ""); print}' >"$work/$part"
    done
    paste "$work/rollout" "$work/gradient" "$work/reduce" "$work/other" |
        awk 'NR > 1 {print $1 + $2 + $3 + $4}' >"$work/steps"
    median "$work/steps"
}
peer() {
    "$python" "$here/oracle/svf_train_bench.py" "$model" "$factors" --threads 2 --batch "$batch" \
        --way "${WAY:-grow}" --steps "${PEER_STEPS:-5}" --task "$here/../data/tasks/sst2.ini" "$@" |
        tee -a "$work/peer.log" | tail -n 1
}
their_step() { peer --what step | awk '$1 == "step" {print $2}'; }
our_tokens() {
    "$build/bench_pass" "$model" --threads 2 | awk '/together/ && !n++ {print $4}'
}
their_tokens() { peer --what tokens | awk '{print $2}'; }

missed=0
# figure NAME BAR OURS PEER less|more: bar on the ratio that says how many times better t2 is
figure() {
    round=0
    : >"$work/ours" && : >"$work/theirs"
    while [ $round -lt "$rounds" ]; do
        "$3" >>"$work/ours"
        "$4" >>"$work/theirs"
        round=$((round + 1))
    done
    we=$(median "$work/ours") they=$(median "$work/theirs")
    awk -v n="$1" -v b="$2" -v w="$we" -v t="$they" -v k="$5" -v bars="${BARS:-yes}" 'BEGIN {
        r = (k == "less") ? t / w : w / t
        verdict = (bars == "no") ? "" : (r >= b) ? "ok" : "MISSED"
        printf("%-28s %10.3f %10.3f %7.2f %6s %s\n", n, w, t, r, b, verdict)
        exit (verdict == "MISSED") }' || missed=1
}

printf '%-28s %10s %10s %7s %6s   (2 cores, bf16)\n' figure t2 PyTorch ratio bar
figure "seconds a step of $batch" 4 our_step their_step less
figure "tokens/s of 32 x 64" 2.3 our_tokens their_tokens more
exit $missed
