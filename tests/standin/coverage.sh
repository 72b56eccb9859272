#!/usr/bin/env bash
# Names the kernels of solver/cuda that no test has launched. Reads what the tests of a stand-in
# build left in T2_STANDIN_COVERAGE since the last time, and begins it anew.
set -eu
file=${T2_STANDIN_COVERAGE:?is set by the stand-in build\'s tests}
[ -s "$file" ] || { echo "skipped: no test has launched a kernel since the last count"; exit 77; }
launched=$(sed 's/[ <].*//' "$file" | sort -u)
kernels=$(cat "$T2_SOURCE"/solver/cuda/*.cu "$T2_SOURCE"/solver/cuda/*.h | tr '\n' ' ' |
    grep -oE '__global__ void( __launch_bounds__\([^)]*\))? +[a-z0-9_]+' | sed 's/.* //' | sort -u)
rm -f "$file.last"
mv "$file" "$file.last"
missing=$(comm -23 <(echo "$kernels") <(echo "$launched"))
if [ -n "$missing" ]; then
    echo "never launched (run all tests, not some of them):"
    echo "$missing"
    exit 1
fi
echo "all $(echo "$kernels" | wc -l) kernels were launched"
