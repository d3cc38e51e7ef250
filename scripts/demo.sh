#!/usr/bin/env bash
# Runs the examples on a server and a database of its own, shows what was recorded, and leaves
# nothing behind. Usage: demo.sh [TAKO-VM]
set -euo pipefail
cd "$(dirname "$0")/.."

tako_vm=$(realpath "${1:-target/debug/tako-vm}")
# The demonstration's own data and configuration, whatever this shell is set up for.
for name in $(compgen -e | grep -E '^(TAKO_VM_|DATABASE_URL$)' | grep -v '^TAKO_VM_PG_BINDIR$'); do
    unset "$name"
done
export TAKO_VM_CONFIG=config/default.yaml
TAKO_VM_DATA_DIR=$(mktemp -d "${TMPDIR:-/tmp}/tako-vm-demo.XXXXXX")
export TAKO_VM_DATA_DIR
# A folder of mktemp is its maker's alone; as root the database's user must get to its own.
chmod 711 "$TAKO_VM_DATA_DIR"

leave() {
    code=$?
    trap - EXIT
    # Whatever comes now, and whoever stopped reading, the rest is done.
    trap '' INT TERM HUP PIPE
    set +e
    printf '\n==> Leaving nothing behind\n'
    if [ "$code" -ne 0 ] && [ -e "$TAKO_VM_DATA_DIR/server.log" ]; then
        printf 'the end of the log of the server:\n'
        tail -n 20 "$TAKO_VM_DATA_DIR/server.log"
    fi
    "$tako_vm" dev down --destroy || code=1
    rm -rf "$TAKO_VM_DATA_DIR"
    exit "$code"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
trap 'exit 141' PIPE

say() { printf '\n==> %s\n' "$*"; }

say "Starting a PostgreSQL and a server of our own"
# The native engine needs no image; DEMO_ENGINE=docker shows the other one.
export TAKO_VM_ENGINE=${DEMO_ENGINE:-native}
if ! "$tako_vm" dev up --with-server --port 0; then
    [ "$TAKO_VM_ENGINE" = native ] || exit 1
    say "The native engine does not work here; taking whichever engine does"
    export TAKO_VM_ENGINE=auto
    "$tako_vm" dev up --with-server --port 0
fi

# Runs one example to its end and prints its record and its events; leaves its id in $id.
show() {
    say "$1"
    shift
    # A job that did not succeed ends the command with 1; only one without an id was not run.
    id=$("$tako_vm" submit --wait --id-only "$@") || [ -n "$id" ]
    "$tako_vm" history "$id"
}

show "A job that reads /input/data.json and writes /output/result.json" \
    examples/report.py --input examples/report.json
report=$id
show "A job that fails" examples/fails.py
show "A job that exceeds its time limit" examples/sleeps.py --timeout 1
show "A job that exhausts its memory" examples/hoards.py

say "The first job again, by its id: same code, input and limits"
"$tako_vm" rerun --wait "$report"
say "And as a replay, on the same image, with a verdict"
"$tako_vm" replay "$report"
say "Where all of them come from"
"$tako_vm" lineage "$report"
