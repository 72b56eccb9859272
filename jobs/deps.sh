#!/usr/bin/env bash
# Installs what t2 is built from on Debian 12 (or a relative with the same package names).
#
#   jobs/deps.sh [--check] [--fuzz] [--list]
#
#   --check  also what jobs/check.sh looks at the sources with
#   --fuzz   also clang and its run-time libraries, for `jobs/check.sh --fuzz`
#   --list   print the packages that are missing, install nothing
set -euo pipefail

packages=(
    build-essential cmake ninja-build pkg-config
    libopenmpi-dev openmpi-bin libscalapack-openmpi-dev libopenblas-openmp-dev libelpa-dev
    libhdf5-openmpi-dev hdf5-tools
    librandom123-dev libjansson-dev libpcre2-dev libutf8proc-dev libinih-dev libsqlite3-dev
    libcmocka-dev libssl-dev
    gnuplot-nox bubblewrap
    python3 python3-pip ca-certificates
)
list=false
for argument in "$@"; do
    case $argument in
    --check) packages+=(clang-format shellcheck) ;;
    --fuzz) packages+=(clang libclang-rt-14-dev libomp-dev) ;;
    --list) list=true ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        [ "$argument" = --help ] && exit 0
        exit 2
        ;;
    esac
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "jobs/deps.sh: this is not a Debian system; install what these packages hold:" >&2
    printf '  %s\n' "${packages[@]}" >&2
    exit 1
fi

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
if $list; then
    [ ${#missing[@]} -eq 0 ] || printf '%s\n' "${missing[@]}"
    exit 0
fi
if [ ${#missing[@]} -eq 0 ]; then
    echo "jobs/deps.sh: all ${#packages[@]} packages are installed"
    exit 0
fi

root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "jobs/deps.sh: run this as root (there is no sudo); missing: ${missing[*]}" >&2
        exit 1
    fi
    root=(sudo)
fi
echo "jobs/deps.sh: installing, with what they need (some minutes):"
printf '%s\n' "${missing[*]}" | fold -s -w 90 | sed 's/^/  /'
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# dpkg talks much and says little, unless something fails.
if ! {
    "${root[@]}" apt-get update -qq &&
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -q --no-install-recommends "${missing[@]}"
} </dev/null >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "jobs/deps.sh: apt-get failed (see above)" >&2
    exit 1
fi
echo "jobs/deps.sh: done"
