"""Says in words that it was out of memory."""
import sys

print("MemoryError: out of memory, oom-kill, Killed", file=sys.stderr)
sys.exit(1)
