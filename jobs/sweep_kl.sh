#!/usr/bin/env bash
# Trains with four weights of the KL divergence and names the one that validates best.
#
#   jobs/sweep_kl.sh MODEL FACTORS RECIPE TASK OUT [options of t2 train]
#
# leaves OUT.kl0.h5 ... OUT.kl0.3.h5. T2 names the program with its launcher, such as
# T2="mpirun -n 4 t2". Killed and started again, it goes on.
set -euo pipefail
if [ $# -lt 5 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
model=$1 factors=$2 recipe=$3 task=$4 out=$5
shift 5
best='' best_kl=''
for kl in 0 0.1 0.2 0.3; do
    expert=$out.kl$kl.h5
    # shellcheck disable=SC2086
    ${T2:-t2} train "$model" --factors "$factors" --recipe "$recipe" --task "$task" --kl $kl \
        --out "$expert" --resume "$@" >&2
    score=$(h5dump -a valid_best "$expert" | sed -n 's/.*(0): //p')
    echo "kl $kl  validation $score  $expert"
    if [ -z "$best" ] || awk "BEGIN { exit !($score > $best) }"; then
        best=$score best_kl=$kl
    fi
done
echo "best: kl $best_kl, validation $best, $out.kl$best_kl.h5"
