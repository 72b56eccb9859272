# shellcheck shell=bash
# shellcheck disable=SC2034 # the variables are for the scripts that source this
# What the job scripts share. They are started by jobs/submit.sh, or by hand:
#
#   sbatch --export=ALL,T2_HOME=$PWD,T2_RUN=runs/one jobs/slurm/train.sbatch
#
# T2_HOME    the t2 source folder                  (default: where sbatch was called)
# T2_RUN     the folder of the run, with chain.ini (jobs/submit.sh makes it)
# T2         the program                           (default: T2_HOME/build/release/t2)
# T2_LAUNCH  srun (default) or mpirun
# T2_LOCAL   a folder on each node that model and factors are copied to before they are read
#            (default: none; such as /scratch/local or "$TMPDIR")
# T2_MPI     srun's --mpi                          (default: pmix)
#
# jobs/slurm/site.sh, where there is one, is read first: modules, T2_LOCAL, T2_MPI of a site.

T2_HOME=${T2_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}
# shellcheck disable=SC1091
[ ! -f "$T2_HOME/jobs/slurm/site.sh" ] || . "$T2_HOME/jobs/slurm/site.sh"
T2=${T2:-$T2_HOME/build/release/t2}
: "${T2_RUN:?set T2_RUN to the folder of the run; jobs/submit.sh makes one}"
if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# chain KEY [DEFAULT]: a line "KEY = value" of the run's chain.ini.
chain() {
    local value
    value=$(sed -n "s/^$1[[:space:]]*=[[:space:]]*//p" "$T2_RUN/chain.ini" | tail -n 1)
    printf '%s\n' "${value:-${2:-}}"
}

# words KEY: its value in the array `words`, cut at spaces and commas.
words() {
    local value
    value=$(chain "$1")
    read -r -a words <<<"${value//,/ }"
}

# run COMMAND...: t2 on all ranks, in the background, with what `pid` says. Slurm's warning before
# the time limit (SIGUSR1, to the batch shell alone) and a preemption (SIGTERM) are passed on to the
# ranks. Returns t2's exit code.
run() {
    local launcher code
    if [ "${T2_LAUNCH:-srun}" = mpirun ]; then
        # One rank a task; threads stay where mpirun puts them.
        launcher=(mpirun --bind-to none)
    else
        # Without --kill-on-bad-exit a dead rank leaves the others waiting for it.
        launcher=(srun "--mpi=${T2_MPI:-pmix}" --kill-on-bad-exit=1)
        [ -z "${SLURM_CPUS_PER_TASK:-}" ] || launcher+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
    fi
    printf '$ %s\n' "${launcher[*]} $T2 $*"
    "${launcher[@]}" "$T2" "$@" &
    pid=$!
    trap 'kill -USR1 "$pid" 2>/dev/null' USR1
    trap 'kill -TERM "$pid" 2>/dev/null' TERM
    # A signal ends `wait`, not the command.
    while :; do
        code=0
        wait "$pid" || code=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    trap - USR1 TERM
    return "$code"
}

# run_requeued COMMAND...: the same for a command that ends with 75 when it was asked to stop and
# goes on when it is started again: the job is put back into the queue.
run_requeued() {
    local code=0
    run "$@" || code=$?
    if [ "$code" -eq 75 ]; then
        if [ "${SLURM_RESTART_COUNT:-0}" -ge "${T2_MAX_RESTARTS:-100}" ]; then
            echo "stopped after $SLURM_RESTART_COUNT restarts; T2_MAX_RESTARTS allows more" >&2
            exit 75
        fi
        echo "stopped before the time limit: back into the queue"
        # A preempted job is in the queue already.
        scontrol requeue "$SLURM_JOB_ID" || true
        # Slurm ends this script now; leaving by itself would count as a failure.
        sleep 60
    fi
    return "$code"
}

# made FILE: fails where it is not there. A step that Slurm has cancelled may end without an error.
made() {
    [ -s "$1" ] && return 0
    echo "$1 has not been made" >&2
    return 1
}

# stage PATH: copies a file or folder to T2_LOCAL on every node, once a job; its new path in
# `staged`. Without T2_LOCAL the path itself.
stage() {
    local path=${1%/} target
    staged=$path
    [ -n "${T2_LOCAL:-}" ] || return 0
    target=$T2_LOCAL/t2-$SLURM_JOB_ID
    # shellcheck disable=SC2016 # for the shell on the nodes
    srun --ntasks-per-node=1 --ntasks="${SLURM_JOB_NUM_NODES:-1}" bash -c \
        'mkdir -p "$2" && cp -RL "$1" "$2/"' - "$path" "$target"
    staged=$target/$(basename "$path")
    staged_folder=$target
    trap unstage EXIT
}
unstage() {
    srun --ntasks-per-node=1 --ntasks="${SLURM_JOB_NUM_NODES:-1}" rm -rf "$staged_folder" || true
}

# A path of chain.ini: as it is, or inside T2_HOME.
in_home() {
    case $1 in
    /*) printf '%s\n' "$1" ;;
    *) if [ -e "$1" ] || [ ! -e "$T2_HOME/$1" ]; then printf '%s\n' "$1"; else printf '%s\n' "$T2_HOME/$1"; fi ;;
    esac
}

# What every job needs of the chain.
model=$(in_home "$(chain model)")
factors=$T2_RUN/factors.h5
recipe=()
[ -z "$(chain recipe)" ] || recipe=(--recipe "$(in_home "$(chain recipe)")")

# options KEY: more options for a command, in the array `options`.
options() { read -r -a options <<<"$(chain "$1")"; }
