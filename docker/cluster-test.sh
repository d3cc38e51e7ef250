#!/bin/sh
# Brings docker/compose.cluster.yaml up, submits jobs, reads them from another node, kills a worker under
# load, and checks that nothing is lost; removes everything at its end, whatever the end.
#
#   docker/cluster-test.sh [FOLDER_WITH_TAKO_VM]      default: target/debug
#
# It needs docker, docker-compose, curl, python3 with pip, and a base image of docker/base-image.sh, which it
# has made (as root) where there is none. No registry is asked.
set -eu
cd "$(dirname "$0")/.."

binary=${1:-target/debug}/tako-vm
base=${BASE:-tako-vm/python:3.11}
project=tako-cluster-$$
work=$(mktemp -d)

say() { printf 'cluster-test: %s\n' "$*"; }
fail() {
    printf 'cluster-test: %s\n' "$*" >&2
    compose logs --no-color --tail 40 >&2 || true
    exit 1
}
compose() { docker-compose -p "$project" -f docker/compose.cluster.yaml --env-file "$work/env" "$@"; }
clean() {
    compose down --volumes --timeout 5 >/dev/null 2>&1 || true
    docker image rm -f "$project-server" "$project-postgres" "$project-s3" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

[ -x "$binary" ] || { echo "cluster-test: there is no $binary; run cargo build" >&2; exit 1; }
docker image inspect "$base" >/dev/null 2>&1 || sh docker/base-image.sh 3.11 "$base"

say "making images on $base"
mkdir "$work/server" "$work/extras"
cp "$binary" "$work/server/tako-vm"
# A debug build is mostly what only debuggers read.
strip "$work/server/tako-vm" 2>/dev/null || true
docker build -q --network host -f docker/Dockerfile.server --build-arg BASE="$base" --build-arg BINARY=. \
    -t "$project-server" "$work/server" >/dev/null
python3 -m pip install --quiet --target "$work/extras/site" --only-binary=:all: --python-version 3.11 \
    'moto[server]==5.*' 2>"$work/pip" || { cat "$work/pip" >&2; echo "cluster-test: SKIPPED: PyPI gives no moto" >&2; exit 0; }
docker build -q --network host -f docker/Dockerfile.cluster-extras --build-arg BASE="$base" --target postgres \
    -t "$project-postgres" "$work/extras" >/dev/null
docker build -q --network host -f docker/Dockerfile.cluster-extras --build-arg BASE="$base" --target s3 \
    -t "$project-s3" "$work/extras" >/dev/null

key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
cat >"$work/env" <<EOF
SERVER_IMAGE=$project-server
POSTGRES_IMAGE=$project-postgres
S3_IMAGE=$project-s3
POSTGRES_PASSWORD=$password
API_KEY_SHA256=$(printf %s "$key" | sha256sum | cut -d' ' -f1)
S3_ACCESS_KEY_ID=test
S3_SECRET_ACCESS_KEY=test
API_PORT=127.0.0.1:0
EOF

say "starting PostgreSQL, the S3 server and the key"
compose up -d postgres s3 keys >/dev/null 2>&1 || fail "the services do not start"
tries=0
until compose exec -T s3 python3 -c "
import urllib.request as r
q = r.Request('http://127.0.0.1:9000/tako-vm', method='PUT',
    headers={'authorization': 'AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request'})
r.urlopen(q, timeout=5)" >/dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 60 ] || fail "no bucket could be made"
    sleep 1
done
say "starting three nodes"
compose up -d >/dev/null 2>&1 || fail "the nodes do not start"
api=http://$(compose port api 8000)
tries=0
until [ "$(curl -s -o /dev/null -w '%{http_code}' "$api/readyz")" = 200 ] \
    && curl -s "$api/health" | grep -q '"working":2'; do
    tries=$((tries + 1)); [ $tries -lt 120 ] || fail "the cluster does not become ready: $(curl -s "$api/health")"
    sleep 1
done
say "three nodes are ready: $(curl -s "$api/health" | python3 -c 'import json,sys; print(json.load(sys.stdin)["nodes"])')"

worker() { compose exec -T "$1" python3 -c "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/$2').status)"; }
[ "$(worker worker-1 readyz)" = 200 ] || fail "worker-1 is not ready"
! worker worker-1 executions >/dev/null 2>&1 || fail "a worker answers for the API"

cat >"$work/load.py" <<'EOF'
import json, sys, time, urllib.request

api, key, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

def call(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(api + path, data, {"authorization": "Bearer " + key, "content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()

code = "import time; time.sleep(0.3); open('/output/large.txt', 'w').write('x' * 50000); print('done')"
ids = [json.loads(call("/jobs", {"code": code, "timeout": 30}))["execution_id"] for _ in range(count)]
print("taken", flush=True)
deadline = time.time() + 180
left, attempts = list(ids), []
while left:
    assert time.time() < deadline, f"{len(left)} of {count} jobs did not end"
    record = json.loads(call(f"/executions/{left[0]}?view=full"))
    if record["status"] in ("succeeded", "failed", "timed_out", "out_of_memory", "cancelled", "timeout", "oom"):
        assert record["status"] == "succeeded", record
        assert call(f"/jobs/{left[0]}/artifacts/large.txt") == b"x" * 50000
        attempts.append(record.get("attempt", 1))
        left.pop(0)
    else:
        time.sleep(0.2)
print(f"all {count} succeeded, {sum(attempt > 1 for attempt in attempts)} of them after their node was killed")
EOF
say "running 60 jobs, and killing worker-1 meanwhile"
python3 "$work/load.py" "$api" "$key" 60 >"$work/load.out" 2>&1 &
load=$!
tries=0
until grep -q taken "$work/load.out"; do
    tries=$((tries + 1)); [ $tries -lt 60 ] || fail "the jobs are not taken: $(cat "$work/load.out")"
    kill -0 $load 2>/dev/null || fail "the jobs are not taken: $(cat "$work/load.out")"
    sleep 0.2
done
sleep 1
compose kill -s KILL worker-1 >/dev/null 2>&1
wait $load || fail "the load failed: $(cat "$work/load.out")"
say "$(tail -n 1 "$work/load.out")"

say "draining worker-2 after worker-1 came back"
compose up -d worker-1 >/dev/null 2>&1
compose stop worker-2 >/dev/null 2>&1
[ "$(docker inspect -f '{{.State.ExitCode}}' "$(compose ps -q worker-2)")" = 0 ] || fail "worker-2 did not end in peace"
python3 "$work/load.py" "$api" "$key" 3 >"$work/load.out" 2>&1 || fail "the load failed: $(cat "$work/load.out")"
compose exec -T api tako-vm doctor --invariants || fail "an invariant does not hold"
compose exec -T api tako-vm audit verify || fail "the log does not verify"
say "passed"
