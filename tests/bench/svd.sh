#!/bin/sh
# The decomposition beside its peers on the same machine in one run: ours and the peer's in turn,
# ROUNDS times, and the medians' ratio beside the required one. Ends with status 1 where a figure
# misses it.
#
#   tests/bench/svd.sh MODEL [PART...]
#
#   MODEL      SmolLM2 (Hugging Face folder or GGUF file); only parts 3, 5 and 6 read it
#   PART       1  a matrix in f64 against p?gesvd on the same two ranks
#              2  sets of matrices on two ranks against torch.linalg.svd
#              3  t2 decompose on MODEL's MLP matrices against torch.linalg.svd, and its scaling
#              4  peak memory of a rank
#              5  the same bits at any number of ranks and threads, and of runs on a grid
#              6  singular values, vectors and composed weights of all matrices against numpy
#              all of them when none is named
#
#   BUILD      folder of t2 and bench_svd                   (build/release)
#   PYTHON     a Python with torch, numpy, h5py, gguf       (python3)
#   MPIRUN     how to start ranks, without -n               (mpirun --oversubscribe --bind-to none)
#   ROUNDS 3   THREADS 2: of the peer
#   SQUARES    "1024x1024 2048x2048"        part 1
#   SET        2048x2048:8,4096x4096:4      part 2
#   TALL       14336x4096                   parts 2 and 4
#   MODULES    mlp                          parts 3 and 5
#   GRID       re:layers\.[0-3]\.mlp        part 5, on the grid
#   WORK       folder for files, kept; otherwise a temporary one
# shellcheck disable=SC2317,SC2329 # functions are called by name from figure
set -eu

case ${1:-} in
'' | -*) sed -n '2,/^#   WORK/s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
model=$1
shift
parts=${*:-1 2 3 4 5 6}
here=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD:-build/release} python=${PYTHON:-python3}
mpirun=${MPIRUN:-mpirun --oversubscribe --bind-to none}
rounds=${ROUNDS:-3} threads=${THREADS:-2}
squares=${SQUARES:-1024x1024 2048x2048} set=${SET:-2048x2048:8,4096x4096:4}
tall=${TALL:-14336x4096}
modules=${MODULES:-mlp} grid=${GRID:-re:layers\\.[0-3]\\.mlp}
export OPENBLAS_NUM_THREADS=1
if [ -n "${WORK:-}" ]; then
    work=$WORK
    mkdir -p "$work"
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
fi
missed=0

# ---- runs: each prints one number -----------------------------------------------------------------

# Quiet unless it fails.
quiet() {
    "$@" >"$work/log" 2>&1 || {
        echo "svd.sh: failed: $*" >&2
        tail -n 20 "$work/log" >&2
        return 1
    }
}
ranks() {
    n=$1
    shift
    $mpirun -n "$n" "$@"
}
seconds_in_log() {
    awk '/^set seconds/ {x = $3} END {if (x == "") exit 1; print x}' "$work/log"
}
ours_set() {
    quiet ranks 2 "$build/bench_svd" --set "$@" && seconds_in_log
}
torch_set() {
    quiet env OMP_NUM_THREADS="$threads" "$python" "$here/bench/svd_peer.py" set "$@" \
        --threads "$threads" && seconds_in_log
}
torch_model() {
    quiet env OMP_NUM_THREADS="$threads" "$python" "$here/bench/svd_peer.py" model "$model" \
        --modules "$modules" --threads "$threads" && seconds_in_log
}

# elapsed COMMAND...: wall-clock seconds of the whole command.
elapsed() {
    begin=$(date +%s.%N)
    quiet "$@" || return 1
    echo "$begin $(date +%s.%N)" | awk '{printf("%.3f\n", $2 - $1)}'
}
remove() {
    rm -rf "$1" "$1.parts"
}
# decompose OUT RANKS THREADS ARGUMENTS...: a fresh factor file of MODEL.
decompose() {
    out=$1 n=$2 t=$3
    shift 3
    remove "$out"
    quiet ranks "$n" "$build/t2" decompose "$model" --out "$out" --threads "$t" "$@"
}
ours_model() {
    remove "$work/model.h5"
    elapsed ranks 2 "$build/t2" decompose "$model" --modules "$modules" --threads 1 \
        --out "$work/model.h5"
}
both_alone() {
    "$build/t2" decompose "$model" --modules "$modules" --threads 1 --out "$work/a.h5" &
    first=$!
    "$build/t2" decompose "$model" --modules "$modules" --threads 1 --out "$work/b.h5" &
    wait $! && wait "$first"
}
# Seconds a model: two are made in the time.
two_alone() {
    remove "$work/a.h5"
    remove "$work/b.h5"
    both=$(elapsed both_alone) && echo "$both" | awk '{print $1 / 2}'
}

# ---- figures --------------------------------------------------------------------------------------

median() {
    sort -n | awk '{x[NR] = $1} END {h = int((NR + 1) / 2); print (x[h] + x[NR + 1 - h]) / 2}'
}
spread() {
    sort -n | awk 'NR == 1 {x = $1} END {printf("%.2f", $1 / x)}'
}
# row PART NAME OURS PEER RATIO REQUIRED [SPREAD]; a required ratio of 0: only to be seen.
row() {
    awk -v p="$1" -v n="$2" -v o="$3" -v t="$4" -v r="$5" -v b="$6" -v s="${7:-}" 'BEGIN {
        verdict = (b == 0) ? "" : (r >= b) ? "ok" : "MISSED"
        printf("%-4s %-46s %9.3f %9.3f %7.2f %6s  %-11s %s\n", p, n, o, t, r, b == 0 ? "-" : b, s,
            verdict)
        exit (verdict == "MISSED") }' || missed=1
}
# figure PART NAME REQUIRED OURS... -- PEER...: the peer's median over ours.
figure() {
    part=$1 name=$2 required=$3
    shift 3
    first='' second='' side=first
    for word; do
        if [ "$word" = -- ]; then
            side=second
        elif [ "$side" = first ]; then
            first="$first $word"
        else
            second="$second $word"
        fi
    done
    : >"$work/ours"
    : >"$work/peer"
    round=0
    while [ "$round" -lt "$rounds" ]; do
        $first >>"$work/ours" && $second >>"$work/peer" || exit 1
        round=$((round + 1))
    done
    we=$(median <"$work/ours") they=$(median <"$work/peer")
    row "$part" "$name" "$we" "$they" "$(awk -v a="$they" -v b="$we" 'BEGIN {print a / b}')" \
        "$required" "$(spread <"$work/ours") $(spread <"$work/peer")"
}
# A statement that the command's status decides.
statement() {
    part=$1 name=$2
    shift 2
    if "$@" >"$work/log" 2>&1; then
        printf '%-4s %-78s  ok\n' "$part" "$name"
        grep -v '^$' "$work/log" | sed 's/^/       /' || true
    else
        printf '%-4s %-78s  MISSED\n' "$part" "$name"
        sed 's/^/       /' "$work/log"
        missed=1
    fi
}
# The spread is the slowest round over the fastest, of ours and of the peer.
title() {
    printf '\n%-51s %9s %9s %7s %6s  %s\n' "$1" ours "$2" ratio bar "$3"
}

# ---- parts ----------------------------------------------------------------------------------------

part_1() {
    title 'a matrix on 2 ranks, f64, seconds' 'p?gesvd' spread
    for shape in $squares; do
        figure 1 "$shape" 12 ours_set "$shape" --precision f64 -- \
            ours_set "$shape" --precision f64 --method gesvd
    done
}
part_2() {
    title 'on 2 ranks, seconds' torch spread
    figure 2 "f64, $set, Gaussian" 1 ours_set "$set" --precision f64 -- torch_set "$set"
    figure 2 "f32, $set, condition 20" 2 ours_set "$set" --precision f32 --condition 20 -- \
        torch_set "$set" --condition 20
    figure 2 "auto, $tall, condition 20" 2 ours_set "$tall" --condition 20 -- \
        torch_set "$tall" --condition 20
    title 'on 2 ranks, seconds' lapack spread
    figure 2 "two-stage, f64, $set" 0 ours_set "$set" --precision f64 --method two-stage -- \
        ours_set "$set" --precision f64 --method lapack
    figure 2 "two-stage, f32, $set, condition 20" 0 \
        ours_set "$set" --precision f32 --condition 20 --method two-stage -- \
        ours_set "$set" --precision f32 --condition 20 --method lapack
}
part_3() {
    title 't2 decompose, whole command, seconds' torch spread
    figure 3 "$modules, 2 ranks, 2 threads of torch" 3 ours_model -- torch_model
    title 't2 decompose, seconds a model' alone spread
    figure 3 "$modules, 2 ranks; 1 rank, two at once" 0.95 ours_model -- two_alone
}

# Each rank prints the peak of the command that it starts.
peak='import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print("\npeak MiB", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(code)'
part_4() {
    title 'peak of the larger of 2 ranks, MiB' allowed ''
    if [ ! -f "$work/tall/config.json" ]; then
        quiet "$python" "$here/bench/svd_peer.py" make "$work/tall" --ffn "${tall%x*}" \
            --hidden "${tall#*x}" --threads "$threads" || exit 1
    fi
    for precision in auto f64; do
        remove "$work/tall.h5"
        quiet ranks 2 "$python" -c "$peak" "$build/t2" decompose "$work/tall" --threads 1 \
            --modules gate_proj --precision "$precision" --out "$work/tall.h5" || exit 1
        used=$(awk '/^peak MiB/ && $3 > x {x = $3} END {if (!x) exit 1; print x}' "$work/log")
        row 4 "t2 decompose, $tall, $precision" "$used" 1536 \
            "$(awk -v u="$used" 'BEGIN {print 1536 / u}')" 1
    done
    remove "$work/tall.h5"
}

same() {
    "$python" "$here/oracle/svd_oracle.py" same "$@"
}
part_5() {
    printf '\nbits of %s\n' "$model"
    files=''
    for n in 1 2 3 4; do
        for t in 1 2; do
            decompose "$work/bits-$n-$t.h5" "$n" "$t" --modules "$modules" || exit 1
            files="$files $work/bits-$n-$t.h5"
        done
    done
    # shellcheck disable=SC2086
    statement 5 "$modules: the same bits on 1 to 4 ranks of 1 and 2 threads" same $files
    files=''
    for n in 1 2 3 4; do
        for run in a b; do
            decompose "$work/grid-$n-$run.h5" "$n" 1 --modules "$grid" --method scalapack || exit 1
        done
        files="$files $work/grid-$n-a.h5"
        statement 5 "scalapack: the same bits again on $n ranks" \
            same "$work/grid-$n-a.h5" "$work/grid-$n-b.h5"
    done
    # shellcheck disable=SC2086
    statement 5 'scalapack: singular values within 1e-7 on 1 to 4 ranks' same --values 1e-7 $files
    rm -f "$work"/bits-*.h5 "$work"/grid-*.h5
}
accurate() {
    "$python" "$here/oracle/svd_oracle.py" check "$model" "$@"
}
part_6() {
    printf '\n%s against numpy f64\n' "$model"
    decompose "$work/auto.h5" 2 1 --modules all || exit 1
    statement '1, 6' 'auto: singular values to 1e-5, vectors, composed weights' \
        accurate "$work/auto.h5"
    decompose "$work/f64.h5" 2 1 --modules all --precision f64 || exit 1
    statement '1, 6' 'f64: singular values to 1e-8, vectors, composed weights' \
        accurate "$work/f64.h5" --tolerance 1e-8
}

# Threads that wait for each other suffer most from other programs: torch on small matrices becomes
# tens of times slower.
awk '$1 > 0.5 {print "svd.sh: the load is " $1 ": wait until the machine is idle"}' \
    /proc/loadavg >&2

for part in $parts; do
    case $part in
    [1-6]) "part_$part" ;;
    *)
        echo "svd.sh: there is no part $part, only 1 to 6" >&2
        exit 2
        ;;
    esac
done
exit $missed
