#!/usr/bin/env bash
# t2 on a CUDA device beside transformers on the same device in one run: each figure is taken from both in
# turn, ROUNDS times, and the better one of each side counts. With the share of the device's peak.
#
#   tests/bench/gpu.sh MODEL... [shape:NAME]
#
#   MODEL        a Hugging Face folder, which both sides load; a GGUF file for t2 alone
#   shape:NAME   a random model of known sizes (shape:llama3-8b), made in WORK by bench_shape
#
#   BUILD        folder of t2 and the bench programs (build/cuda)
#   PYTHON       a Python with torch for this device, transformers (python3); "no": no peer
#   DEVICE       cuda:0
#   BATCHES      "1 16 64 256"    DECODE 128  PROMPT 512: tokens of a sequence
#   TRAIN        "32 64": sequences and tokens of a training pass (forward, SVF backward; the peer: frozen
#                weights, gradients of the activations)
#   MATRIX       14336x4096: to decompose; "no": none
#   FACTORS, TASK  factor file of the first MODEL and a task: also the seconds of a step of t2 train (32
#                items; needs h5dump)
#   ROUNDS 2     WORK: folder that is kept (default: a temporary one)
#   BANDWIDTH, PEAK, PEAK64   the device's GB/s and TFLOP/s (bf16, and f64); known for A100, H100, H200
#
# The bars of the CUDA back end: decoding of llama3-8b at batch 64 at 60 % of bandwidth, forward and
# backward at 45 % of PEAK, the matrix in under 2 s. Rows say ok or MISSED where one applies.
set -euo pipefail

[ $# -gt 0 ] || {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'
    exit 2
}
here=$(cd "$(dirname "$0")" && pwd)
build=${BUILD:-build/cuda} python=${PYTHON:-python3} device=${DEVICE:-cuda:0}
decode=${DECODE:-128} prompt=${PROMPT:-512} rounds=${ROUNDS:-2}
read -r sequences length <<<"${TRAIN:-32 64}"
matrix=${MATRIX:-14336x4096}
export HF_HUB_OFFLINE=1

fail() {
    echo "gpu.sh: $*" >&2
    exit 1
}
[ -x "$build/t2" ] || fail "$build/t2 is not there: build it (cmake --preset cuda), or set BUILD"
name=$("$build/t2" --version | sed -n "s/^ *${device} *//p")
[ -n "$name" ] || fail "there is no device $device here, or $build/t2 was built without CUDA: \
'$build/t2 --version' lists what there is"

if [ -n "${WORK:-}" ]; then
    work=$WORK
    mkdir -p "$work"
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi

# From NVIDIA's data sheets, without sparsity.
case $name in
*H200*) known='4800 989 67' ;;
*H100*PCIe*) known='2000 756 51' ;;
*H100*NVL*) known='3900 835 60' ;;
*H100*) known='3350 989 67' ;;
*A100*80GB*) known='2039 312 19.5' ;;
*A100*) known='1555 312 19.5' ;;
*) known='0 0 0' ;;
esac
read -r bandwidth peak peak64 <<<"$known"
bandwidth=${BANDWIDTH:-$bandwidth} peak=${PEAK:-$peak} peak64=${PEAK64:-$peak64}
missed=0

# better less|more A B
better() {
    awk -v k="$1" -v a="$2" -v b="$3" 'BEGIN {
        print (a == "") ? b : (b == "") ? a : (k == "less") == (a + 0 < b + 0) ? a : b }'
}
# number KEY: the word after KEY in the text that comes in, the last one.
number() {
    awk -v key="$1" '{for (i = 1; i < NF; i++) if ($i == key) x = $(i + 1)}
        END {if (x == "") exit 1; print x}'
}
title() {
    printf '\n%s\n%-30s %12s %12s %7s  %s\n' "$1" figure t2 transformers ratio 'share of peak'
}
# row NAME OURS THEIRS less|more SHARE BAR: SHARE in % (empty: unknown); BAR: on the share, or on seconds
row() {
    awk -v n="$1" -v w="$2" -v t="$3" -v k="$4" -v s="$5" -v b="$6" 'BEGIN {
        ratio = (t == "" || t + 0 == 0) ? "-" : sprintf("%.2f", (k == "less") ? t / w : w / t)
        verdict = ""
        if (b != "" && k == "less") verdict = (w + 0 <= b + 0) ? "ok" : "MISSED"
        else if (b != "" && s != "") verdict = (s + 0 >= b + 0) ? "ok" : "MISSED"
        printf("%-30s %12.5g %12s %7s  %s %s\n", n, w, (t == "") ? "-" : sprintf("%.5g", t), ratio,
               (s == "") ? "-" : sprintf("%.0f %%", s), verdict)
        exit (verdict == "MISSED") }' || missed=1
}
# share VALUE PEAK: in %; nothing where the peak is not known.
share() {
    awk -v x="$1" -v p="$2" 'BEGIN {if (p > 0) printf("%.1f", 100 * x / p)}'
}
peer() {
    [ "$python" != no ] && [ "$has_peer" = yes ] || return 0
    "$python" "$here/gpu_peer.py" --device "$device" "$@" 2>"$work/peer.err" || {
        tail -n 5 "$work/peer.err" >&2
        fail "the peer failed: gpu_peer.py $*"
    }
}

bench_decode() {
    local batch=$1 bar=$2 round log we='' read='' they='' we_prompt='' they_prompt=''
    for ((round = 0; round < rounds; round++)); do
        log=$("$build/bench_model" "$model" --device "$device" --dtype bf16 --prompt "$prompt" \
            --decode "$decode" --batch "$batch") || fail "bench_model failed on $model, batch $batch"
        we=$(better more "$we" "$(grep '^decode.*tokens' <<<"$log" | number tokens/s)")
        read=$(better more "$read" "$(number GB/s <<<"$log")")
        we_prompt=$(better more "$we_prompt" "$(grep '^prompt' <<<"$log" | number tokens/s)")
        log=$(peer decode "$model" --prompt "$prompt" --decode "$decode" --batch "$batch")
        [ -n "$log" ] || continue
        they=$(better more "$they" "$(grep '^decode' <<<"$log" | number tokens/s)")
        they_prompt=$(better more "$they_prompt" "$(grep '^prompt' <<<"$log" | number tokens/s)")
    done
    row "prompt, batch $batch" "$we_prompt" "$they_prompt" more '' ''
    row "decode, batch $batch" "$we" "$they" more "$(share "$read" "$bandwidth")" "$bar"
}
bench_train() {
    local bar=$1 round log we='' flops='' they=''
    for ((round = 0; round < rounds; round++)); do
        log=$("$build/bench_pass" "$model" --device "$device" --dtype bf16 --prefix 0 \
            --sequences "$sequences" --length "$length" --repeat 5) || fail "bench_pass failed on $model"
        we=$(better more "$we" "$(awk '$1 == "together" {print $4}' <<<"$log")")
        flops=$(better more "$flops" "$(awk '$1 == "speed" {print $2}' <<<"$log")")
        log=$(peer train "$model" --sequences "$sequences" --length "$length")
        [ -z "$log" ] || they=$(better more "$they" "$(number tokens/s <<<"$log")")
    done
    row "train, $sequences x $length" "$we" "$they" more "$(share "$flops" "$peak")" "$bar"
}
bench_step() {
    local part seconds
    "$build/t2" train "$model" --device "$device" --dtype bf16 --factors "$FACTORS" --task "$TASK" \
        --batch 32 --steps 5 --seed 1 --quiet --out "$work/expert.h5" >/dev/null </dev/null ||
        fail "t2 train failed on $model"
    for part in rollout gradient reduce other; do
        h5dump -y -w 1 -m %.6f -d "/curve/seconds_$part" "$work/expert.h5" |
            awk '/DATA/ {on = 1; next} /}/ {on = 0} on {gsub(/[ ,]/, ""); print}' >"$work/$part"
    done
    seconds=$(paste "$work"/{rollout,gradient,reduce,other} |
        awk 'NR > 1 {print $1 + $2 + $3 + $4}' | sort -g | head -n 1)
    row 'seconds a step, t2 train' "$seconds" '' less '' ''
}
bench_matrix() {
    local round log we='' they='' rows=${matrix%x*} columns=${matrix#*x}
    for ((round = 0; round < rounds; round++)); do
        log=$("$build/bench_svd" --set "$matrix" --method cusolver --repeat 2) ||
            fail "bench_svd failed on $matrix"
        we=$(better less "$we" "$(awk '$1 == "set" {print $3}' <<<"$log" | sort -g | head -n 1)")
        log=$(peer svd --rows "$rows" --columns "$columns")
        [ -z "$log" ] || they=$(better less "$they" "$(number seconds <<<"$log")")
    done
    local flops
    flops=$(awk -v m="$rows" -v n="$columns" -v s="$we" 'BEGIN {
        r = m < n ? m : n; l = m + n - r; print (3 * l * r * r + 14 / 3 * r * r * r) / s / 1e12}')
    row "seconds, $matrix" "$we" "$they" less "$(share "$flops" "$peak64")" \
        "$([ "$matrix" != 14336x4096 ] || echo 2)"
}

echo "$device: $name; $bandwidth GB/s, $peak TFLOP/s bf16, $peak64 f64 (0: not known, set BANDWIDTH, PEAK)"
has_peer=yes first=yes
for model; do
    train_bar='' decode_bar=''
    case $model in
    shape:*)
        shape=${model#shape:} model=$work/$shape
        [ -e "$model/config.json" ] || "$build/bench_shape" "$shape" "$model" || fail "no $shape"
        [ "$shape" != llama3-8b ] || train_bar=45 decode_bar=60
        ;;
    esac
    has_peer=yes
    [ -d "$model" ] || has_peer=no
    title "$model: tokens/s, bf16, prompts of $prompt, $decode new"
    for batch in ${BATCHES:-1 16 64 256}; do
        bench_decode "$batch" "$([ "$batch" -ne 64 ] || echo "$decode_bar")"
    done
    bench_train "$train_bar"
    if [ "$first" = yes ] && [ -n "${FACTORS:-}" ] && [ -n "${TASK:-}" ]; then
        bench_step
    fi
    first=no
done
if [ "$matrix" != no ]; then
    has_peer=yes
    title 'decomposition (the peer: torch.linalg.svd, f32)'
    bench_matrix
fi
exit $missed
