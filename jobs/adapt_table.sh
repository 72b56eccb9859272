#!/usr/bin/env bash
# The tables of self-adaptation: base model, each expert, the strategies A (prompt), B (cls) and C
# (cem: a mixture of experts found on a few shots, beside the uniform one) on tasks that no expert
# was trained on: scores with standard errors, seconds with pass one's share.
#
#   jobs/adapt_table.sh MODEL FOLDER               such as: jobs/adapt_table.sh data/mini mini-table
#   jobs/adapt_table.sh MODEL FACTORS.h5 FOLDER    with factors of t2 decompose that are there
#
#   EXPERTS   tasks that get an expert             (gsm8k arc_easy sst2)
#   UNSEEN    tasks of the table                   (mawps arc_challenge)
#   CLS       what the classifier learns           (cls:gsm8k,arc_easy,sst2)
#   LIMIT     items of each in the table; 0: all   (0)
#   RECIPE    settings of training and mixing      (jobs/recipes/adapt-table.ini)
#   TRAIN     further options of t2 train, such as "--steps 10"; TRAIN_gsm8k: of that task alone;
#             TRAIN_cls: of the classifier's       ("--objective next-token")
#   ADAPT     further options of t2 adapt
#   EVAL      further options of t2 eval, such as "--max-new 64"
#   T2        the program with its launcher        (t2, else build/release/t2; "mpirun -n 2 t2")
#
# data/mini has defaults of its own: experts for add, sentiment and choice, by jobs/recipes/mini.ini,
# on subtract, reverse and mixed, in about a minute. Experts, results and the tables (tables.txt;
# rows.tsv for programs) stay in FOLDER; what is there is not made again, and a training or search
# that was stopped goes on.
set -euo pipefail
here=$(dirname "$0")
# shellcheck source=jobs/lib.sh
. "$here/lib.sh"
if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
    exit 2
fi
model=$1
folder=${!#}
if [ -e "$model/tasks/mixed.ini" ]; then # data/mini
    : "${EXPERTS:=add sentiment choice}" "${UNSEEN:=subtract reverse mixed}" "${CLS:=cls}"
    : "${RECIPE:=$here/recipes/mini.ini}" "${TRAIN_choice:=--objective next-token}"
fi
read -ra experts <<<"${EXPERTS:-gsm8k arc_easy sst2}"
read -ra unseen <<<"${UNSEEN:-mawps arc_challenge}"
built=$here/../build/release/t2
read -ra t2 <<<"${T2:-$(command -v t2 || { [ -x "$built" ] && echo "$built"; } || echo t2)}"
read -ra train <<<"${TRAIN:-}"
read -ra adapt <<<"${ADAPT:-}"
read -ra evaluate <<<"${EVAL:-}"
: "${TRAIN_cls:=--objective next-token}"
recipe=${RECIPE:-$here/recipes/adapt-table.ini}
limit=${LIMIT:-0}
if ! command -v "${t2[0]}" >/dev/null; then
    echo "adapt_table.sh: ${t2[0]} is neither on the PATH nor built in build/release; name it with T2" >&2
    exit 2
fi
mkdir -p "$folder"

join() { # join , A B C
    local IFS=$1
    shift
    echo "$*"
}

step() { printf '\n== %s\n' "$*" >&2; }

learn() { # learn NAME TASK: FOLDER/NAME.h5
    local own="TRAIN_${1//[^A-Za-z0-9_]/_}" more
    read -ra more <<<"${!own:-}"
    [ -e "$folder/$1.h5" ] && return
    step "an expert for $1"
    "${t2[@]}" train "$model" --recipe "$recipe" --factors "$factors" --task "$2" --test-limit 0 \
        --out "$folder/$1.h5" --resume "${more[@]}" "${train[@]}" </dev/null >&2
}

mix() { # mix METHOD TASK: FOLDER/METHOD-TASK.h5
    [ -e "$folder/$1-$2.h5" ] && return
    step "a mixture for $2: $1"
    "${t2[@]}" adapt "$model" --recipe "$recipe" --experts "$all" --task "$2" --test-limit 0 \
        --method "$1" --out "$folder/$1-$2.h5" --resume "${adapt[@]}" </dev/null >&2
}

number() { # number FILE ATTRIBUTE: an attribute of a results file; empty where there is none
    { h5dump -a "$2" "$1" 2>/dev/null || true; } | sed -n 's/.*(0): //p'
}

row() { # row METHOD TASK FILE: method, task, score, standard error, items, seconds of both passes
    local at=/tasks/$2
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$(number "$3" "$at/accuracy")" \
        "$(number "$3" "$at/accuracy_error")" "$(number "$3" "$at/n_items")" \
        "$(number "$3" "$at/adapt/pass_one/seconds")" "$(number "$3" "$at/seconds")" >>"$rows"
}

# score METHOD TASKS FILE OPTIONS...: rows of the results in FOLDER/FILE, made if need be.
score() {
    local method=$1 tasks=$2 file=$folder/$3 task
    shift 3
    if [ ! -e "$file" ]; then
        step "$method on $tasks"
        "${t2[@]}" eval "$model" --tasks "$tasks" --limit "$limit" --out "$file.tmp" "$@" \
            "${evaluate[@]}" </dev/null >&2
        mv "$file.tmp" "$file"
    fi
    for task in ${tasks//,/ }; do
        row "$method" "$task" "$file"
    done
}

# From the rows: a line a method, a column a task.
tables() {
    awk -F'\t' '
        !($1 in seen) { seen[$1]; methods[++n] = $1 }
        !($2 in known) { known[$2]; tasks[++m] = $2 }
        {
            score[$1, $2] = sprintf("%.3f +- %.3f", $3, $4)
            spent[$1, $2] = sprintf("%.1f", $6 + $7) ($6 > 0 ? sprintf(" (%.0f %%)", 100 * $6 / ($6 + $7)) : "")
            items[$2] = $5
        }
        function table(head, cells, i, j) {
            printf("%-16s", head)
            for (j = 1; j <= m; j++) printf("  %-16s", tasks[j])
            printf("\n")
            for (i = 1; i <= n; i++) {
                printf("%-16s", methods[i])
                for (j = 1; j <= m; j++) printf("  %-16s", cells[methods[i], tasks[j]])
                printf("\n")
            }
        }
        END {
            table("score", score)
            printf("\n")
            table("seconds", spent)
            printf("\nitems:")
            for (j = 1; j <= m; j++) printf(" %s %d%s", tasks[j], items[tasks[j]], j < m ? "," : "")
            printf("; in brackets: of the seconds, the part of pass one\n")
        }' "$rows" | sed 's/ *$//'
}

factors=$folder/factors.h5
[ $# -eq 3 ] && factors=$2
if [ ! -e "$factors" ]; then
    step "factors of $model"
    "${t2[@]}" decompose "$model" --modules "$(sed -n 's/^modules *= *//p' "$recipe" | head -1)" \
        --out "$factors" --resume </dev/null >&2
fi
files=()
for task in "${experts[@]}"; do
    learn "$task" "$task"
    files+=("$folder/$task.h5")
done
all=$(join , "${files[@]}")
learn cls "${CLS:-cls:$(join , "${experts[@]}")}"

rows=$folder/rows.tsv
: >"$rows"
tasks=$(join , "${unseen[@]}")
score base "$tasks" base.results.h5
for task in "${experts[@]}"; do
    score "$task" "$tasks" "$task.results.h5" --experts "$all" --adapt "$task"
done
score prompt "$tasks" prompt.results.h5 --experts "$all" --adapt prompt
score cls "$tasks" cls.results.h5 --experts "$all" --adapt cls --cls-expert "$folder/cls.h5"
for method in uniform cem; do
    for task in "${unseen[@]}"; do
        mix $method "$task"
        score $method "$task" "$method-$task.results.h5" --adapter "$folder/$method-$task.h5"
    done
done
printf '\n' >&2
tables | tee "$folder/tables.txt"
printf '\nAll of it as a page: t2 report %s/*.h5 --out %s/page.html\n' "$folder" "$folder" >&2
