#!/usr/bin/env bash
# t2 eval --grade: given answers, no model; code tasks of our own in the sandbox.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

data=$scratch/data
mkdir -p "$data/humaneval" "$data/mawps"
cat >"$data/humaneval/test.jsonl" <<'EOF'
{"task_id": "Own/0", "prompt": "import math\n\n\ndef twice(x):\n    \"\"\"Two times x.\"\"\"\n", "canonical_solution": "    return 2 * x\n", "entry_point": "twice", "test": "def check(f):\n    assert f(3) == 6\n    assert f(-1) == -2\n"}
{"task_id": "Own/1", "prompt": "import math\n\n\ndef root(x):\n    \"\"\"The square root of x.\"\"\"\n", "canonical_solution": "    return math.sqrt(x)\n", "entry_point": "root", "test": "def check(f):\n    assert f(9) == 3\n"}
{"task_id": "Own/2", "prompt": "def none(x):\n    \"\"\"Nothing.\"\"\"\n", "canonical_solution": "    return None\n", "entry_point": "none", "test": "def check(f):\n    assert f(9) is None\n"}
EOF
cat >"$data/mawps/test.jsonl" <<'EOF'
{"id": "a", "question": "Two and two?", "answer": 4}
{"id": "b", "question": "Two and three?", "answer": 5}
EOF
export T2_DATA=$data

printf '%s\n' '{"id": "a", "answer": "It is 4."}' '{"id": "b", "answer": "It is 6."}' \
    >"$scratch/numbers.jsonl"
t2 eval --tasks mawps --grade "$scratch/numbers.jsonl"
check "answers are graded without a model" "$code" -eq 0
contains "... one of two is right" "$out" "0.5000"
printf '%s\n' '{"id": "c", "answer": "It is 4."}' >"$scratch/unknown.jsonl"
t2 eval --tasks mawps --grade "$scratch/unknown.jsonl"
check "an unknown id fails" "$code" -eq 1
contains "... and is told with its line" "$err" "unknown.jsonl:1: no item of task mawps"
printf '%s\n' '{"id": "a"}' >"$scratch/empty.jsonl"
t2 eval --tasks mawps --grade "$scratch/empty.jsonl"
contains "a missing answer is told" "$err" 'empty.jsonl:1: "answer" or "completion" is missing'
t2 eval --tasks mawps
check "without --grade a model is needed" "$code" -eq 2
t2 eval model --tasks mawps --grade "$scratch/numbers.jsonl"
check "with --grade there is no model" "$code" -eq 2
t2 eval model --tasks mawps --samples 4
check "samples need a temperature" "$code" -eq 2

if [ ! -x /usr/bin/python3 ]; then
    echo "SKIPPED, code is not graded here: no /usr/bin/python3"
    finish
    exit
fi
# shellcheck disable=SC2016  # backticks of an answer
printf '%s\n' '{"task_id": "Own/0", "completion": "    return x + x\n"}' \
    '{"task_id": "Own/0", "completion": "    return x\n"}' \
    '{"task_id": "Own/1", "completion": "```python\ndef root(x):\n    return math.sqrt(x)\n```"}' \
    '{"task_id": "Own/1", "completion": "    while True:\n        print(\"x\" * 65536)\n"}' \
    >"$scratch/code.jsonl"
t2 eval --tasks humaneval --grade "$scratch/code.jsonl" --unsafe-sandbox --pass-at 2
check "--unsafe-sandbox runs programs anywhere" "$code" -eq 0
contains "... with the same grades" "$out" "0.5000"
contains "... and says that it is not safe" "$err" "not safe"
contains "... pass@2" "$err" "pass@2 1.0000"
contains "... items without answer are counted" "$err" "1 of the 3 items have no answer"

t2 eval --tasks humaneval --grade "$scratch/code.jsonl" --out "$scratch/grades.h5"
if [ "$code" -ne 0 ]; then
    contains "without a sandbox programs are refused" "$err" "cannot be run safely here"
    echo "SKIPPED, THE SANDBOX IS NOT TESTED HERE: $err"
    finish
    exit
fi
contains "half of the samples are right" "$out" "0.5000"
t2 inspect "$scratch/grades.h5"
contains "the results are kept" "$out" "humaneval"
ranks 2 eval --tasks humaneval --grade "$scratch/code.jsonl"
check "two ranks grade as one" "$code" -eq 0
contains "... the same" "$out" "0.5000"
run env PATH=/nowhere "$T2_BINARY" eval --tasks humaneval --grade "$scratch/code.jsonl"
check "without bubblewrap programs are refused" "$code" -eq 1
contains "... with the way out" "$err" "--unsafe-sandbox"
finish
