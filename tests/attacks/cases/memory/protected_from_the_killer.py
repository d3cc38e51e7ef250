"""Asks the OOM killer to take anybody else, and then takes all memory."""
try:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")
    print("asked: granted", flush=True)
except OSError:
    print("asked: refused", flush=True)
with open("/proc/self/oom_score_adj") as file:
    print(f"score: {file.read().strip()}", flush=True)
hoard = []
while True:
    hoard.append(bytearray(b"x" * (1 << 20)))
