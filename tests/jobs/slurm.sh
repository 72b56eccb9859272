#!/usr/bin/env bash
# The job scripts on a real Slurm: the chain of jobs/submit.sh on data/mini, and a training that meets
# its time limit, is preempted, waits for a drained node, and ends with the bits of an undisturbed one;
# a training over two nodes, one of which goes down.
#
#   tests/jobs/slurm.sh [T2]        (default: build/release/t2)
#
# Starts munged, slurmctld and two slurmd on this machine in a folder of its own and ends them. Needs
# root and the packages slurm-wlm and munge; takes about six minutes on an idle machine, so ctest does
# not run it. Exit code 77: skipped.
set -euo pipefail
T2_SOURCE=$(cd "$(dirname "$0")/../.." && pwd)
T2_BINARY=$(realpath "${1:-$T2_SOURCE/build/release/t2}")
for program in munged slurmctld slurmd sbatch srun h5diff; do
    if ! PATH=$PATH:/usr/sbin:/sbin command -v $program >/dev/null; then
        echo "SKIPPED: $program is not installed (apt-get install slurm-wlm munge hdf5-tools)"
        exit 77
    fi
done
if [ "$(id -u)" -ne 0 ]; then
    echo "SKIPPED: Slurm's daemons need root here"
    exit 77
fi
PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=tests/shell.sh
. "$T2_SOURCE/tests/shell.sh"
# shellcheck source=tests/jobs/slurm_cluster.sh
. "$T2_SOURCE/tests/jobs/slurm_cluster.sh"
trap 'cluster_stop; rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM
unset "${!SLURM_@}" "${!SBATCH_@}"
export T2=$T2_BINARY
cd "$scratch"
chmod 755 .
code=0 out='' err=''

state_of() { squeue -h -j "$1" -o '%T' 2>/dev/null | head -n 1; }
has_state() { [ "$(state_of "$1")" = "$2" ]; }
detail() { scontrol show job "$1" | tr ' ' '\n' | sed -n "s/^$2=//p" | head -n 1; }
has_ended() { case $(detail "$1" JobState) in COMPLETED | FAILED | CANCELLED | TIMEOUT) true ;; *) false ;; esac }
logs() { tail -n 15 "$1"/*.out "$scratch"/cluster/slurmctld.out 2>/dev/null || true; }

cluster_start "$scratch/cluster" || {
    tail -n 5 "$scratch"/cluster/*.out
    echo "FAIL  Slurm does not start"
    exit 1
}
echo "ok    Slurm $(slurmd -V | awk '{ print $2 }') runs with two nodes"
# What follows is about one node: jobs that find no room there must wait, or give way.
scontrol update NodeName=n2 State=DRAIN Reason=later

# ---- the chain ----------------------------------------------------------------------------------
cat >chain.ini <<'INI'
model = data/mini
tasks = add, sentiment
unseen = reverse
seeds = 3, 4
decompose = --modules all -t 1
train = --modules all --batch 8 --steps 6 --validate-every 3 --valid-limit 20 -t 1
eval = --limit 20 -t 1
adapt = --iterations 2 --shots 4 --test-limit 10
sbatch = --mem=2G
INI
run "$T2_SOURCE/jobs/submit.sh" chain.ini --out run
check "a chain is submitted" "$code" -eq 0
report=$(awk '$1 == "report" { print $2 }' <<<"$out")
check "... that ends in a report" -n "$report"
cluster_wait 240 has_ended "$report" || logs run
check "the chain ends well" "$(detail "$report" JobState)" = COMPLETED
check "with a page" -s run/report.html
check "... the base model's and every expert's scores" "$(find run -name 'eval.*.h5' | wc -l)" -eq 5
check "... a mixture for the unseen task" -s run/adapt.reverse.h5
contains "... experts side by side" "$(cat run/report.html)" '<section id="similarity">'
for task in add sentiment; do
    for seed in 3 4; do
        ranks 2 train "$T2_SOURCE/data/mini" --factors run/factors.h5 --task $task --seed $seed --modules all \
            --batch 8 --steps 6 --validate-every 3 --valid-limit 20 -t 1 -q --out whole.h5
        same "$task, seed $seed: the bits of a training outside Slurm" whole.h5 run/$task.s$seed.h5 /layers /curve/loss
        rm -f whole.h5
    done
done

# ---- a training with a hard life ----------------------------------------------------------------
# Long enough for three breaks, however fast the machine is.
options=(--factors run/factors.h5 --task add --seed 1 --modules all --batch 16 --rate 5e-3 -t 1 -q)
ranks 2 train "$T2_SOURCE/data/mini" "${options[@]}" --steps 12 --out short.h5
column() { h5dump -y -w 1 -d "/curve/seconds_$1" short.h5 | sed -n 's/^ *\([0-9][0-9.e-]*\),\{0,1\}$/\1/p'; }
# The quickest step: what else runs on the machine must not make the training too short.
steps=$(paste <(column rollout) <(column gradient) |
    awk 'NR == 1 || $1 + $2 < least { least = $1 + $2 } END { print int(60 / least) }')
options+=(--steps "$steps" --validate-every 40 --valid-limit 50)
mkdir hard
cat >hard/chain.ini <<INI
model = data/mini
tasks = add
seeds = 1
train = ${options[*]:6}
INI
cp run/factors.h5 hard/
is_under_way() { [ -s hard/add.s1.h5.state ] && has_state "$job" RUNNING; }
restarts() { detail "$job" Restarts; }
has_restarted() { [ "$(restarts)" -gt "$1" ]; }
# Slurm holds a requeued job back for two minutes, until the node has been cleaned; a few seconds do.
go_on() {
    cluster_wait 60 has_state "$job" PENDING || logs hard
    sleep 8
    scontrol update JobId="$job" StartTime=now 2>/dev/null || true
}

# A minute's limit, less 10 s and what Slurm's clock is coarse by: 20 to 50 s of training.
job=$(T2_HOME=$T2_SOURCE T2_RUN=$scratch/hard sbatch --parsable --chdir="$scratch/hard" --time=1 \
    --signal=B:USR1@10 --partition=low "$T2_SOURCE/jobs/slurm/train.sbatch")
cluster_wait 90 has_restarted 0 || logs hard
check "at its time limit a training goes back into the queue" "$(restarts)" -eq 1
contains "... by itself" "$(cat hard/*.out)" "back into the queue"
check "... with its state" -s hard/add.s1.h5.state

go_on
cluster_wait 60 is_under_way || logs hard
check "it goes on" "$(state_of "$job")" = RUNNING
sleep 4
urgent=$(sbatch --parsable --partition=high --ntasks=2 --time=1 --output=urgent.out --wrap 'echo urgent')
cluster_wait 60 has_ended "$urgent" || logs hard
check "an urgent job takes its place" "$(cat urgent.out)" = urgent
cluster_wait 30 has_restarted 1 || logs hard
check "... and it goes back into the queue" "$(restarts)" -eq 2
check "... with its state" -s hard/add.s1.h5.state

scontrol update NodeName=n1 State=DRAIN Reason=test
go_on
sleep 6
check "on a drained node nothing starts" "$(state_of "$job")" = PENDING
scontrol update NodeName=n1 State=RESUME
cluster_wait 60 is_under_way || logs hard
check "... until it is back" "$(state_of "$job")" = RUNNING
end=$((SECONDS + 900))
until has_ended "$job" || [ $SECONDS -gt $end ]; do
    if has_state "$job" PENDING; then
        go_on
    fi
    sleep 1
done
check "the training ends well, after $(restarts) restarts" "$(detail "$job" JobState)" = COMPLETED
check "... and its state is gone" ! -e hard/add.s1.h5.state
ranks 2 train "$T2_SOURCE/data/mini" "${options[@]}" --out whole.h5
same "an undisturbed training of $steps steps has the same bits" whole.h5 hard/add.s1.h5 /layers /curve/loss

# ---- two nodes ----------------------------------------------------------------------------------
scontrol update NodeName=n2 State=RESUME
cluster_wait 30 cluster_is_idle n2 || logs hard
mkdir wide
cp hard/factors.h5 wide/
sed "s|^train = .*|train = ${options[*]:6}|; s|--steps $steps|--steps $((steps / 2))|" hard/chain.ini >wide/chain.ini
# Open MPI's osc/rdma names files in /dev/shm after the host, which these two nodes share.
job=$(T2_HOME=$T2_SOURCE T2_RUN=$scratch/wide sbatch --parsable --chdir="$scratch/wide" --time=20 \
    --export=ALL,OMPI_MCA_osc=pt2pt --nodes=2 --ntasks-per-node=1 --partition=low "$T2_SOURCE/jobs/slurm/train.sbatch")
wide_is_under_way() { [ -s wide/add.s1.h5.state ] && has_state "$job" RUNNING; }
cluster_wait 90 wide_is_under_way || logs wide
check "a training runs on two nodes" "$(detail "$job" NumNodes)" -eq 2
scontrol update NodeName=n2 State=DOWN Reason=test
cluster_wait 60 has_restarted 0 || logs wide
check "one of them goes down, and it goes back into the queue" "$(restarts)" -eq 1
check "... with its state" -s wide/add.s1.h5.state
cluster_wait 60 has_state "$job" PENDING || logs wide
# It may have come back by itself.
scontrol update NodeName=n2 State=RESUME 2>/dev/null || true
end=$((SECONDS + 600))
until has_ended "$job" || [ $SECONDS -gt $end ]; do
    if has_state "$job" PENDING; then
        go_on
    fi
    sleep 1
done
check "with both again it ends well" "$(detail "$job" JobState)" = COMPLETED
ranks 2 train "$T2_SOURCE/data/mini" "${options[@]}" --steps $((steps / 2)) --out half.h5
same "... with the bits of an undisturbed training on one node" half.h5 wide/add.s1.h5

# ---- mpirun, node-local copies, a chain that fails ----------------------------------------------
mkdir local
T2_LAUNCH=mpirun T2_LOCAL=$scratch/local run "$T2_SOURCE/jobs/submit.sh" chain.ini --out run --from eval
report=$(awk '$1 == "report" { print $2 }' <<<"$out")
cp run/eval.add.s3.h5 first.h5
cluster_wait 120 has_ended "$report" || logs run
check "with mpirun and node-local copies the chain ends well" "$(detail "$report" JobState)" = COMPLETED
same "... with the same answers" first.h5 run/eval.add.s3.h5 /tasks/add/items
check "... and leaves nothing on the node" "$(find local -type f | wc -l)" -eq 0
sed 's|^model.*|model = absent|' chain.ini >broken.ini
run "$T2_SOURCE/jobs/submit.sh" broken.ini --out broken
last=$(awk '$1 == "report" { print $2 }' <<<"$out")
cluster_wait 60 has_ended "$last" || logs broken
check "a step that fails ends the chain" "$(detail "$last" JobState)" = CANCELLED
contains "... and its log says why" "$(cat broken/*.out)" "absent"

cluster_stop
check "no daemon is left" "$(pgrep -f "$scratch/cluster" | wc -l)" -eq 0
finish
