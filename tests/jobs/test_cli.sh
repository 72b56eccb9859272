#!/usr/bin/env bash
# What a person meets first: help, version, misspelt names, exit codes, alone and under mpirun.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

t2 --help
check "help leaves with 0" "$code" -eq 0
contains "help lists commands" "$out" "commands"
check "help says nothing on stderr" -z "$err"

t2
check "no command is a usage error" "$code" -eq 2
check "usage goes to stderr" -z "$out"

t2 --version
check "version leaves with 0" "$code" -eq 0
for library in "t2 " MPI HDF5 OpenBLAS Jansson PCRE2 utf8proc processor; do
    contains "version names $library" "$out" "$library"
done

t2 zebra
check "an unknown command is a usage error" "$code" -eq 2
check "... in one line" "$err" = "t2: unknown command 'zebra'; 't2 --help' lists the commands"

t2 --hepl
check "an unknown option of t2 itself is a usage error" "$code" -eq 2

run bash -c "\"$T2_BINARY\" --help >/dev/full"
check "a full disk is a failure" "$code" -eq 1
contains "... that is told" "$err" "No space left"

for n in 1 2; do
    ranks "$n" --version
    check "version under mpirun -n $n leaves with 0" "$code" -eq 0
    check "... printed once" "$(grep -c '^t2 ' <<<"$out")" -eq 1
    ranks "$n" zebra
    check "an unknown command under mpirun -n $n" "$code" -eq 2
    check "... told once" "$(grep -c 'unknown command' <<<"$err")" -eq 1
done
# Two programs in one launch: the one must not wait for the other for ever.
for other in --help "train --help" --version zebra ""; do
    # shellcheck disable=SC2086 # words
    run timeout 60 "$T2_MPIRUN" --oversubscribe --bind-to none -n 1 "$T2_BINARY" data list : -n 1 "$T2_BINARY" $other
    check "t2 data list beside t2 $other ends" "$code" -eq 2
    contains "... with a sentence" "$err" "different command lines"
done
finish
