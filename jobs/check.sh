#!/usr/bin/env bash
# Builds t2 and runs all its checks; leaves a working build in build/release/t2.
#
#   jobs/check.sh [--quick] [--fuzz [SECONDS]] [--no-deps]
#
#   --quick     the optimised build only (no sanitizers, no CUDA)
#   --fuzz      also runs every fuzz target, 60 seconds each unless told
#   --no-deps   do not look for missing packages
#
# With CI=true warnings are errors. Exits non-zero if anything failed; the last line counts tests.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=jobs/lib.sh
. jobs/lib.sh

quick=false
fuzz=0
deps=true
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=true ;;
    --no-deps) deps=false ;;
    --fuzz)
        fuzz=60
        if [[ ${2:-} =~ ^[1-9][0-9]*$ ]]; then
            fuzz=$2
            shift
        fi
        ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        [ "$1" = --help ] && exit 0
        exit 2
        ;;
    esac
    shift
done

log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
summary=()
failures=0
passed=0
failed=0

# step NAME COMMAND...: one line in the summary; the rest goes on when it fails.
step() {
    local name=$1 start=$SECONDS verdict=ok
    step_ok=true
    shift
    printf '\n===== %s\n' "$name"
    # A function called as a condition would lose `set -e`; a subshell keeps it.
    set +e
    (
        set -e
        "$@"
    )
    local rc=$?
    set -e
    if [ $rc -ne 0 ]; then
        verdict=FAILED
        step_ok=false
        failures=$((failures + 1))
    fi
    summary+=("$(printf '%-7s %-28s %4d s' "$verdict" "$name" $((SECONDS - start)))")
    return 0
}

# The files of the tree: git's, or all outside build/ where this is no checkout.
tree() {
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files -z --cached --others --exclude-standard -- "$@"
    else
        local pattern arguments=()
        for pattern in "$@"; do
            arguments+=(-o -path "./$pattern")
        done
        find . -path ./build -prune -o -path ./.git -prune -o -type f \
            \( -false "${arguments[@]}" \) -print0
    fi
}

check_format() {
    if ! clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
        echo "SKIPPED: the format is that of clang-format 14, which is not installed"
        return 0
    fi
    local wrong
    wrong=$(tree '*.c' '*.h' '*.cu' '*.cc' | xargs -0 -r clang-format --dry-run 2>&1 |
        sed -n 's/^\(\.\/\)\{0,1\}\([^:]*\):[0-9]*:[0-9]*: .*/\2/p' | sort -u)
    if [ -n "$wrong" ]; then
        echo "not as clang-format writes them ('clang-format -i FILE' does):"
        printf '%s\n' "$wrong"
        return 1
    fi
}

check_shell() {
    if ! command -v shellcheck >/dev/null; then
        echo "SKIPPED: shellcheck is not installed"
        return 0
    fi
    tree '*.sh' '*.sbatch' '.ci/run' | xargs -0 -r shellcheck -x
}

# Nothing in the tree may hold the path of somebody's machine.
check_paths() {
    local pattern='(^|[^A-Za-z0-9_.~$}])/(home|root|opt|work|workspace|Users)/[A-Za-z0-9]'
    if tree '*' | grep -zv '^\(\./\)\{0,1\}tests/fixtures/' | xargs -0 -r grep -nIE "$pattern" --; then
        echo "these lines hold the path of a machine"
        return 1
    fi
}

run_tests() { # run_tests PRESET [options of ctest]
    ctest --preset "$1" -j "$(nproc)" --timeout 600 "${@:2}" 2>&1 | tee "$log/$1"
}

# What runs on an engine; all the rest is the same code in every build. (A whole run of the stand-in
# is "ctest --preset standin", half an hour.)
on_engines='^(standin\.|solver\.(engine|attention_plan|spaces|svd_cuda)'
on_engines+='|model\.(adapter|forward|mini|moslora|pass|scheduler|weight_mix)'
on_engines+='|jobs\.(adapters|decompose_cuda|device|generate|recipes)$)'

# Adds ctest's counts to the totals; skipped tests are named, not counted.
count_tests() {
    local file=$log/$1 out_of bad skipped
    [ -f "$file" ] || return 0
    out_of=$(sed -n 's/.* tests failed out of \([0-9]*\)$/\1/p' "$file" | tail -n 1)
    bad=$(sed -n 's/.* \([0-9]*\) tests failed out of .*/\1/p' "$file" | tail -n 1)
    skipped=$(grep -c '\*\*\*Skipped' "$file" || true)
    if [ -z "$out_of" ]; then
        failed=$((failed + 1))
        summary+=("        $1: the tests gave no count")
        return 0
    fi
    passed=$((passed + out_of - bad - skipped))
    failed=$((failed + bad))
    summary+=("        $1: $((out_of - bad - skipped)) passed, $bad failed, $skipped skipped")
}

# The starting inputs of a target: fixtures in tests/fixtures/fuzz/NAME, else all small fixtures.
fuzz_target() {
    local target=$1 name corpus seeds
    name=$(basename "$target")
    seeds=tests/fixtures/fuzz/${name#fuzz_}
    corpus=build/fuzz/corpus/$name
    mkdir -p "$corpus"
    [ -d "$seeds" ] || seeds=tests/fixtures
    if [ -d "$seeds" ]; then
        find "$seeds" -type f -size -64k -print0 | while IFS= read -r -d '' file; do
            cp -f "$file" "$corpus/$(cksum <"$file" | tr ' ' '-')"
        done
    fi
    show "$target" -max_total_time="$fuzz" -rss_limit_mb=2048 -timeout=10 -max_len=65536 \
        -print_final_stats=1 -artifact_prefix="build/fuzz/" "$corpus"
}

strict=(-DT2_WERROR=OFF)
[ "${CI:-}" = true ] && strict=(-DT2_WERROR=ON)
if $deps; then
    packages=(--check)
    [ "$fuzz" -gt 0 ] && packages+=(--fuzz)
    step "packages" jobs/deps.sh "${packages[@]}"
fi
step "formatting" check_format
step "shell scripts" check_shell
step "no machine's paths" check_paths
step "release build" build release -DBUILD_TESTING=ON "${strict[@]}"
if $step_ok; then
    step "release: t2 --version" build/release/t2 --version
    fetch_smollm2 || summary+=("NOTICE  SmolLM2 is absent: tests that need it are skipped")
    [ -d "${T2_DATA:-}" ] ||
        summary+=("NOTICE  T2_DATA names no folder: tests on public data sets are skipped")
    step "release tests" run_tests release
    count_tests release
fi
if ! $quick; then
    step "debug build (ASan, UBSan)" build debug -DBUILD_TESTING=ON "${strict[@]}"
    if $step_ok; then
        step "debug tests" run_tests debug
        count_tests debug
    fi
    step "stand-in build (CUDA sources on the CPU)" build standin -DBUILD_TESTING=ON "${strict[@]}"
    if $step_ok; then
        step "stand-in tests" run_tests standin -R "$on_engines"
        count_tests standin
    fi
    if PATH=$PATH:/usr/local/cuda/bin command -v nvcc >/dev/null; then
        step "CUDA build" build cuda -DBUILD_TESTING=ON "${strict[@]}"
    else
        summary+=("NOTICE  nvcc is absent: the CUDA sources are not compiled for devices")
    fi
fi
if [ "$fuzz" -gt 0 ]; then
    step "fuzz build" build fuzz
    for target in build/fuzz/fuzz_*; do
        if [ -f "$target" ] && [ -x "$target" ]; then
            step "$(basename "$target")" fuzz_target "$target"
        fi
    done
fi

printf '\n===== summary\n'
printf '%s\n' "${summary[@]}"
[ $failures -eq 0 ] || printf '%d step(s) failed\n' "$failures"
if [ $failures -gt 0 ] && [ $failed -eq 0 ]; then
    failed=$failures
fi
printf '%d passed, %d failed\n' "$passed" "$failed"
[ $failures -eq 0 ]
