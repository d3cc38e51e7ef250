"""Ignores or blocks every signal it can, and stays."""
import signal
import time

for number in signal.valid_signals():
    try:
        signal.signal(number, signal.SIG_IGN)
    except OSError:
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
print("deaf", flush=True)
while True:
    time.sleep(60)
