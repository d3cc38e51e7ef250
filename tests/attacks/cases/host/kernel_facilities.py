"""Uses facilities of the kernel that are known for their flaws."""
import ctypes

from attempt import attempt_call

buffer = ctypes.create_string_buffer(256)
attempt_call("bpf", 0, buffer, 64)
attempt_call("userfaultfd", 1)
attempt_call("perf_event_open", buffer, 0, -1, -1, 0)
attempt_call("fanotify_init", 0, 0)
attempt_call("io_uring_setup", 8, buffer)
attempt_call("io_uring_enter", 0, 1, 0, 0, 0, 0)
attempt_call("io_uring_register", 0, 0, 0, 0)
attempt_call("add_key", b"user", b"name", b"value", 5, -3)
attempt_call("request_key", b"user", b"name", b"", -3)
attempt_call("keyctl", 0, -3, 0)
attempt_call("keyctl", 1, b"session", what="join a session keyring")
attempt_call("name_to_handle_at", -100, b"/", buffer, buffer, 0)
attempt_call("open_by_handle_at", 0, buffer, 0)
