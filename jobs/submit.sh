#!/usr/bin/env bash
# Submits a chain of Slurm jobs: decompose -> train -> (adapt) -> eval -> report.
#
#   jobs/submit.sh CHAIN.ini [--out DIR] [--from STEP] [--dry-run] [-- SBATCH OPTIONS...]
#
#   --out DIR    the folder of the run (default: runs/NAME of the chain); everything lands there
#   --from STEP  decompose, train, adapt, eval or report: begin there, with what the folder holds
#   --dry-run    print the sbatch commands
#
# Options behind -- go to every job (--partition, --account, --nodes, --time ...). A chain is a file
# of "key = value" lines, such as jobs/chains/mini.ini; jobs/slurm/common.sh says what the
# environment may hold (T2_LAUNCH=mpirun, T2_LOCAL, ...). Prints a line a job; the last is the report's.
set -euo pipefail

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
    exit 2
}
fail() {
    echo "jobs/submit.sh: $*" >&2
    exit 1
}

chain='' out='' from=decompose dry=false extra=()
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=${2:?--out needs a folder} && shift ;;
    --from) from=${2:?--from needs a step} && shift ;;
    --dry-run) dry=true ;;
    --) shift && extra=("$@") && break ;;
    -*) usage ;;
    *) [ -z "$chain" ] || usage && chain=$1 ;;
    esac
    shift
done
[ -n "$chain" ] || usage
[ -f "$chain" ] || fail "$chain: there is no such chain"
case $from in decompose | train | adapt | eval | report) ;; *) usage ;; esac

T2_HOME=$(cd "$(dirname "$0")/.." && pwd)
export T2_HOME
out=${out:-runs/$(basename "$chain" .ini)}
$dry || command -v sbatch >/dev/null || fail "sbatch is not there: this is not a Slurm cluster"
T2_RUN=$(realpath -m "$out")
export T2_RUN

value() { sed -n "s/^$1[[:space:]]*=[[:space:]]*//p" "$chain" | tail -n 1; }
count() { value "$1" | tr ',' ' ' | wc -w; }
known='model tasks unseen seeds recipe title decompose train adapt eval sbatch sbatch-decompose sbatch-train sbatch-adapt sbatch-eval sbatch-report'
while IFS= read -r key; do
    case " $known " in *" $key "*) ;; *) fail "$chain: '$key' is no key of a chain ($known)" ;; esac
done < <(sed -n '/^[[:space:]]*[;#[]/d; s/^\([^=]*[^=[:space:]]\)[[:space:]]*=.*/\1/p' "$chain")
[ -n "$(value model)" ] || fail "$chain: 'model' is missing"
n_tasks=$(count tasks) n_seeds=$(count seeds) n_unseen=$(count unseen)
[ "$n_tasks" -gt 0 ] || fail "$chain: 'tasks' is missing"
[ "$n_seeds" -gt 0 ] || n_seeds=1
n_experts=$((n_tasks * n_seeds))

if ! $dry; then
    mkdir -p "$T2_RUN"
    [ "$chain" -ef "$T2_RUN/chain.ini" ] || cp "$chain" "$T2_RUN/chain.ini"
fi

# submit STEP [ARRAY]: after the step before it; its id in `last`.
last=''
submit() {
    local step=$1 command=(sbatch --parsable) more
    [ -z "$last" ] || command+=("--dependency=afterok:$last" --kill-on-invalid-dep=yes)
    [ $# -lt 2 ] || command+=("--array=$2")
    command+=("--chdir=$T2_RUN" --export=ALL)
    for key in sbatch "sbatch-$step"; do
        read -r -a more <<<"$(value "$key")"
        command+=("${more[@]}")
    done
    command+=("${extra[@]}" "$T2_HOME/jobs/slurm/$step.sbatch")
    if $dry; then
        printf '%s\n' "${command[*]}"
        last="<$step>"
    else
        last=$("${command[@]}")
        last=${last%%;*}
        printf '%-10s %s\n' "$step" "$last"
    fi
}

begun=false
for step in decompose train adapt eval report; do
    [ "$step" = "$from" ] && begun=true
    $begun || continue
    case $step in
    train) submit train "0-$((n_experts - 1))" ;;
    adapt) [ "$n_unseen" -eq 0 ] || ! "${T2:-$T2_HOME/build/release/t2}" help 2>/dev/null | grep -q '^  adapt ' ||
        submit adapt "0-$((n_unseen - 1))" ;;
    eval) submit eval "0-$n_experts" ;;
    *) submit "$step" ;;
    esac
done
