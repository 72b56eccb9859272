#!/usr/bin/env bash
# jobs/adapt_table.sh on the small model of our own, with next to no training: the tables are there.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

mini=${T2_SOURCE:?}/data/mini
cd "$scratch"
export LIMIT=4 TRAIN="--steps 1 --batch 4 --validate-every 0 -t 1" ADAPT="--iterations 1 --shots 3 -t 1 -q" EVAL="-t 1 -q"
export UNSEEN="subtract mixed" T2="$T2_BINARY"
make_table() { run bash "$T2_SOURCE/jobs/adapt_table.sh" "$@"; }

make_table
check "without arguments it says what it takes" "$code" -eq 2
contains "... with an example" "$err" "jobs/adapt_table.sh data/mini"
T2=absent/t2 make_table "$mini" none
check "an absent t2 is told" "$code" -eq 2

make_table "$mini" table
check "one command makes the tables" "$code" -eq 0
methods=$(awk '/^$/ { exit } NR > 1 { print $1 }' <<<"$out" | paste -sd' ')
check "a line a method" "$methods" = "base add sentiment choice prompt cls uniform cem"
check "a score and its error for each task" "$(awk '/^$/ { exit } NR > 1 && $3 == "+-" && $6 == "+-" { n++ } END { print n + 0 }' <<<"$out")" -eq 8
check "pass one's share where there is one" "$(grep -c '%)' <<<"$out")" -eq 2
check "... kept in the folder" "$(cat table/tables.txt)" = "$out"
check "rows for programs" "$(awk -F'\t' 'NF == 7 { n++ } END { print n }' table/rows.tsv)" -eq 16
contains "the way to a page is said" "$err" "t2 report table/*.h5"

first=$out
make_table "$mini" table/factors.h5 table
check "what is there is not made again" "$out" = "$first"
check "... nor mentioned" "$(grep -c '^==' <<<"$err" || true)" -eq 0
t2 report table/*.h5 --out page.html
check "the folder makes a page" "$code" -eq 0

finish
