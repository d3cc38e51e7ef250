"""Starts threads until none can be had, and keeps all of them busy."""
import threading

count = 0
go = threading.Event()


def spin():
    go.wait()
    while True:
        pass


try:
    while count < 2000:
        threading.Thread(target=spin, daemon=True).start()
        count += 1
except RuntimeError:
    pass
print(f"threads: {count}", flush=True)
go.set()
spin()
