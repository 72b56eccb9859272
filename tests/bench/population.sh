#!/bin/sh
# Few-shot adaptation on 2 ranks beside two runs of one rank at the same time: the seconds that the
# search's iterations took (/curve/seconds of the result), model and experts being loaded already.
# Prints each figure, their medians and the ratio, and ends with status 1 where it misses the bar.
#
#   tests/bench/population.sh MODEL A.h5,B.h5,... TASK [OPTIONS of t2 adapt]
#
#   BUILD     folder of t2                        (build/release)
#   T2_DATA   folder of the data sets
#   ROUNDS    each figure is taken this often     (3)
#   MPIRUN    "mpirun --oversubscribe --bind-to none"
#   BAR       0.95: what 2 ranks do of what two runs do in the same time; 0: print only
#
# Two runs of one rank have twice the candidates of one run, so the ratio is their seconds by twice
# those of the 2 ranks. All of them are the same search: its result must have the same bits.
set -eu

[ $# -ge 3 ] || { sed -n '2,/^# those/s/^# \{0,1\}//p' "$0"; exit 2; }
model=$1 experts=$2 task=$3
shift 3
build=${BUILD:-build/release} rounds=${ROUNDS:-3} bar=${BAR:-0.95}
mpirun=${MPIRUN:-mpirun --oversubscribe --bind-to none}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# adapt RANKS OUT OPTIONS...: a search on one thread a rank.
adapt() {
    n=$1 out=$2
    shift 2
    rm -f "$out"
    # shellcheck disable=SC2086
    $mpirun -n "$n" "$build/t2" adapt "$model" --experts "$experts" --task "$task" --threads 1 \
        --test-limit 0 --out "$out" --quiet "$@" </dev/null >/dev/null
}
# seconds FILE: of all iterations.
seconds() {
    h5dump -y -w 1 -m %.6f -d /curve/seconds "$1" |
        awk '/DATA/ {on = 1; next} /}/ {on = 0} on {gsub(/[ ,]/, ""); sum += $1} END {print sum}'
}
median() {
    sort -g "$1" | awk '{x[NR] = $1} END {print (x[int((NR + 1) / 2)] + x[int(NR / 2) + 1]) / 2}'
}

round=0
while [ "$round" -lt "$rounds" ]; do
    adapt 2 "$work/two.h5" "$@"
    adapt 1 "$work/a.h5" "$@" &
    adapt 1 "$work/b.h5" "$@" && wait $!
    for other in a b; do
        h5diff "$work/two.h5" "$work/$other.h5" /layers /layers || {
            echo "population.sh: 2 ranks and one rank found different mixtures" >&2
            exit 1
        }
    done
    two=$(seconds "$work/two.h5") a=$(seconds "$work/a.h5") b=$(seconds "$work/b.h5")
    echo "$two" >>"$work/ours"
    echo "$a $b" | awk '{print ($1 + $2) / 2}' >>"$work/theirs"
    echo "2 ranks: $two s; two runs of one rank: $a s, $b s"
    round=$((round + 1))
done
awk -v two="$(median "$work/ours")" -v one="$(median "$work/theirs")" -v bar="$bar" 'BEGIN {
    ratio = one / (2 * two)
    printf("median: 2 ranks %.2f s, a run of one rank %.2f s: %.1f %% of two runs%s\n", two, one,
        100 * ratio, bar == 0 ? "" : ratio >= bar ? " (ok)" : " (MISSED " 100 * bar " %)")
    exit bar > 0 && ratio < bar }'
