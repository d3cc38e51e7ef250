#!/usr/bin/env bash
# Makes sure that everything the build, the tests and the demonstration need is installed.
# As root on Debian or Ubuntu it installs what is missing; otherwise it says what to install
# and ends with 1. With --with-docker a Docker Engine is needed too.
set -euo pipefail
cd "$(dirname "$0")/.."

with_docker=no
case "${1:-}" in
    "") ;;
    --with-docker) with_docker=yes ;;
    *) echo "usage: setup.sh [--with-docker]" >&2; exit 2 ;;
esac

missing=()
optional=()

has() { command -v "$1" >/dev/null 2>&1; }

has_postgresql() {
    if [ -n "${TAKO_VM_PG_BINDIR:-}" ]; then
        [ -x "$TAKO_VM_PG_BINDIR/postgres" ]
        return
    fi
    has postgres && has initdb && return
    local program
    for program in /usr/lib/postgresql/*/bin/postgres /usr/local/pgsql/bin/postgres; do
        [ -x "$program" ] && return
    done
    return 1
}

has cc || missing+=(gcc)
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
has python3 || missing+=(python3)
has_postgresql || missing+=(postgresql)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if ! has dockerd && ! has docker; then
    if [ "$with_docker" = yes ]; then missing+=(docker.io); else optional+=(docker.io); fi
fi
has debootstrap || optional+=(debootstrap)
has spin || optional+=(spin)

# The postgresql package would make and start a cluster of the system's own; we keep a private
# one, so it is told not to, for as long as it is being installed.
no_cluster=/etc/postgresql-common/createcluster.d/tako-vm-setup.conf

install() {
    trap 'rm -f "$no_cluster"' EXIT
    if [[ " $* " == *" postgresql "* ]]; then
        mkdir -p "$(dirname "$no_cluster")"
        printf 'create_main_cluster = false\n' >"$no_cluster"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends "$@" </dev/null
    rm -f "$no_cluster"
    trap - EXIT
}

if [ "${#missing[@]}" -gt 0 ]; then
    if ! has apt-get; then
        echo "missing (as Debian names them): ${missing[*]}; install them and run this again" >&2
        exit 1
    elif [ "$(id -u)" -ne 0 ]; then
        echo "missing; as root: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    echo "installing ${missing[*]}"
    install "${missing[@]}"
fi
if [ "${#optional[@]}" -gt 0 ]; then
    echo "not installed, not needed: ${optional[*]}"
    echo "    docker.io      the docker engine; without it jobs run on the native engine"
    echo "    debootstrap    the docker engine's base image where no registry answers"
    echo "    spin           checks the model of claims, leases and ends"
fi

if ! has cargo; then
    echo "missing: the Rust toolchain; see https://rustup.rs, or:" >&2
    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" >&2
    exit 1
fi
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
have=$(rustc --version | sed -n 's/^rustc \([0-9]*\.[0-9]*\).*/\1/p')
if [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
    echo "Rust $have is too old, $wanted is needed: rustup update stable" >&2
    exit 1
fi
echo "ready: Rust $have, $(python3 --version)"
