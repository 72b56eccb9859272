#!/usr/bin/env bash
# From a bare Debian 12 to a model that answers, is scored, and is better at a task after an expert
# was trained for it. Takes some minutes, prints the commands that it runs, and leaves their files in
# build/quickstart.
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
out=build/quickstart
mkdir -p "$out"
# One rank a processor, at most 4: any number gives the same bits.
ranks=(mpirun --oversubscribe --bind-to none -n "$(($(nproc) < 4 ? $(nproc) : 4))" "$t2")
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
    if [ -d "${T2_DATA:-}/sst2" ]; then
        # An expert for one of them: 51 840 numbers, 75 steps of 32 phrases.
        show "${ranks[@]}" decompose "$model" --modules mlp --out "$out/smollm2.h5" </dev/null
        show "${ranks[@]}" train "$model" --factors "$out/smollm2.h5" --task sst2 --batch 32 --steps 75 \
            --seed 1 --threads 1 --test-limit 1000 --out "$out/sst2.h5" --resume </dev/null
    fi
fi

# Our own small model needs no network: its tasks and their data lie beside it. Experts for two of
# them, which are then chosen for each prompt of a stream of both.
show "$t2" eval data/mini --tasks add,sentiment,mixed --out "$out/base.h5"
show "${ranks[@]}" decompose data/mini --modules all --out "$out/mini.h5" </dev/null
for task in add sentiment; do
    show "${ranks[@]}" train data/mini --factors "$out/mini.h5" --task "$task" --recipe jobs/recipes/mini.ini \
        --threads 1 --out "$out/$task.h5" --resume </dev/null
done
show "$t2" eval data/mini --tasks add,sentiment,mixed --experts "$out/add.h5,$out/sentiment.h5" \
    --adapt prompt --out "$out/adapted.h5"
show "$t2" inspect "$out/sentiment.h5"
show "$t2" report "$out"/{base,adapted,add,sentiment,mini}.h5 --out "$out/report.html"
printf '\nDone in %d s. "%s --help" lists the commands; README.md goes on from here.\n' \
    "$SECONDS" "$t2"
