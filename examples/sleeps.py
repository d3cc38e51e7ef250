"""Outlives any time limit, and would ignore a polite request to stop."""

import signal
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("going to sleep", flush=True)
time.sleep(3600)
print("never reached")
