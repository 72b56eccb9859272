#!/bin/sh
# Speed of t2 beside transformers on the same machine in one run: each figure is taken from both in
# turn, ROUNDS times, and the better one of each side counts. Prints a table with ratios and ends
# with status 1 where a ratio misses its bar.
#
#   tests/bench/speed.sh MODEL HF_FOLDER
#
#   MODEL      what t2 loads (folder or GGUF); HF_FOLDER: the same model for transformers
#   BUILD      folder of t2 and bench_model             (build/release)
#   PYTHON     a Python with torch, transformers, lm-eval  (python3)
#   ROUNDS     2        THREADS 2        BATCHES "1 16 64"
#   DECODE 64  PROMPT 64  SCORE 16x256  ARC 50 (0: leave out; needs T2_DATA)
#   CACHE      KV cache of the peer: dynamic | static | best
#   BARS=no    print ratios only
#   ISA        caps t2 by --isa and the peer by ONEDNN_MAX_CPU_ISA (avx512bf16)
# shellcheck disable=SC2317 # functions are called by name from figure
set -eu

[ $# -eq 2 ] || { sed -n '2,/^#   ISA/s/^# \{0,1\}//p' "$0"; exit 2; }
model=$1 hf=$2
here=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD:-build/release} python=${PYTHON:-python3}
rounds=${ROUNDS:-2} threads=${THREADS:-2}
decode=${DECODE:-64} prompt=${PROMPT:-64} score=${SCORE:-16x256} arc=${ARC:-50}
export OMP_NUM_THREADS="$threads" HF_HUB_OFFLINE=1
isa=${ISA:+--isa $ISA}
if [ "${ISA:-}" = avx512bf16 ]; then
    export ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16
elif [ -n "${ISA:-}" ]; then
    echo "speed.sh: ISA=$ISA: the peer can only be capped to avx512bf16" >&2
    exit 2
fi

# The number of the last line "... tokens/s X": bench_model's "generate batch B", which like the
# peer's counts new tokens over the whole time, prompt included.
rate() {
    awk '{for (i = 1; i < NF; i++) if ($i == "tokens/s") x = $(i + 1)}
         END {if (x == "") exit 1; print x}'
}
better() {
    awk -v a="${1:-0}" -v b="$2" 'BEGIN {print (a > b ? a : b)}'
}
peer() {
    "$python" "$here/oracle/transformers_bench.py" "$hf" --threads "$threads" --repeat 2 \
        --cache "${CACHE:-dynamic}" --decode "$decode" --prompt "$prompt" "$@" 2>/dev/null | rate
}
ours() {
    # shellcheck disable=SC2086
    "$build/bench_model" "$model" --threads "$threads" --dtype bf16 $isa "$@" | rate
}
# The task's row is: name score error items tokens/s
ours_arc() {
    # shellcheck disable=SC2086
    "$build/t2" eval "$model" --tasks arc_easy --limit "$arc" --threads "$threads" --dtype bf16 \
        $isa 2>/dev/null | awk '$1 == "arc_easy" {print $NF}'
}

missed=0
# figure NAME BAR OURS... -- PEER...
figure() {
    name=$1 bar=$2 we='' they=''
    shift 2
    first='' second='' side=first
    for word; do
        if [ "$word" = -- ]; then
            side=second
        elif [ $side = first ]; then
            first="$first $word"
        else
            second="$second $word"
        fi
    done
    round=0
    while [ $round -lt "$rounds" ]; do
        value=$($first) || { echo "speed.sh: failed: $first" >&2; exit 1; }
        we=$(better "$we" "$value")
        value=$($second) || { echo "speed.sh: failed: $second" >&2; exit 1; }
        they=$(better "$they" "$value")
        round=$((round + 1))
    done
    awk -v n="$name" -v w="$we" -v t="$they" -v b="$bar" -v bars="${BARS:-yes}" 'BEGIN {
        r = w / t
        verdict = (bars == "no") ? "" : (r >= b) ? "ok" : "MISSED"
        printf("%-18s %10.1f %14.1f %7.2f %6s %s\n", n, w, t, r, b, verdict)
        exit (verdict == "MISSED") }' || missed=1
}

printf '%-18s %10s %14s %7s %6s   (tokens/s, %s threads, bf16%s)\n' figure t2 transformers ratio \
    bar "$threads" "${ISA:+, $ISA}"
for batch in ${BATCHES:-1 16 64}; do
    case $batch in
    1) bar=3 ;;
    16) bar=4 ;;
    *) bar=5 ;;
    esac
    [ -z "${ISA:-}" ] || bar=1.2
    figure "generate batch $batch" "$bar" \
        ours --decode "$decode" --prompt "$prompt" --batch "$batch" -- peer --batch "$batch"
done
figure "score $score" "$(if [ -n "${ISA:-}" ]; then echo 1.2; else echo 2.3; fi)" ours --score "$score" -- peer --score "$score"
if [ "$arc" -gt 0 ]; then
    figure "arc_easy limit $arc" 4 ours_arc -- peer --arc "$arc"
fi
exit $missed
