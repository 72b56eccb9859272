#!/usr/bin/env bash
# A night's measurements: speed (decomposition, generation, scoring, a training step, a search) and
# quality (scores on fixed items), appended to a history; then what got worse.
#
#   jobs/nightly.sh --history FILE.tsv [options]
#
#   --model MODEL     (default: data/mini, with its own tasks)
#   --tasks A,B       scored; the first is trained on   (default: add,sentiment,choice)
#   --limit N         items of each                     (default: 100)
#   --steps N         training steps that are timed     (default: 8)
#   --repeats N       times are the least of N runs     (default: 3)
#   --commit REV      build that commit, in a work tree of its own
#   --t2 FILE         this program, nothing is built
#   --page FILE.html  the history as a page
#
# T2_RANKS gives the number of ranks (default 2); T2_NIGHTLY_LAUNCH the launcher before t2 (default
# "mpirun -n T2_RANKS"). Exit codes: 0 nothing got worse, 3 something did (named on stdout), else a
# failure. Compare nights of one machine only, and keep it idle meanwhile.
set -euo pipefail
home=$(cd "$(dirname "$0")/.." && pwd)
history='' model=$home/data/mini tasks=add,sentiment,choice limit=100 steps=8 repeats=3 commit='' t2='' page=''
while [ $# -gt 0 ]; do
    case $1 in
    --history | --model | --tasks | --limit | --steps | --repeats | --commit | --t2 | --page)
        [ $# -gt 1 ] || { echo "jobs/nightly.sh: $1 needs a value" >&2; exit 2; }
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
        [ "$1" = --help ] && exit 0
        exit 2
        ;;
    esac
    shift
done
[ -n "$history" ] || { echo "jobs/nightly.sh: --history FILE.tsv is missing" >&2; exit 2; }
if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
read -r -a launch <<<"${T2_NIGHTLY_LAUNCH:-mpirun --oversubscribe --bind-to none -n ${T2_RANKS:-2}}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# ---- the program --------------------------------------------------------------------------------
if [ -z "$t2" ]; then
    tree=$home
    if [ -n "$commit" ]; then
        tree=$home/build/nightly
        git -C "$home" worktree remove --force "$tree" 2>/dev/null || true
        git -C "$home" worktree add --force --detach "$tree" "$commit" >&2
    fi
    (cd "$tree" && cmake --preset release -DBUILD_TESTING=OFF && cmake --build --preset release --target t2) >&2
    t2=$tree/build/release/t2
fi
revision=$(git -C "${tree:-$home}" describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)

# ---- measuring ----------------------------------------------------------------------------------
night=$(date -u +%Y-%m-%dT%H:%M:%SZ)
put() { printf '%s\t%s\t%s\t%s\n' "$night" "$revision" "$1" "$2" | tee -a "$scratch/night.tsv"; }
run() {
    "${launch[@]}" "$t2" "$@" </dev/null 2>"$scratch/err" || {
        echo "jobs/nightly.sh: t2 $1 has failed:" >&2
        tail -n 5 "$scratch/err" >&2
        exit 1
    }
}
# least COMMAND...: the least of the numbers that it prints in `repeats` runs, in $least.
least() {
    local value
    least=''
    for ((i = 0; i < repeats; i++)); do
        value=$("$@")
        if [ -z "$least" ] || awk "BEGIN { exit !($value < $least) }"; then
            least=$value
        fi
    done
}
seconds_of() { # seconds_of COMMAND...: by the clock
    local begin=$EPOCHREALTIME
    "$@" >"$scratch/out"
    awk "BEGIN { print $EPOCHREALTIME - $begin }"
}
decompose() {
    rm -f "$scratch/f.h5"
    run decompose "$model" --modules mlp --out "$scratch/f.h5" -q
}
generate() { run generate "$model" "Once upon a time" --raw --max-new 64 -q; }
score() { # rows of "task score error items tokens/s" in $scratch/scores
    run eval "$model" --tasks "$tasks" --limit "$limit" -q >"$scratch/scores"
}
train_step() { # seconds of a step
    rm -f "$scratch/e.h5"
    run train "$model" -f "$scratch/f.h5" --task "${tasks%%,*}" --modules mlp --batch 16 --steps "$steps" -t 1 -q \
        --out "$scratch/e.h5" >"$scratch/out"
    "$t2" report "$scratch/e.h5" --format csv | awk -F'","' '/^"phases"/ && !/seconds a step/ { print $5 }'
}
search() {
    rm -f "$scratch/m.h5"
    run adapt "$model" --experts "$scratch/e.h5,$scratch/e2.h5" --factors "$scratch/f.h5" --task "${tasks%%,*}" \
        --iterations 2 --population 10 --shots 4 --test-limit 0 -t 1 -q --out "$scratch/m.h5"
}

least seconds_of decompose
put svd.seconds "$least"
least seconds_of generate
put generate.seconds "$least"
least seconds_of score
put scoring.seconds "$least"
least train_step
put train_step.seconds "$least"
if "$t2" help 2>/dev/null | grep -q '^  adapt '; then
    cp "$scratch/e.h5" "$scratch/e2.h5"
    least seconds_of search
    put search.seconds "$least"
fi
while read -r task value _; do
    put "$task.score" "$value"
done <"$scratch/scores"

# ---- the verdict --------------------------------------------------------------------------------
# All or nothing: a night that was killed leaves no half line.
{ [ ! -e "$history" ] || cat "$history"; cat "$scratch/night.tsv"; } >"$history.tmp-$$"
mv "$history.tmp-$$" "$history"
[ -z "$page" ] || "$t2" report --history "$history" --title "t2 by night" --out "$page"
"$t2" report --history "$history" --check
