#!/usr/bin/env bash
# From a bare Debian 12 to a model that answers and is scored, in a few minutes. Prints the commands
# that it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=jobs/lib.sh
. jobs/lib.sh

if [ $# -gt 0 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    [ "$1" = --help ] && exit 0
    exit 2
fi

show jobs/deps.sh
build release -DBUILD_TESTING=OFF
t2=build/release/t2
show "$t2" --version

# A real model, where the network gives it.
if fetch_smollm2; then
    model=$T2_MODELS/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    show "$t2" inspect "$model"
    show "$t2" generate "$model" "Why is the sky blue?" --max-new 96
    tasks=()
    for task in sst2 arc_easy; do
        [ -d "${T2_DATA:-}/$task" ] && tasks+=("$task")
    done
    if [ ${#tasks[@]} -gt 0 ]; then
        show "$t2" eval "$model" --tasks "$(IFS=,; echo "${tasks[*]}")" --limit 100
    else
        printf '\n(To score it on public tasks, get their data sets: "%s data list" says where.)\n' \
            "$t2"
    fi
fi

# Our own small model needs no network: its tasks and their data lie beside it.
show "$t2" eval data/mini --tasks add,subtract,sentiment,choice,reverse --out build/quickstart.h5
show "$t2" inspect build/quickstart.h5
printf '\nDone in %d s. "%s --help" lists the commands; README.md goes on from here.\n' \
    "$SECONDS" "$t2"
