#!/usr/bin/env bash
# t2 train, and what becomes of its experts, on the small model of our own.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

mini=${T2_SOURCE:?}/data/mini
export T2_DATA=$scratch/none
cd "$scratch"
short=(--factors f.h5 --modules all --batch 8 --shard 3 --steps 4 --seed 7 -q)

# ---- the command line ---------------------------------------------------------------------------
t2 train "$mini" --out e.h5
check "a task must be named" "$code" -eq 1
contains "... and the known ones are listed" "$err" "sentiment"
refused() { # refused "part of the sentence" options...
    local part=$1
    shift
    t2 train "$mini" --task add --out e.h5 "$@"
    check "usage: $*" "$code" -eq 2
    contains "... with a sentence" "$err" "$part"
}
refused "needs --answers 2 or more" --baseline rloo
refused "needs --answers 2 or more" --baseline grpo
refused "greedy answers to a prompt are all the same" --greedy --answers 4
refused "exclude each other" --greedy --temperature 0.5
refused "no meaning with --objective next-token" --objective next-token --baseline mean
refused "needs --inner-steps" --clip-ratio 0.2
refused "needs --validate-every" --patience 2
refused "no meaning without --kl" --kl-form k3
refused "did you mean" --batchs 3
t2 train "$mini" --task add
contains "--out is needed" "$err" "--out is missing"
refused "--rank has no meaning with --adapter ia3" --adapter ia3 --rank 4
refused "--factors has no meaning with --adapter lora" --adapter lora --factors f.h5
refused "--parametrisation has no meaning with --adapter dora" --adapter dora --parametrisation sigmoid
refused "no meaning with --objective next-token" --adapter lora --answers 4
t2 train "$mini" --task add --out e.h5 --adapter lora --rank 65
contains "a rank that is too large is told" "$err" "a rank of 65 is not possible for"
t2 train "$mini" --task add --out no/such/e.h5
contains "an impossible --out fails before the work" "$err" "does not exist"
t2 train "$mini" --task add --out e.h5 --factors absent.h5
contains "absent factors are named" "$err" "absent.h5"

t2 train "$mini" --plan --modules all -t 1
check "a plan needs no task" "$code" -eq 0
contains "... and counts parameters" "$out" "3 840 in 35 matrices"
contains "... and models many ranks" "$out" "512"
t2 train --plan --model-shape llama3-8b -t 1
contains "a plan of a model that is not here" "$out" "MiB a step"

for recipe in "$T2_SOURCE"/jobs/recipes/*.ini; do
    t2 train "$mini" --recipe "$recipe" --plan -t 1
    check "the recipe $(basename "$recipe") is one" "$code" -eq 0
done

# ---- the same bits ------------------------------------------------------------------------------
t2 decompose "$mini" --modules all --out f.h5 -q
for dtype in bf16 f32; do
    t2 train "$mini" "${short[@]}" --task add --dtype $dtype --threads 2 --out one.h5 --validate-every 2 --valid-limit 20
    check "$dtype trains" "$code" -eq 0
    for n in 2 3 4; do
        if sanitized && [ "$n" -ne 3 ]; then
            continue
        fi
        ranks $n train "$mini" "${short[@]}" --task add --dtype $dtype --threads $((n % 2 + 1)) --out many.h5 --validate-every 2 --valid-limit 20
        same "$dtype: $n ranks leave the same bits" one.h5 many.h5 /layers /curve/loss
    done
done
check "one row of seven columns" "$(awk 'NF == 7 && $1 == "add" && $2 == 4 { n++ } END { print n + 0 }' <<<"$out")" -eq 1
check "quiet is quiet" -z "$err"
t2 inspect one.h5
contains "inspect shows the task" "$out" "task          add"
contains "... and the parameters" "$out" "mlp.down_proj"
contains "... and the scores" "$out" "validation"

kinds=("--objective next-token" "--baseline rloo --answers 3 --kl 0.1" "--kl 0.1 --no-loss-eos"
    "--baseline mean --inner-steps 2 --clip-ratio 0.2" "--parametrisation sigmoid --recompute")
for options in "${kinds[@]}"; do
    for task in sentiment choice; do
        if sanitized && [ $task = choice ]; then
            continue
        fi
        # shellcheck disable=SC2086
        t2 train "$mini" "${short[@]}" --task $task $options --out a.h5 -t 1
        # shellcheck disable=SC2086
        ranks 2 train "$mini" "${short[@]}" --task $task $options --out b.h5 -t 1
        same "$task $options: one rank and two" a.h5 b.h5
    done
done

# The other adapters; dropout where answers are given.
other=(--batch 8 --shard 3 --steps 4 --seed 7 -q --rate 1e-2)
adapters=("lora" "dora" "ia3" "lora --modules all --rank 3 --recompute" "dora --objective reinforce --modules mlp"
    "ia3 --objective reinforce --kl 0.1")
for options in "${adapters[@]}"; do
    if sanitized && [ "$options" != "${options#* }" ]; then
        continue
    fi
    # shellcheck disable=SC2086
    t2 train "$mini" "${other[@]}" --adapter $options --task sentiment --out a.h5 -t 1
    check "--adapter $options trains" "$code" -eq 0
    for n in 2 3; do
        if [ $n -eq 3 ] && [ "$options" != "${options#* }" ]; then
            continue
        fi
        # shellcheck disable=SC2086
        ranks $n train "$mini" "${other[@]}" --adapter $options --task sentiment --out b.h5 -t $((4 - n))
        same "--adapter $options: $n ranks leave the same bits" a.h5 b.h5
    done
done
t2 train "$mini" "${other[@]}" --adapter lora --task sentiment --out a.h5 --dropout 0 -t 1
ranks 2 train "$mini" "${other[@]}" --adapter lora --task sentiment --out b.h5 -t 1
check "dropout changes what is learned" "$(h5diff -q a.h5 b.h5 /layers /layers >/dev/null 2>&1 && echo same)" = ""
t2 inspect b.h5
contains "inspect shows the adapter's settings" "$out" "settings      rank = 16, alpha = 32"
contains "... and its pieces" "$out" "lora_A"
contains "the record has the adapter's own defaults" "$(h5dump -a options b.h5)" "modules = qv"

# ---- stopped and resumed ------------------------------------------------------------------------
settings=(--modules all --batch 8 --shard 3 --steps 40 --seed 3 -q -t 1 --task add
    --validate-every 10 --valid-limit 10)
long=("${settings[@]}" --factors f.h5)
t2 train "$mini" "${long[@]}" --out whole.h5 --resume
check "--resume begins where there is nothing to resume" "$code" -eq 0
t2 train "$mini" "${long[@]}" --out whole.h5 --resume
check "... and has nothing to do when all is done" "$code$out" = 0
t2 train "$mini" "${long[@]}" --rate 1e-3 --out whole.h5 --resume
contains "... unless the settings are others" "$err" "it has 'rate = 0.002', this run has 'rate = 0.001'"

# Answers are logged; where they are given, the checkpoint shows that some steps are done.
is_under_way() {
    [ "$(wc -l 2>/dev/null <part.log || echo 0)" -ge "$1" ] || { [[ " ${long[*]} " = *" next-token "* ]] && [ -e part.h5.state ]; }
}
# Runs "${long[@]}", which leave $whole when nobody interferes.
whole=whole.h5
stop_and_resume() { # stop_and_resume "statement" SIGNAL ranks options...
    local statement=$1 signal=$2 n=$3 tries=0 pid
    shift 3
    rm -f part.h5 part.h5.state part.log part.factors.h5
    "$T2_MPIRUN" --oversubscribe --bind-to none -n "$n" "$T2_BINARY" train "$mini" "${long[@]}" "$@" --out part.h5 "${log[@]}" >/dev/null 2>stop.err &
    pid=$!
    # Until a few steps, of eight answers each, are done.
    local answers=$((16 + 8 * (RANDOM % 10)))
    while ! is_under_way $answers && [ $tries -lt 1200 ] && kill -0 $pid 2>/dev/null; do
        sleep 0.02
        tries=$((tries + 1))
    done
    if [ "$signal" = TERM ]; then
        kill -TERM $pid 2>/dev/null || true
    else # one rank, at random, dies
        pgrep -P $pid -x t2 | shuf -n 1 | xargs -r kill -KILL 2>/dev/null || true
    fi
    code=0
    wait $pid || code=$?
    if [ ! -e part.h5 ]; then
        check "$statement: the exit code says so" "$code" -ne 0
        check "... and the state is there" -s part.h5.state
    fi
    ranks $((n % 3 + 1)) train "$mini" "${long[@]}" --out part.h5 --resume
    check "... it goes on, on other ranks" "$code" -eq 0
    same "... to the same bits" $whole part.h5
    check "... and the state is gone" ! -e part.h5.state
}
log=(--rollout-log part.log)
stop_and_resume "SIGTERM" TERM 2
stop_and_resume "kill -9 of a rank" KILL 3 --checkpoint-every 1
stop_and_resume "kill -9 of a rank without checkpoints" KILL 2 --checkpoint-every 1000000

long=("${settings[@]}" --dtype f32 --parametrisation sigmoid)
whole=scratch.h5
t2 train "$mini" "${long[@]}" --out $whole
check "f32 trains from scratch" "$code" -eq 0
for n in 2 3; do
    stop_and_resume "f32 from scratch, kill -9 of one of $n ranks" KILL $n
done
whole=whole.h5
svf=("${settings[@]}" --factors f.h5)
for kind in lora dora ia3; do
    objective=next-token
    log=()
    if [ $kind = ia3 ]; then
        objective=reinforce
        log=(--rollout-log part.log)
    fi
    if sanitized && [ $kind != dora ]; then
        continue
    fi
    long=(--adapter "$kind" --objective "$objective" --batch 8 --shard 3 --steps 24 --seed 3 -q -t 1 --task add
        --validate-every 12 --valid-limit 10)
    t2 train "$mini" "${long[@]}" --out whole.h5
    if [ $kind = lora ]; then
        stop_and_resume "$kind: SIGTERM" TERM 2 --checkpoint-every 1
    else
        stop_and_resume "$kind: kill -9 of a rank" KILL 3 --checkpoint-every 1
    fi
done
log=(--rollout-log part.log)
long=("${svf[@]}")

"$T2_BINARY" train "$mini" "${long[@]}" --out part.h5 --checkpoint-every 1 >/dev/null 2>stop.err &
pid=$!
while [ ! -e part.h5.state ] && kill -0 $pid; do sleep 0.05; done
kill -USR1 $pid
code=0
wait $pid || code=$?
if [ "$code" -ne 0 ]; then
    check "a run that was asked to stop ends with 75" "$code" -eq 75
    contains "... and one sentence" "$(cat stop.err)" "the same command with --resume goes on from part.h5.state"
    t2 inspect part.h5.state
    contains "inspect shows what was being trained" "$out" "task = add"
    t2 train "$mini" "${long[@]}" --out part.h5
    check "without --resume a state is not thrown away" "$code" -eq 1
    contains "... and --resume is named" "$err" "--resume"
    t2 train "$mini" "${long[@]}" --seed 4 --out part.h5 --resume
    contains "other settings are refused with the line" "$err" "it has 'seed = 3', this run has 'seed = 4'"
    cp -r "$mini" changed
    sed -i '7s/[0-9]/7/g' changed/data/add/train.jsonl
    t2 train "$mini" "${long[@]}" --task changed/tasks/add.ini --out part.h5 --resume
    contains "changed data are refused" "$err" "it has 'training_data = rows with the digest "
    cp part.h5.state keep
    head -c 3000 keep >part.h5.state
    t2 train "$mini" "${long[@]}" --out part.h5 --resume
    check "a damaged state is refused" "$code" -eq 1
    rm part.h5.state
fi

# ---- what goes wrong ----------------------------------------------------------------------------
mkdir nan
cp "$mini"/*.json nan/
python3 - "$mini/model.safetensors" nan/model.safetensors <<'PYTHON' 2>/dev/null || rm -f nan/model.safetensors
import json, struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
n = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + n])
at = 8 + n + header["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0]
data[at:at + 2] = b"\xc0\x7f"
open(sys.argv[2], "wb").write(data)
PYTHON
if [ -e nan/model.safetensors ]; then
    t2 train nan --task "$mini/tasks/add.ini" --out e.h5 --steps 2 -q
    check "NaN in a weight is a failure" "$code" -eq 1
    contains "... that names the tensor" "$err" "model.layers.1.mlp.up_proj.weight"
fi
t2 train "$mini" "${short[@]}" --task sentiment --rate 1e3 --weight-decay 1e3 --steps 12 --out diverged.h5
check "a run that diverges fails" "$code" -eq 1
contains "... and says when" "$err" "step"
contains "... and what helps" "$err" "not"
code=0
(ulimit -f 24 && "$T2_BINARY" train "$mini" "${short[@]}" --task sentiment --out full.h5) >out 2>err || code=$?
check "a full disk fails" "$code" -eq 1
contains "... with a sentence" "$(cat err)" "cannot be written"
check "... and leaves no part of a file" ! -e full.h5

# ---- from scratch, learning, and the expert in use ----------------------------------------------
steps=40
if sanitized; then
    steps=2
fi
ranks 2 train "$mini" --task sentiment --modules all --steps $steps --rate 1e-2 --clip-norm 0 --validate-every 10 --valid-limit 50 --out learned.h5 -t 1
check "without --factors the model is decomposed first" -e learned.factors.h5
contains "stderr has a table" "$err" "validation:"
if ! sanitized; then
    LC_ALL=C t2 inspect learned.h5
    contains "inspect draws the curve" "$out" "accuracy of the answers, by step"
    contains "... without block characters where the locale has none" "$out" "###"
    LC_ALL=C.UTF-8 t2 inspect learned.h5
    contains "... and with them where it has" "$out" "██"
fi
limit=100
if sanitized; then
    limit=10
fi
score() { awk '{ print $2 }' <<<"$out"; }
t2 eval "$mini" --tasks sentiment --limit $limit -q --out base.h5
base=$(score)
t2 eval "$mini" --tasks sentiment --limit $limit -q --adapter learned.h5 --out merged.h5
merged=$(score)
if ! sanitized; then
    check "the expert is better by ten points" "$(awk "BEGIN { print ($merged >= $base + 0.1) }")" -eq 1
fi
ranks 2 eval "$mini" --tasks sentiment --limit $limit -q --adapter learned.h5 --out ranks.h5
same "an expert's items are the same on two ranks" merged.h5 ranks.h5 /tasks/sentiment/items
t2 eval "$mini" --tasks sentiment --limit $limit -q --adapter learned.h5 --unmerged
check "... and unmerged it scores as well" "$(awk "BEGIN { d = $(score) - $merged; print (d < 0.04 && d > -0.04) }")" -eq 1
t2 generate "$mini" "Mia has 28 stones and gets 14 more. How many stones does Mia have?" --adapter learned.h5 -q
check "an expert generates" -n "$out"

t2 train "$mini" "${short[@]}" --task sentiment --steps 1 --rate 0 --out unit.h5
for dtype in bf16 f32; do
    t2 eval "$mini" --tasks sentiment,choice --limit $limit -q --dtype $dtype --out a.h5
    t2 eval "$mini" --tasks sentiment,choice --limit $limit -q --dtype $dtype --adapter unit.h5 --out b.h5
    check "$dtype: z = 1 is the base model, bit for bit" "$(h5diff a.h5 b.h5 /tasks 2>&1 | grep -v -e seconds -e tokens_per -e differences; true)" = ""
done

mkdir moved
mv learned.factors.h5 learned.h5 moved/
t2 eval "$mini" --tasks sentiment --limit 5 -q --adapter moved/learned.h5
check "factors are found beside the expert" "$code" -eq 0
mv moved/learned.factors.h5 other.h5
t2 eval "$mini" --tasks sentiment --limit 5 -q --adapter moved/learned.h5
contains "absent ones are an error that names --factors" "$err" "--factors FILE"
t2 eval "$mini" --tasks sentiment --limit 5 -q --adapter moved/learned.h5 --factors other.h5
check "... which helps" "$code" -eq 0

t2 export "$mini" --adapter moved/learned.h5 --factors other.h5 --merged tuned --dtype bf16
check "an expert is exported" "$code" -eq 0
t2 eval tuned --tasks "$mini/tasks/sentiment.ini" --limit $limit -q --out exported.h5
same "... and the folder answers as the merged model" merged.h5 exported.h5 /tasks/sentiment/items
t2 export "$mini" --merged tuned
contains "an export replaces nothing" "$err" "is there already"
t2 export tuned --adapter moved/learned.h5 --factors other.h5 --merged twice
contains "an expert of another model is refused" "$err" "was trained on another model"
check "... and nothing is left" "$(find . -name 'twice*' | wc -l)" -eq 0

finish
