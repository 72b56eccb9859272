#!/usr/bin/env bash
# t2 analyze, against numpy (tests/oracle/analysis_oracle.py), on files that h5py has written.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

given=${T2_SOURCE:?}/tests/fixtures/analysis
cd "$scratch"
files=("$given/a.h5" "$given/b.h5" "$given/c.h5" "$given/one.factors.h5" "$given/two.factors.h5")
equal() { # equal a.h5 b.h5 GROUP: to rounding
    h5diff -d 1e-12 "$1" "$2" "$3" "$3" 2>&1 || true
}

t2 analyze "${files[@]}"
check "spectra of different lengths are refused" "$code" -eq 1
contains "... and the options are named" "$err" "--mismatch truncate or --mismatch interpolate"

for mismatch in truncate interpolate; do
    t2 analyze "${files[@]}" --mismatch $mismatch --out $mismatch.h5
    check "$mismatch: analysed" "$code" -eq 0
    for path in $(h5ls -rf "$given/$mismatch.expected.h5" | awk '$2 == "Dataset" { print $1 }'); do
        check "$mismatch: $path is numpy's" "$(equal "$given/$mismatch.expected.h5" $mismatch.h5 "$path")" = ""
    done
done
check "the oracle's datasets were compared" "$(h5ls -rf "$given/truncate.expected.h5" | grep -c Dataset)" -eq 49
contains "a table of pairs" "$out" "cosine between experts"
contains "a table of what moved" "$out" "singular values most moved"
contains "a table of shares" "$out" "two.factors: share of the sum"

t2 analyze "${files[@]:0:2}" "${files[3]}" --top 0
check "experts of one model need no --mismatch" "$code" -eq 0
check "--top 0 lists none" "$(grep -c 'most moved' <<<"$out" || true)" -eq 0
t2 analyze "${files[0]}" --top 3
contains "without factors sigma is not known" "$out" "the factor file is not among the files"
cp "${files[0]}" other.h5
mkdir s1 s2
cp "${files[0]}" s1/e.h5
cp "${files[1]}" s2/e.h5
t2 analyze s1/e.h5 s2/e.h5
contains "files of one name are told apart by their folders" "$out" "s2/e"
ranks 2 analyze "${files[0]}" "${files[1]}" --top 1
check "ranks change nothing" "$(grep -c '^cosine between' <<<"$out")" -eq 1

t2 analyze
check "files must be given" "$code" -eq 2
t2 analyze absent.h5
contains "an absent file is named" "$err" "absent.h5: No such file"
t2 analyze "$T2_SOURCE/README.md"
contains "another file is refused" "$err" "neither an expert of t2 train nor a factor file"
head -c 2000 "${files[0]}" >cut.h5
t2 analyze cut.h5
check "a truncated file is an error" "$code" -eq 1
t2 analyze "${files[0]}" --out no/such/a.h5
contains "an impossible --out is told" "$err" "does not exist"

finish
