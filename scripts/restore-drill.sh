#!/usr/bin/env bash
# Backs a database up, restores it into a new cluster, proves the restored log against seals that were
# exported before, checks its invariants, and serves from it. Leaves nothing behind.
# Usage: restore-drill.sh [TAKO-VM]
set -euo pipefail
cd "$(dirname "$0")/.."

tako_vm=$(realpath "${1:-target/debug/tako-vm}")
for name in $(compgen -e | grep -E '^(TAKO_VM_|DATABASE_URL$)' | grep -v '^TAKO_VM_PG_BINDIR$'); do
    unset "$name"
done
export TAKO_VM_CONFIG=config/default.yaml TAKO_VM_ENGINE=native TAKO_VM_AUDIT__SEAL_EVERY=0.2
work=$(mktemp -d "${TMPDIR:-/tmp}/tako-vm-drill.XXXXXX")
# As root the database's user must get to its own folders.
chmod 711 "$work"

leave() {
    code=$?
    trap - EXIT
    trap '' INT TERM HUP PIPE
    set +e
    for side in source target; do
        [ ! -e "$work/$side" ] || TAKO_VM_DATA_DIR=$work/$side "$tako_vm" dev down --destroy || code=1
    done
    rm -rf "$work"
    exit "$code"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say() { printf '\n==> %s\n' "$*"; }
# A subcommand on one of the two sides.
on() { side=$1; shift; TAKO_VM_DATA_DIR=$work/$side "$tako_vm" "$@"; }

say "A service with jobs"
on source dev up --with-server --port 0
done_job=$(on source submit --wait --id-only examples/report.py --input examples/report.json)
on source submit --wait --id-only examples/fails.py || true
printf 'import time\ntime.sleep(5)\nprint("whole")\n' >"$work/slow.py"
slow_job=$(on source submit --id-only "$work/slow.py")
source_url=$(on source dev status --url)
sleep 1
say "Seals are exported"
TAKO_VM_DATABASE_URL=$source_url on target audit export --out "$work/seals.ndjson"
say "The backup"
pg_dump --format=custom --no-owner --file="$work/backup" "$source_url"
say "The service is lost, with its database"
cp "$work/source/audit.key.pub" "$work/source.pub"
on source dev down --destroy
say "The restore, into a new cluster"
on target dev up
target_url=$(on target dev status --url)
# A role is the cluster's and in no backup of a database.
psql --quiet --set=ON_ERROR_STOP=1 --command='CREATE ROLE tako_vm_app NOLOGIN' "$target_url"
psql --quiet --set=ON_ERROR_STOP=1 --command='GRANT tako_vm_app TO CURRENT_USER' "$target_url"
pg_restore --exit-on-error --no-owner --dbname="$target_url" "$work/backup"
say "The log is what it was: held against the exported seals"
on target audit verify --public-key "$work/source.pub" --against "$work/seals.ndjson"
on target doctor --invariants
say "The service goes on"
on target dev up --with-server --port 0
on target submit --wait --id-only examples/report.py --input examples/report.json
on target history "$done_job" | head -n 3
# It ran when the backup was made, and begins again once its node has been silent for long enough.
for _ in $(seq 300); do
    ended=$(on target history "$slow_job" | grep -c ExecutionSucceeded || true)
    [ "$ended" -eq 0 ] || break
    sleep 0.1
done
[ "$ended" -eq 1 ] || { echo "the job that ran at the backup was lost"; exit 1; }
on target doctor --invariants >/dev/null
say "the restored log holds, and the service goes on from it"
