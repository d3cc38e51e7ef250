"""Mounts, remounts, unmounts and moves roots, in the old way and the new one."""
from attempt import attempt_call

MS_REMOUNT, MS_BIND, MS_REC, MNT_DETACH = 32, 4096, 16384, 2
attempt_call("mount", b"none", b"/tmp", b"tmpfs", 0, b"", what="mount a tmpfs")
attempt_call("mount", b"proc", b"/tmp", b"proc", 0, b"", what="mount proc")
attempt_call("mount", b"none", b"/", b"", MS_REMOUNT, b"", what="remount the root writable")
attempt_call("mount", b"none", b"/tmp", b"", MS_REMOUNT, b"size=1g", what="grow /tmp")
attempt_call("mount", b"/usr", b"/tmp", b"", MS_BIND | MS_REC, b"", what="bind")
attempt_call("umount2", b"/proc", MNT_DETACH, what="unmount /proc")
attempt_call("umount2", b"/tmp", MNT_DETACH, what="unmount /tmp")
attempt_call("pivot_root", b"/tmp", b"/tmp")
attempt_call("chroot", b"/tmp")
attempt_call("fsopen", b"tmpfs", 0)
attempt_call("fspick", -100, b"/", 0)
attempt_call("open_tree", -100, b"/", 1)
attempt_call("move_mount", -100, b"/tmp", -100, b"/output", 0)
attempt_call("mount_setattr", -100, b"/", 0, b"\0" * 32, 32)
