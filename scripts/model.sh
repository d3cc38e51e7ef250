#!/bin/sh
# Checks the model of claims, leases and ends (docs/model/claims.pml) with Spin: everything it may
# do, and that each variant without one of its guards is found out. Takes less than a minute.
# Arguments are definitions for the model: `-DMISTAKES=2` looks further, for some minutes.
set -eu
further=$*
model=$(cd "$(dirname "$0")/.." && pwd)/docs/model/claims.pml

if ! command -v spin >/dev/null || ! command -v gcc >/dev/null; then
    echo "SKIPPED: the model of claims is not checked: spin and gcc are not installed (Debian: apt-get install spin gcc)"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# explore NAME "DEFINITIONS" "COMPILER FLAGS" "RUN FLAGS": leaves what it found in NAME.out.
explore() {
    mkdir "$1"
    (
        cd "$1"
        # shellcheck disable=SC2086
        spin $2 $further -a "$model" >spin.out 2>&1 || { cat spin.out; exit 1; }
        # shellcheck disable=SC2086
        gcc -O2 -w -DVECTORSZ=2048 $3 -o pan pan.c
        # shellcheck disable=SC2086
        ./pan -m1000000 $4 >"../$1.out" 2>&1 || true
    )
    # A search that was cut short proves nothing.
    if grep -q "max search depth too small\|out of memory\|interrupted" "$1.out"; then
        cat "$1.out"
        echo "FAILED: $1: the search was cut short"
        exit 1
    fi
}

holds() {
    explore "$@"
    if ! grep -q "errors: 0" "$1.out"; then
        cat "$1.out"
        echo "FAILED: $1"
        exit 1
    fi
    echo "holds: $1 ($(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' "$1.out") states)"
}

is_found_out() {
    name=$1
    expected=$2
    shift 2
    explore "$name" "$@"
    if ! grep -qF "$expected" "$name.out"; then
        cat "$name.out"
        echo "FAILED: $name was not found out by $expected"
        exit 1
    fi
    echo "found out: $name: $(grep -m1 -o 'assertion violated.*\|acceptance cycle' "$name.out" | sed 's/ (at depth.*//')"
}

holds one-end-and-a-true-queue "" "-DSAFETY" ""
holds every-job-ends "-DLIVE" "-DNFAIR=7" "-a -f -N ends_in_the_end"
is_found_out a-second-end-without-versions "ends<=1" "-DNO_VERSION -DENDS_ALONE" "-DSAFETY" ""
is_found_out lost-leases-that-append "assertion violated" "-DNO_LEASE" "-DSAFETY" ""
is_found_out claims-released-blindly "holder==row_lease" "-DBLIND_RELEASE" "-DSAFETY" ""
is_found_out jobs-of-dead-nodes-that-nobody-takes "acceptance cycle" "-DLIVE -DNO_REAPER" "-DNFAIR=7" \
    "-a -f -N ends_in_the_end"
