"""Leaves FIFOs, at which a reader would wait for ever."""
import os

os.mkfifo("/output/result.json")
os.mkfifo("/output/fifo")
