#!/bin/sh
# Brings docker/compose.cluster.yaml up and has jobs run on it while a worker is killed, one is frozen and woken,
# and one is stopped; checks that each job ended once and nothing is left; removes everything, whatever the end.
#
#   docker/cluster-test.sh [FOLDER_WITH_TAKO_VM]      default: target/debug
#   JOBS=2000 docker/cluster-test.sh                  default: 200
#
# It needs docker, docker-compose, python3 with pip, and a base image of docker/base-image.sh, which it has made
# (as root) where there is none, and which stays. No registry is asked. What is missing is named, and all of it
# skipped; docker-compose is 1.29 or the plugin.
set -eu
cd "$(dirname "$0")/.."

binary=${1:-target/debug}/tako-vm
base=${BASE:-tako-vm/python:3.11}
jobs=${JOBS:-200}
project=tako-cluster-$$
label=tako-vm.cluster-test=$project
began=$(date +%s)

say() { printf 'cluster-test: %s\n' "$*"; }
skip() {
    say "SKIPPED: $*"
    exit 0
}
command -v docker >/dev/null || skip "docker is not installed"
docker version --format '{{.Server.Version}}' >/dev/null 2>&1 || skip "no Docker Engine answers"
if command -v docker-compose >/dev/null; then
    composer=docker-compose
elif docker compose version >/dev/null 2>&1; then
    composer="docker compose"
else
    skip "docker-compose is not installed (Debian: apt-get install --no-install-recommends docker-compose)"
fi
python3 -m pip --version >/dev/null 2>&1 || skip "python3 has no pip (Debian: apt-get install python3-pip)"
[ -x "$binary" ] || {
    echo "cluster-test: there is no $binary; run cargo build" >&2
    exit 1
}

work=$(mktemp -d "${TMPDIR:-/tmp}/tako-vm-cluster.XXXXXX")
load=
fail() {
    compose ps >&2 || true
    compose logs --no-color --tail 20 api worker-1 worker-2 postgres >&2 || true
    printf 'cluster-test: FAILED: %s\n' "$*" >&2
    exit 1
}
compose() { $composer -p "$project" -f docker/compose.cluster.yaml --env-file "$work/env" "$@"; }
# Where it matters what compose says: shows it only when it fails.
quietly() { compose "$@" >"$work/compose" 2>&1 || { cat "$work/compose" >&2; return 1; }; }
remove() {
    [ ! -e "$work/env" ] || compose down --volumes --timeout 5 >/dev/null 2>&1 || true
    docker image rm -f "$project-server" "$project-postgres" "$project-s3" >/dev/null 2>&1 || true
}
clean() {
    trap '' INT TERM HUP
    [ -z "$load" ] || kill "$load" 2>/dev/null || true
    # A frozen container cannot be stopped.
    docker ps -q --filter "label=com.docker.compose.project=$project" --filter status=paused |
        xargs -r docker unpause >/dev/null 2>&1 || true
    remove
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if ! docker image inspect "$base" >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] || skip "there is no image $base; as root: sh docker/base-image.sh 3.11 $base"
    sh docker/base-image.sh 3.11 "$base"
fi

say "making images on $base"
mkdir -p "$work/server/docker" "$work/extras"
cp docker/server-entrypoint.sh "$work/server/docker"
cp "$binary" "$work/server/tako-vm"
# A debug build is mostly what only debuggers read.
strip "$work/server/tako-vm" 2>/dev/null || true
# What moto needs for S3 and to be a server; its other services would be twice as much.
python3 -m pip install --quiet --target "$work/extras/site" --only-binary=:all: --python-version 3.11 \
    'moto[s3]==5.*' flask flask-cors 2>"$work/pip" || {
    cat "$work/pip" >&2
    skip "the package index gives no moto (a server that speaks S3)"
}
image() {
    docker build -q --network host --label "$label" --build-arg BASE="$base" -t "$@" >/dev/null 2>"$work/build" || {
        cat "$work/build" >&2
        fail "an image could not be made"
    }
}
image "$project-server" -f docker/Dockerfile.server --build-arg BINARY=. "$work/server"
image "$project-postgres" -f docker/Dockerfile.cluster-extras --target postgres "$work/extras"
image "$project-s3" -f docker/Dockerfile.cluster-extras --target s3 "$work/extras"

key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
cat >"$work/env" <<END
SERVER_IMAGE=$project-server
POSTGRES_IMAGE=$project-postgres
S3_IMAGE=$project-s3
POSTGRES_PASSWORD=$password
API_KEY_SHA256=$(printf %s "$key" | sha256sum | cut -d' ' -f1)
S3_ACCESS_KEY_ID=test
S3_SECRET_ACCESS_KEY=test
API_PORT=127.0.0.1:0
END

# Waits until a command succeeds: until_ok SECONDS WHAT_IF_NOT COMMAND...
until_ok() {
    left=$(($1 * 5)) why=$2
    shift 2
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || fail "$why"
        sleep 0.2
    done
}
ask() { curl -sf -m 10 -H "authorization: Bearer $key" "$api$1"; }
started=$(date +%s)
say "starting PostgreSQL, an S3 server and the key"
quietly up -d postgres s3 keys || fail "the services do not start"
make_bucket() {
    compose exec -T s3 python3 -c "
import urllib.request as r
q = r.Request('http://127.0.0.1:9000/tako-vm', method='PUT',
    headers={'authorization': 'AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request'})
r.urlopen(q, timeout=5)" >/dev/null 2>&1
}
until_ok 60 "no bucket could be made" make_bucket

say "starting three nodes"
quietly up -d || fail "the nodes do not start"
# A node that came before its database ends and is started again, on another port.
is_ready() { api=http://$(compose port api 8000 2>/dev/null) && ask /readyz >/dev/null; }
are_working() { [ "$(ask /health | python3 -c 'import json, sys; print(json.load(sys.stdin)["nodes"]["working"])' 2>/dev/null)" = "$1" ]; }
until_ok 60 "the api node does not become ready" is_ready
until_ok 60 "two workers do not become ready" are_working 2
say "three nodes are ready, $(($(date +%s) - started)) s after their start: $(ask /health |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["nodes"])')"

# What a worker itself answers; it runs natively, with all limits.
worker() { compose exec -T "$1" python3 -c "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/$2').read().decode())"; }
for name in worker-1 worker-2; do
    worker $name health | grep -q '"missing_limits":\[\].*"role":"worker","runtime":"namespaces","status":"healthy"' ||
        fail "$name is not well: $(worker $name health)"
    ! worker $name executions >/dev/null 2>&1 || fail "$name answers for the API"
done

# The node that a worker is at present, and what `/nodes` says of it.
node_of() { compose logs --no-color "$1" | grep -o 'node_id=[0-9a-f-]*' | tail -n 1 | cut -d= -f2; }
told() {
    ask /nodes | python3 -c 'import json, sys; print(next((n[sys.argv[2]] for n in json.load(sys.stdin) if n["node_id"] == sys.argv[1]), ""))' "$1" "$2"
}
is_at_work() { [ "$(told "$1" claimed)" -gt 0 ]; }
has_no_jobs() { [ "$(told "$1" claimed)" = 0 ]; }
is_dead() { [ "$(told "$1" state)" = dead ]; }

are_taken() { grep -q taken "$work/load.out" || { kill -0 "$load" 2>/dev/null || fail "the load failed: $(cat "$work/load.out")"; false; }; }
begin_load() {
    python3 docker/cluster_load.py "$api" "$key" "$1" >"$work/load.out" 2>&1 &
    load=$!
    until_ok 300 "the jobs are not taken" are_taken
}
end_load() {
    wait "$load" || { load=; fail "the load failed: $(cat "$work/load.out")"; }
    load=
    tail -n 1 "$work/load.out" >>"$work/counted"
    say "$(tail -n 1 "$work/load.out")"
}
third=$((jobs / 3))
loaded=$(date +%s)

say "running $third jobs, and killing worker-1 at work"
begin_load $third
victim=$(node_of worker-1)
until_ok 30 "worker-1 gets no job" is_at_work "$victim"
docker kill -s KILL "$(compose ps -q worker-1)" >/dev/null
until_ok 60 "nobody notices that worker-1 is dead" is_dead "$victim"
quietly up -d worker-1 || fail "worker-1 does not come back"
until_ok 60 "worker-1 does not come back" are_working 2
end_load

say "running $third jobs, and freezing worker-2 at work until it is taken for dead"
begin_load $third
victim=$(node_of worker-2)
frozen=$(compose ps -q worker-2)
# It may have ended its last job just before, and the database may still be at that; what it has a second later,
# it keeps.
freeze() {
    docker pause "$frozen" >/dev/null && is_at_work "$victim" && sleep 1 && is_at_work "$victim" ||
        { docker unpause "$frozen" >/dev/null; false; }
}
until_ok 30 "worker-2 has no job whenever it is frozen" freeze
until_ok 60 "nobody notices that worker-2 is frozen" is_dead "$victim"
# Woken before that, it may end them itself.
until_ok 30 "nobody takes the jobs of worker-2" has_no_jobs "$victim"
docker unpause "$frozen" >/dev/null
until_ok 60 "worker-2 does not come back" are_working 2
end_load

say "running $((jobs - 2 * third)) jobs, and stopping worker-2 at work"
begin_load $((jobs - 2 * third))
until_ok 30 "worker-2 gets no job" is_at_work "$(node_of worker-2)"
quietly stop worker-2 || fail "worker-2 does not stop"
[ "$(docker inspect -f '{{.State.ExitCode}}' "$frozen")" = 0 ] || fail "worker-2 did not end in peace"
end_load
took=$(($(date +%s) - loaded))

compose exec -T api tako-vm doctor --invariants || fail "an invariant does not hold"
compose exec -T api tako-vm audit verify || fail "the log does not verify"
# What has ended in a container that runs must not stay as a process that nobody waited for.
compose exec -T worker-1 python3 -c "
import glob, sys
left = []
for path in glob.glob('/proc/[0-9]*/stat'):
    name, state = open(path).read().split('(', 1)[1].rsplit(')', 1)
    if state.split()[0] == 'Z': left.append(name)
sys.exit(f'left: {left}' if left else 0)" || fail "processes are left in worker-1"

containers=$(docker ps -aq --no-trunc --filter "label=com.docker.compose.project=$project")
# Those without a name have no label either.
volumes=$(docker inspect -f '{{range .Mounts}}{{println .Name}}{{end}}' $containers | sort -u)
remove
leftovers=0
left() { [ -z "$2" ] || { leftovers=$((leftovers + $(printf '%s\n' "$2" | wc -l))); say "LEFT: $1 $2"; }; }
left containers "$(docker ps -aq --filter "label=com.docker.compose.project=$project")"
left networks "$(docker network ls -q --filter "label=com.docker.compose.project=$project")"
left images "$(docker image ls -aq --filter "label=$label")"
for volume in $volumes; do
    left volumes "$(docker volume ls -q --filter "name=^$volume\$")"
done
for container in $containers; do
    left groups "$(find /sys/fs/cgroup -type d -name "*$container*" 2>/dev/null)"
done

python3 - "$work/counted" "$jobs" "$leftovers" "$took" "$(($(date +%s) - began))" <<'END'
import json, sys

rounds = [json.loads(line) for line in open(sys.argv[1])]
sums = {name: sum(counted[name] for counted in rounds) for name in rounds[0]}
jobs, leftovers, took, all_of_it = map(int, sys.argv[2:])
print(f"cluster-test: submitted {sums['submitted']}, succeeded {sums['succeeded']}, failed as they should {sums['failed']}, "
      f"second attempts {sums['again']}, without an end {sums['without_end']}, double ends {sums['double']}, "
      f"leftovers {leftovers}; the load took {took} s, all of it {all_of_it} s")
assert sums["submitted"] == sums["succeeded"] + sums["failed"] == jobs
assert (sums["without_end"], sums["double"], leftovers) == (0, 0, 0)
# The killed worker's jobs and the frozen one's ran again.
assert all(counted["again"] > 0 for counted in rounds[:2]), rounds
assert all(counted["nodes"] > 1 for counted in rounds), rounds
END
say "passed"
