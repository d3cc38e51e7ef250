"""Exits with the status of a process that the OOM killer took."""
import sys

sys.exit(137)
