#!/bin/sh
# What adapters cost on one model, all in one run, in turn: seconds of a training step as multiples of SVF's at
# equal modules, batch and task (next-token prediction), memory, parameters, file, and speed in use; and LoRA's step
# beside PEFT's in bf16. Prints tables and ends with status 1 where a bar is missed.
#
#   tests/bench/adapters.sh MODEL FACTORS.h5
#
#   FACTORS.h5 of t2 decompose, with MODULES
#   BUILD      folder of t2                             (build/release)
#   MODULES qv   TASK sst2   BATCH 32   THREADS 2   KINDS "svf lora dora ia3 moslora"
#   ROUNDS 3   STEPS 10 (of a round; the first is not counted)
#   LIMIT 40   items of the task for the speed in use
#   HF         the same model's Hugging Face folder, for PEFT ("": leave PEFT out)
#   PYTHON     a Python with torch, transformers, peft  (python3)     PEER_STEPS 5
#   T2_DATA    folder of the data sets
#   BARS=no    print ratios only
set -eu

[ $# -eq 2 ] || { sed -n '2,/^#   BARS/s/^# \{0,1\}//p' "$0"; exit 2; }
model=$1 factors=$2
here=$(cd "$(dirname "$0")/.." && pwd)
t2=${BUILD:-build/release}/t2 python=${PYTHON:-python3}
modules=${MODULES:-qv} task=${TASK:-sst2} batch=${BATCH:-32} threads=${THREADS:-2}
kinds=${KINDS:-svf lora dora ia3 moslora} rounds=${ROUNDS:-3} steps=${STEPS:-10}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
export HF_HUB_OFFLINE=1
missed=0

median() {
    sort -g "$1" | awk '{x[NR] = $1} END {if (!NR) exit 1
        print (x[int((NR + 1) / 2)] + x[int(NR / 2) + 1]) / 2}'
}
# column EXPERT NAME: one value a step.
column() {
    h5dump -y -w 1 -m %.6f -d "/curve/$2" "$1" |
        awk '/DATA/ {on = 1; next} /}/ {on = 0} on {gsub(/[ ,]/, ""); print}'
}
# number EXPERT NAME: an attribute.
number() {
    h5dump -y -m %.0f -a "/$2" "$1" | awk '/DATA [{]/ {getline; sub(/.*: /, ""); print $1}'
}
# train KIND: a round's seconds of each step but the first to KIND.seconds, rows a second to KIND.rows.
train() {
    set -- "$1" "$work/$1.h5"
    rm -f "$2"
    if [ "$1" = svf ]; then
        set -- "$@" --factors "$factors"
    fi
    kind=$1 out=$2
    shift 2
    "$t2" train "$model" --adapter "$kind" --modules "$modules" --task "$task" --objective next-token \
        --batch "$batch" --steps "$steps" --seed 1 --dtype bf16 --threads "$threads" --validate-every 0 \
        --test-limit 0 --checkpoint-every 1000000 --quiet --out "$out" "$@" </dev/null >/dev/null
    for part in rollout gradient reduce other; do
        column "$out" "seconds_$part" >"$work/$part"
    done
    paste "$work/rollout" "$work/gradient" "$work/reduce" "$work/other" |
        awk 'NR > 1 {print $1 + $2 + $3 + $4}' >>"$work/$kind.seconds"
    column "$out" tokens_per_second | tail -n +2 >>"$work/$kind.rows"
}
bar_of() {
    case $1 in lora) echo 1.0 ;; dora) echo 1.4 ;; moslora) echo 1.6 ;; *) echo - ;; esac
}
peer() {
    "$python" "$here/bench/peft_peer.py" "$HF" --task "$here/../data/tasks/$task.ini" --batch "$batch" \
        --threads "$threads" --steps "${PEER_STEPS:-5}" >"$work/peer.log" 2>"$work/peer.err" || {
        tail -n 20 "$work/peer.err" >&2
        return 1
    }
    awk '/^step/ {print $2}' "$work/peer.log" >>"$work/peer.seconds"
    awk '/^step/ {sub(",", "", $5); print $2 * $5}' "$work/peer.log" >>"$work/peer.tokens"
}

round=0
while [ "$round" -lt "$rounds" ]; do
    for kind in $kinds; do
        train "$kind"
    done
    if [ -n "${HF:-}" ]; then
        peer
    fi
    round=$((round + 1))
done

echo "training: $task, $modules, batches of $batch, $threads threads, medians of $rounds x $((steps - 1)) steps"
printf '%-9s %9s %7s %5s %10s %8s %10s %9s\n' adapter s/step ratio bar rows/s peak_MB parameters file_MB
unit=
if [ -s "$work/svf.seconds" ]; then
    unit=$(median "$work/svf.seconds")
fi
for kind in $kinds; do
    awk -v k="$kind" -v s="$(median "$work/$kind.seconds")" -v u="${unit:-0}" -v b="$(bar_of "$kind")" \
        -v rows="$(median "$work/$kind.rows")" -v peak="$(number "$work/$kind.h5" peak_bytes)" \
        -v n="$(number "$work/$kind.h5" n_parameters)" -v size="$(wc -c <"$work/$kind.h5")" \
        -v bars="${BARS:-yes}" 'BEGIN {
            r = u > 0 ? s / u : 0
            verdict = (bars == "no" || b == "-" || !r) ? "" : (r <= b) ? "ok" : "MISSED"
            printf("%-9s %9.3f %7.3f %5s %10.1f %8.0f %10d %9.3f %s\n", k, s, r, b, rows, peak / 1e6, n,
                   size / 1e6, verdict)
            exit (verdict == "MISSED") }' || missed=1
done

if [ -n "${HF:-}" ]; then
    echo
    printf '%-28s %10s %10s %7s %5s\n' "LoRA, rank 16, tokens/s" t2 "PEFT bf16" ratio bar
    # The same prompts on average: tokens of the peer's step over our seconds.
    awk -v we="$(median "$work/lora.seconds")" -v they="$(median "$work/peer.seconds")" \
        -v tokens="$(median "$work/peer.tokens")" -v bars="${BARS:-yes}" 'BEGIN {
            r = they / we
            verdict = (bars == "no") ? "" : (r >= 2.5) ? "ok" : "MISSED"
            printf("%-28s %10.1f %10.1f %7.2f %5s %s\n", "prompts and answers", tokens / we, tokens / they, r,
                   "2.5", verdict)
            exit (verdict == "MISSED") }' || missed=1
fi

echo
echo "in use: ${LIMIT:-40} items"
list=base
for kind in $kinds; do
    list=$list,$work/$kind.h5
done
"$t2" eval "$model" --tasks "$task" --limit "${LIMIT:-40}" --adapter "$list" --threads "$threads" --dtype bf16 \
    --quiet </dev/null | sed "s|$work/||"
exit $missed
