"""Kills itself with the OOM killer's signal."""
import os
import signal

os.kill(os.getpid(), signal.SIGKILL)
