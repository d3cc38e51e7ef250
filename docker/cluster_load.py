"""Jobs for docker/cluster-test.sh: submits them, waits for them, and counts in the log how they ended.

    cluster_load.py API KEY COUNT

Says `taken` once all are submitted, and at its end one line of JSON.
"""

import concurrent.futures
import json
import sys
import time
import urllib.error
import urllib.request
import uuid

API, KEY, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
CLIENTS = 8
PATIENCE = 120 + COUNT

ENDS = {"ExecutionSucceeded", "ExecutionFailed", "ExecutionTimedOut", "ExecutionOutOfMemory", "ExecutionCancelled",
        "JobDeadLettered"}
# Each tells its own number and writes its own file, too large for the database. Every tenth fails by itself,
# and every fourth is long enough to be met by what is done to its node.
CODE = """
import json, time
n = json.load(open('/input/data.json'))['n']
time.sleep(2 if n % 4 == 0 else 0.3)
open('/output/large.txt', 'w').write(f'{n} ' * 20000)
print(n)
raise SystemExit(3 if n % 10 == 9 else 0)
"""

RUN = uuid.uuid4()
DEADLINE = time.monotonic() + PATIENCE


def call(path, body=None):
    """Asks until it is answered: a server that is busy or gone for a moment is what is being tested."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": "Bearer " + KEY, "content-type": "application/json"}
    while True:
        request = urllib.request.Request(API + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code not in (408, 429, 503):
                raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error
        except OSError:
            pass
        assert time.monotonic() < DEADLINE, f"{path} was not answered in time"
        time.sleep(0.2)


def submit(number):
    body = {"code": CODE, "input_data": {"n": number}, "timeout": 30, "idempotency_key": f"{RUN}-{number}"}
    return number, json.loads(call("/jobs", body))["execution_id"]


def follow(job):
    """Waits for a job and looks at it as its client would; answers what the log has of it."""
    number, execution = job
    record = json.loads(call(f"/jobs/{execution}/result?wait=true&timeout=20&view=full"))
    expected = "failed" if number % 10 == 9 else "succeeded"
    assert (record["status"], record["stdout"]) == (expected, f"{number}\n"), record
    if expected == "succeeded":
        assert call(f"/jobs/{execution}/artifacts/large.txt").decode() == f"{number} " * 20000, execution
    events = json.loads(call(f"/jobs/{execution}/events"))["items"]
    types = [event["type"] for event in events]
    return {
        "succeeded": expected == "succeeded",
        "again": types.count("JobDequeued") > 1,
        "ends": sum(kind in ENDS for kind in types),
        "node": events[-1]["actor"].split("@")[-1],
    }


with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
    jobs = list(clients.map(submit, range(COUNT)))
    print("taken", flush=True)
    seen = list(clients.map(follow, jobs))

print(json.dumps({
    "submitted": len({execution for _, execution in jobs}),
    "succeeded": sum(job["succeeded"] for job in seen),
    "failed": sum(not job["succeeded"] for job in seen),
    "again": sum(job["again"] for job in seen),
    "without_end": sum(job["ends"] == 0 for job in seen),
    "double": sum(job["ends"] > 1 for job in seen),
    "nodes": len({job["node"] for job in seen}),
}))
