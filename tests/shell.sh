# shellcheck shell=bash
# For tests in shell: source it, call `check` per statement, end with `finish`.
: "${T2_BINARY:?set T2_BINARY to the t2 to test}" "${T2_MPIRUN:=mpirun}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

# The command runs with its output in $out, its messages in $err and its exit code in $code.
run() {
    code=0
    "$@" >"$scratch/out" 2>"$scratch/err" </dev/null || code=$?
    out=$(cat "$scratch/out")
    err=$(cat "$scratch/err")
}

t2() { run "$T2_BINARY" "$@"; }

# ranks N ARGUMENTS...: t2 under mpirun.
ranks() {
    local n=$1
    shift
    run "$T2_MPIRUN" --oversubscribe --bind-to none -n "$n" "$T2_BINARY" "$@"
}

# check "statement" test-expression...: as `test` takes it.
check() {
    local statement=$1
    shift
    if test "$@"; then
        echo "ok    $statement"
    else
        echo "FAIL  $statement: $* (exit $code; out: $out; err: $err)"
        failed=$((failed + 1))
    fi
}

# contains "statement" TEXT PART
contains() {
    case $2 in
    *"$3"*) check "$1" 1 ;;
    *) check "$1: '$3'" "" ;;
    esac
}

# Is it a t2 with sanitizers, many times slower?
sanitized() { grep -q __asan_init "$T2_BINARY"; }

# same "statement" a.h5 b.h5 [OBJECT...]: the objects, /layers unless named, have the same bits
same() {
    local statement=$1 a=$2 b=$3 object
    shift 3
    for object in "${@:-/layers}"; do
        check "$statement" "$(h5diff "$a" "$b" "$object" "$object" 2>&1)" = ""
        statement="... and the same ${object#/}"
    done
}

finish() {
    [ "$failed" -eq 0 ] || echo "$failed failed"
    [ "$failed" -eq 0 ]
}
