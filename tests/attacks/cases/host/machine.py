"""Acts on the machine: modules, reboot, clocks, names, swap, ports."""
import ctypes
import time

from attempt import attempt, attempt_call

buffer = ctypes.create_string_buffer(256)
attempt_call("init_module", buffer, 16, b"")
attempt_call("finit_module", 0, b"", 0)
attempt_call("delete_module", b"no_such_module", 0)
attempt_call("kexec_load", 0, 0, 0, 0)
attempt_call("kexec_file_load", -1, -1, 0, b"", 0)
# Without the magic numbers this does nothing even where it is allowed.
attempt_call("reboot", 0, 0, 0, 0)
attempt_call("swapon", b"/no/such/file", 0)
attempt_call("acct", b"/no/such/file")
attempt_call("quotactl", 0, b"/no/such/device", 0, 0)
attempt_call("syslog", 3, buffer, 256)
attempt_call("settimeofday", 0, 0)
attempt("set the clock", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
attempt_call("clock_adjtime", 0, ctypes.create_string_buffer(b"\1", 256))
attempt_call("sethostname", b"owned", 5)
attempt_call("setdomainname", b"owned", 5)
attempt_call("iopl", 3)
attempt_call("ioperm", 0x80, 1, 1)
attempt_call("personality", 0x0040000, what="switch address randomization off")
