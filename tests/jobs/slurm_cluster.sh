# shellcheck shell=bash
# A Slurm of our own on this machine, for tests/jobs/slurm.sh: munged, slurmctld and two slurmd
# ("slurmd -N", which Debian's Slurm has, though not all sites') in a folder of their own, on ports of
# their own, ended by cluster_stop whatever happens. Source it; needs root.

# TmpFS: Slurm's PMIx plugin makes a folder of the same name there on each node.
#
# cluster_start FOLDER: two nodes n1 and n2, each with all of the machine's processors and less than
# half of its memory; a partition "low" whose jobs are requeued for those of "high".
cluster_start() {
    local folder=$1 host cpus memory port node
    host=$(hostname -s)
    cpus=$(nproc)
    memory=$(awk '/^MemTotal/ { print int($2 / 1024 * 0.4) }' /proc/meminfo)
    port=$((20000 + $$ % 20000))
    cluster_folder=$folder
    mkdir -p "$folder"/{state,spool-n1,spool-n2,tmp-n1,tmp-n2}
    # Daemons and jobs that run as other users walk through it.
    chmod 755 "$folder"
    head -c 1024 /dev/urandom >"$folder/munge.key"
    chmod 400 "$folder/munge.key"
    cat >"$folder/slurm.conf" <<CONF
ClusterName=t2test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
TmpFS=$folder/tmp-%n
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=20
MinJobAge=3600
JobRequeue=1
SchedulerParameters=sched_interval=2,requeue_delay=0,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=$cpus RealMemory=$memory State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=30 State=UP
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
CONF
    export SLURM_CONF=$folder/slurm.conf
    munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
        --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
        --seed-file="$folder/munged.seed" --num-threads=2 >"$folder/munged.out" 2>&1 &
    cluster_pids=($!)
    cluster_wait 10 test -S "$folder/munge.socket" || return 1
    slurmctld -D -i >"$folder/slurmctld.out" 2>&1 &
    cluster_pids+=($!)
    cluster_wait 20 scontrol ping || return 1
    for node in n1 n2; do
        slurmd -D -N $node >"$folder/slurmd-$node.out" 2>&1 &
        cluster_pids+=($!)
    done
    cluster_wait 30 cluster_is_idle n1 && cluster_wait 30 cluster_is_idle n2
}

cluster_is_idle() { sinfo -h -n "$1" -o '%T' 2>/dev/null | grep -q '^idle$'; }

# cluster_wait SECONDS COMMAND...: until it succeeds.
cluster_wait() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}

# Ends what cluster_start began, jobs first. May be called twice.
cluster_stop() {
    local pid
    [ -n "${cluster_folder:-}" ] || return 0
    timeout 10 scancel --full -u "$(id -un)" >/dev/null 2>&1 || true
    cluster_wait 15 cluster_is_empty || true
    for ((i = ${#cluster_pids[@]} - 1; i >= 0; i--)); do
        pid=${cluster_pids[i]}
        kill "$pid" 2>/dev/null || true
        cluster_wait 10 cluster_has_ended "$pid" || kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    cluster_pids=()
    cluster_folder=
}

cluster_is_empty() { [ -z "$(timeout 5 squeue -h)" ]; }
cluster_has_ended() { ! kill -0 "$1" 2>/dev/null; }
