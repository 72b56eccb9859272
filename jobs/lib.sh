# shellcheck shell=bash
# What the scripts of this folder share. Source it after `set -euo pipefail`.

# Open MPI refuses root unless told twice; containers are often root.
if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# Models that recipes and tests use lie here.
export T2_MODELS="${T2_MODELS:-${XDG_DATA_HOME:-${HOME:-/tmp}/.local/share}/t2/models}"

# Says what it runs, as a newcomer can type it later.
show() {
    local word
    printf '\n$'
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_=+.,/:@%-]+$ ]]; then
            printf ' %s' "$word"
        else
            printf " '%s'" "${word//\'/\'\\\'\'}"
        fi
    done
    printf '\n'
    "$@"
}

# build PRESET [CMAKE OPTIONS...]
build() {
    local preset=$1
    shift
    show cmake --preset "$preset" "$@"
    show cmake --build --preset "$preset" -j "$(nproc)"
}

# A command is there once the help of t2 lists it.
has_command() {
    build/release/t2 --help | grep -q "^  $1 "
}

# fetch_smollm2: the quickstart's model under T2_MODELS; 1 with a loud notice if it cannot be had.
fetch_smollm2() {
    if [ -e "$T2_MODELS/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" ]; then
        return 0
    fi
    if has_command data && show build/release/t2 data fetch smollm2; then
        return 0
    fi
    printf '\n***** SmolLM2 is not under %s and could not be fetched:\n' "$T2_MODELS"
    printf '***** what needs it is SKIPPED.\n'
    return 1
}
