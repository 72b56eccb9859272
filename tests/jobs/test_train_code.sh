#!/usr/bin/env bash
# t2 train and t2 adapt on tasks whose answers are programs, on the small model of our own: its sums,
# graded by a program that runs in the sandbox, must teach what the same sums teach that t2 grades.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

mini=${T2_SOURCE:?}/data/mini
export T2_DATA=$mini/data
cd "$scratch"

cat >sums.ini <<'E2'
[task]
name = sums
dataset = add
split = test
prompt = "{question}"
target = "{answer}"
chat = yes
score = generate
gold = answer
gold_form = text
max_new = 24
grader = python_tests
program = "import re\nfound = re.findall('[0-9]+', '''{@code}''')\n"
  "assert found and int(found[-1]) == {answer}\n"
E2
t2 decompose "$mini" --modules all --out f.h5 -q
common=(--factors f.h5 --modules all --batch 6 --shard 2 --steps 2 --seed 7 -q -t 1 --test-limit 0)

# The program is ours, so it may run bare where there are no namespaces.
sandbox=()
t2 train "$mini" "${common[@]}" --task ./sums.ini --out one.h5 --validate-every 1 --valid-limit 6
if [ "$code" -ne 0 ]; then
    contains "without a sandbox training is refused before it begins" "$err" "cannot be run safely here"
    contains "... with the way out" "$err" "--unsafe-sandbox"
    sandbox=(--unsafe-sandbox)
fi
common+=("${sandbox[@]}")

# ---- the same bits ------------------------------------------------------------------------------
# Short answers grow inside the pass, long ones in the scheduler; several answers, several phases.
kinds=("--max-new 12" "--max-new 24" "--max-new 24 --answers 2 --baseline rloo" "--baseline mean --inner-steps 2")
for options in "${kinds[@]}"; do
    # shellcheck disable=SC2086
    t2 train "$mini" "${common[@]}" $options --task ./sums.ini --out code.h5 --rollout-log log.jsonl
    check "$options: trains on programs" "$code" -eq 0
    # shellcheck disable=SC2086
    t2 train "$mini" "${common[@]/--unsafe-sandbox/-q}" $options --task add --out plain.h5 --rollout-log plain.jsonl
    same "$options: ... as on answers that need none" code.h5 plain.h5
    # shellcheck disable=SC2086
    ranks 2 train "$mini" "${common[@]}" $options --task ./sums.ini --out two.h5
    same "$options: ... with the same bits on two ranks" code.h5 two.h5
done
ranks 3 train "$mini" "${common[@]}" --task ./sums.ini --out two.h5 --baseline mean --inner-steps 2
same "... and on three" code.h5 two.h5
contains "the log says how a program ended" "$(cat log.jsonl)" '"program": "passed", "correct": true'
check "... right and wrong ones as the other grader" \
    "$(grep -o '"correct": [a-z]*' log.jsonl | sort | uniq -c)" = "$(grep -o '"correct": [a-z]*' plain.jsonl | sort | uniq -c)"

# ---- no sandbox ---------------------------------------------------------------------------------
run env PATH=/nowhere "$T2_BINARY" train "$mini" --factors f.h5 --modules all -q --task ./sums.ini --out no.h5
check "without bubblewrap it is refused" "$code" -eq 1
contains "... with the way out" "$err" "--unsafe-sandbox"
run env PATH=/nowhere "$T2_BINARY" train "$mini" --factors f.h5 --modules all -q --task ./sums.ini --out given.h5 \
    --objective next-token --steps 1 --batch 4 --test-limit 0
check "given answers need none" "$code" -eq 0

# ---- splits -------------------------------------------------------------------------------------
mkdir -p data/humaneval data/mbpp
printf '%s\n' '{"task_id":"t/0","prompt":"def f():\n","canonical_solution":"    return 1\n","test":"def check(c):\n    assert c() == 1\n","entry_point":"f"}' >data/humaneval/test.jsonl
for id in 1 11 511 601 602 974; do
    printf '%s\n' '{"task_id":'$id',"text":"Write f that returns '$id'.","code":"def f():\n    return '$id'","test_list":["assert f() == '$id'"],"test_setup_code":"","challenge_test_list":[]}'
done >data/mbpp/mbpp.jsonl
t2 train "$mini" "${common[@]}" --data data --task humaneval --out no.h5
check "HumanEval has no training split" "$code" -eq 1
contains "... and what to train on is said" "$err" "Code is trained on mbpp"
t2 train "$mini" "${common[@]}" --data data --task mbpp --out mbpp.h5 --steps 1 --max-new 8 --rollout-log mbpp.jsonl --max-rows 4096
check "MBPP is trained on" "$code" -eq 0
check "... on its problems 601 to 974" "$(grep -o '"id": "[0-9]*"' mbpp.jsonl | sort -u | tr -dc '0-9\n' | paste -sd' ')" = "601 602 974"

# ---- mixtures -----------------------------------------------------------------------------------
t2 train "$mini" "${common[@]}" --task add --objective next-token --rate 5e-3 --steps 6 --out e1.h5
t2 train "$mini" "${common[@]}" --task sentiment --rate 5e-3 --out e2.h5
adapt=(--experts "e1.h5,e2.h5" --shots 5 --population 4 --elite 0.5 --iterations 2 --seed 3 -q -t 1 --test-limit 12)
t2 adapt "$mini" "${adapt[@]}" "${sandbox[@]}" --task ./sums.ini --out code-mix.h5
check "a mixture is found for a code task" "$code" -eq 0
rows=$out
t2 adapt "$mini" "${adapt[@]}" --task add --out plain-mix.h5
same "... the one that the same answers give without programs" code-mix.h5 plain-mix.h5
check "... with the same scores" "$out" = "$rows"
ranks 2 adapt "$mini" "${adapt[@]}" "${sandbox[@]}" --task ./sums.ini --out two-mix.h5
same "... and with the same bits on two ranks" code-mix.h5 two-mix.h5

finish
