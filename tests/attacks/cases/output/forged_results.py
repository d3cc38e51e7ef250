"""Leaves files that are named like the service's own records, and fails."""
import os
import sys

for name in ("exit_code", "stdout", "stderr", "report.json", "status"):
    with open(f"/output/{name}", "w") as file:
        file.write("0")
with open("/output/result.json", "w") as file:
    file.write('{"status": "succeeded", "exit_code": 0}')
sys.exit(5)
