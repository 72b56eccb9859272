#!/usr/bin/env bash
# jobs/nightly.sh: real nights of the small model, and artificial ones that got worse.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"
if sanitized; then
    echo "SKIPPED: nothing is timed with sanitizers"
    exit 77
fi
cd "$scratch"
night() { run "${T2_SOURCE:?}/jobs/nightly.sh" --t2 "$T2_BINARY" --history nightly.tsv --tasks sentiment,choice --limit 30 --steps 3 --repeats 1 "$@"; }

night --page nightly.html
check "a night is measured" "$code" -eq 0
for metric in svd.seconds generate.seconds scoring.seconds train_step.seconds sentiment.score choice.score; do
    contains "... $metric" "$(cut -f 3 nightly.tsv | tr '\n' ' ')" "$metric"
done
contains "... with a page" "$(cat nightly.html)" '<section id="history">'
sleep 1
night
check "two nights of one program have the same scores" "$(grep -c 'score' nightly.tsv)" -eq "$((2 * $(grep score nightly.tsv | cut -f 3,4 | sort -u | wc -l)))"
check "... and none is lost" "$(cut -f 1 nightly.tsv | sort -u | wc -l)" -eq 2

# Ten more nights of the same measurements with 2 % noise, and one that is worse in one place.
first=$(head -n 1 nightly.tsv | cut -f 1)
nights() { # nights N METRIC CHANGE
    for ((d = 1; d <= $1; d++)); do
        awk -F'\t' -v OFS='\t' -v first="$first" -v d="$d" -v n="$1" -v metric="$2" -v change="$3" '
            BEGIN { srand(d) }
            $1 == first {
                noise = $3 ~ /seconds/ ? 1 + 0.02 * (rand() + rand() + rand() - 1.5) * 2 : 1
                worse = d == n && $3 == metric
                print "2030-01-" sprintf("%02d", d), $2, $3, $4 * noise * (worse && $3 ~ /seconds/ ? change : 1) - (worse && $3 ~ /score/ ? change : 0)
            }' nightly.tsv
    done
}
nights 10 none 1 >calm.tsv
alarms=0
for ((d = 6; d <= 10; d++)); do
    head -n $((d * $(wc -l <calm.tsv) / 10)) calm.tsv >part.tsv
    t2 report --history part.tsv --check
    alarms=$((alarms + (code != 0)))
done
check "undisturbed nights raise no alarm" "$alarms" -eq 0
for metric in svd.seconds train_step.seconds scoring.seconds; do
    nights 10 $metric 1.2 >slow.tsv
    t2 report --history slow.tsv --check
    check "20 % more in $metric is an alarm" "$code" -eq 3
    contains "... of that name" "$out" "worse: $metric"
done
nights 10 choice.score 0.03 >drop.tsv
t2 report --history drop.tsv --check
contains "three points less in a score are an alarm" "$out" "worse: choice.score"

night --model absent
check "a night that fails is a failure" "$code" -eq 1
contains "... that says why" "$err" "t2 decompose has failed"
check "... and leaves no half night" "$(cut -f 1 nightly.tsv | sort -u | wc -l)" -eq 2
finish
