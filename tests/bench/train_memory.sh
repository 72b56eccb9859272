#!/bin/sh
# Memory of training: the peak of one rank beside what `t2 train --plan` says and what is allowed,
# 3.0 x the bf16 weights + activations + 150 MiB. Passes are filled to --max-rows by prompts of random
# digits (a token each in most vocabularies). Ends with status 1 where a figure is missed.
#
#   tests/bench/train_memory.sh MODEL FACTORS.h5
#
#   MODEL        a model; FACTORS.h5: its MLPs', of t2 decompose --modules mlp
#   BUILD        folder of t2                                   (build/release)
#   PYTHON       a Python, which reads the peaks                (python3)
#   SEQUENCES 16 TOKENS 2048: of the last figure, whose activations may take 1.5 GiB; it goes through
#                so many tokens twice forward and once backward (SEQUENCES=2 has the same peak)
set -eu

[ $# -eq 2 ] || { sed -n '2,/^#                so many/s/^# \{0,1\}//p' "$0"; exit 2; }
model=$1 factors=$2
build=${BUILD:-build/release} python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/tasks" "$work/data/digits"
cat >"$work/tasks/digits.ini" <<'TASK'
[task]
name = digits
dataset = digits
split = test
prompt = "{text}"
chat = no
score = generate
gold = answer
gold_form = number
max_new = 4
grader = last_number
TASK
peak='import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(code)'

# digits SEQUENCES TOKENS: a training file of prompts of so many tokens less some to answer
digits() {
    awk -v n="$1" -v tokens="$2" 'BEGIN {
        srand(7)
        for (r = 0; r < n; r++) {
            text = ""
            for (i = 0; i < tokens - 12; i++)
                text = text int(10 * rand())
            printf "{\"text\": \"%s\", \"answer\": \"%d\"}\n", text, int(10 * rand())
        }
    }' >"$work/data/digits/train.jsonl"
}
missed=0
# figure NAME MOST-ACTIVATIONS SEQUENCES ROWS options...
figure() {
    name=$1 most=$2 n=$3 rows=$4
    shift 4
    digits "$n" "$rows"
    set -- --max-rows "$rows" --batch "$n" --shard "$n" --threads 1 "$@"
    "$build/t2" train "$model" --plan "$@" >"$work/plan"
    used=$("$python" -c "$peak" "$build/t2" train "$model" --factors "$factors" --task \
        "$work/tasks/digits.ini" --raw --out "$work/e.h5" --steps 1 --quiet "$@")
    awk -v name="$name" -v used="$used" -v most="$most" '
        function mib(i) { return $i * ($(i + 1) ~ /^GiB/ ? 1024 : $(i + 1) ~ /^KiB/ ? 1 / 1024 : 1) }
        $1 == "a" && $2 == "rank" {
            for (i = 4; i < NF; i++) {
                if ($(i + 2) ~ /^(in|for)$/)
                    plan += mib(i)
                if ($(i + 2) == "for" && $(i + 4) ~ /^tokens/)
                    activations = mib(i)
                if ($i == "alone:")
                    weights = mib(i + 1)
            }
            allowed = 3 * weights + activations + 150
            good = used <= plan && used <= allowed && activations <= most
            printf("%-34s %6d %6d %8d %12d %s\n", name, used, plan, allowed, activations,
                good ? "ok" : "MISSED")
            exit !good
        }' "$work/plan" || missed=1
}

printf '%-34s %6s %6s %8s %12s   (MiB)\n' '' peak plan allowed activations
figure 'passes of 512 tokens' 99999 2 512
figure 'the same with KL' 99999 2 512 --kl 0.1
figure 'the same, layers run again' 99999 2 512 --recompute
figure "${SEQUENCES:-16} x ${TOKENS:-2048} tokens, layers run again" 1536 "${SEQUENCES:-16}" \
    "${TOKENS:-2048}" --recompute
exit $missed
