"""Reads where no memory is."""
import ctypes

ctypes.string_at(8)
