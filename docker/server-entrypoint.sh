#!/bin/sh
# The server's start in a container. Docker masks parts of /proc, over which the kernel lets no sandbox mount
# its own, and mounts the container's groups of processes read-only, in which the native engine limits jobs.
# Where this container may mount (CAP_SYS_ADMIN), it gets both whole; anywhere else nothing changes, and the
# server says what its engine lacks.
set -eu
if [ "${1:-}" = server ] && [ "${TAKO_VM_ROLE:-}" != api ] &&
    mount -t proc -o nosuid,nodev,noexec proc /proc 2>/dev/null; then
    # One mount per controller on cgroup v1, one for all on v2.
    for groups in /sys/fs/cgroup /sys/fs/cgroup/*; do
        ! mountpoint -q "$groups" || mount -o remount,bind,rw,nosuid,nodev,noexec "$groups" 2>/dev/null || true
    done
fi
exec tako-vm "$@"
