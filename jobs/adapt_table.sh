#!/usr/bin/env bash
# The table of self-adaptation: base model, each expert, and the strategies A (prompt), B (cls) and
# C (mixture of experts on a few shots) on tasks that no expert was trained on, with standard errors
# and pass one's share of the time.
#
#   jobs/adapt_table.sh MODEL FACTORS.h5 FOLDER
#
#   EXPERTS   tasks that get an expert             (gsm8k arc_easy sst2)
#   UNSEEN    tasks of the table                   (mawps arc_challenge)
#   LIMIT     items of each in the table; 0: all   (0)
#   RECIPE    settings of training and mixing      (jobs/recipes/adapt-table.ini)
#   TRAIN     further options of t2 train, such as "--steps 10"
#   ADAPT     further options of t2 adapt
#   EVAL      further options of t2 eval, such as "--max-new 64"
#   T2        the program with its launcher, such as "mpirun -n 2 t2"
#
# Experts, results and the table (table.txt) stay in FOLDER; what is there is not made again, and a
# training or search that was stopped goes on. The table is also printed, one row a method and task:
# method, task, score, standard error, items, seconds, percent of them in pass one.
set -euo pipefail
here=$(dirname "$0")
if [ $# -ne 3 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
model=$1 factors=$2 folder=$3
read -ra experts <<<"${EXPERTS:-gsm8k arc_easy sst2}"
read -ra unseen <<<"${UNSEEN:-mawps arc_challenge}"
read -ra t2 <<<"${T2:-t2}"
read -ra train <<<"${TRAIN:-}"
read -ra adapt <<<"${ADAPT:-}"
read -ra evaluate <<<"${EVAL:-}"
recipe=${RECIPE:-$here/recipes/adapt-table.ini}
limit=${LIMIT:-0}
mkdir -p "$folder"

join() { # join , A B C
    local IFS=$1
    shift
    echo "$*"
}

learn() { # learn TASK OUT
    [ -e "$2" ] || "${t2[@]}" train "$model" --recipe "$recipe" --factors "$factors" --task "$1" \
        --out "$2" --resume "${train[@]}" </dev/null >&2
}

number() { # number FILE ATTRIBUTE: an attribute of a results file; empty where there is none
    { h5dump -a "$2" "$1" 2>/dev/null || true; } | sed -n 's/.*(0): //p'
}

# score METHOD OPTIONS...: a row for each unseen task.
score() {
    local method=$1 file=$folder/$1.results.h5 task
    shift
    [ -e "$file" ] || "${t2[@]}" eval "$model" --tasks "$(join , "${unseen[@]}")" --limit "$limit" \
        --out "$file.tmp" "$@" "${evaluate[@]}" </dev/null >&2
    [ -e "$file" ] || mv "$file.tmp" "$file"
    for task in "${unseen[@]}"; do
        row "$method" "$task" "$file"
    done
}

row() { # row METHOD TASK FILE
    local at=/tasks/$2 one two
    one=$(number "$3" "$at/adapt/pass_one/seconds")
    two=$(number "$3" "$at/seconds")
    awk -v method="$1" -v task="$2" -v score="$(number "$3" "$at/accuracy")" \
        -v error="$(number "$3" "$at/accuracy_error")" -v n="$(number "$3" "$at/n_items")" \
        -v one="${one:-0}" -v two="$two" 'BEGIN {
            printf "%-14s %-16s %.4f  %.4f %6d %9.1f %6.1f\n", method, task, score, error, n,
                one + two, (one + two > 0 ? 100 * one / (one + two) : 0) }'
}

files=()
for task in "${experts[@]}"; do
    learn "$task" "$folder/$task.h5"
    files+=("$folder/$task.h5")
done
learn "cls:$(join , "${experts[@]}")" "$folder/cls.h5"
all=$(join , "${files[@]}")

{
    printf '%-14s %-16s %-6s %-7s %6s %9s %6s\n' method task score stderr items seconds 'one %'
    score base
    for task in "${experts[@]}"; do
        score "$task" --experts "$all" --adapt "$task"
    done
    score prompt --experts "$all" --adapt prompt
    score cls --experts "$all" --adapt cls --cls-expert "$folder/cls.h5"
    for task in "${unseen[@]}"; do
        mixture=$folder/mixture-$task.h5
        [ -e "$mixture" ] || "${t2[@]}" adapt "$model" --recipe "$recipe" --experts "$all" \
            --task "$task" --out "$mixture" --resume "${adapt[@]}" </dev/null >&2
        file=$folder/cem-$task.results.h5
        [ -e "$file" ] || "${t2[@]}" eval "$model" --tasks "$task" --limit "$limit" \
            --out "$file" --adapter "$mixture" "${evaluate[@]}" </dev/null >&2
        row cem "$task" "$file"
    done
} | tee "$folder/table.txt"
