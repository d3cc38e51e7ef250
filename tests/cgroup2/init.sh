#!/bin/bash
# PID 1 of the machine that run.sh boots: mounts what systemd would, runs the native engine's tests once for each way in
# which a server may meet cgroup v2, and reboots, which ends the machine.

set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /tmp
mount -t cgroup2 -o nsdelegate,nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd
hostname cgroup2
ip link set lo up 2>/dev/null
# As systemd on a desktop or server; a kernel without these knows no such limit.
sysctl -qw kernel.unprivileged_userns_clone=1 2>/dev/null

TOP=/sys/fs/cgroup
USER_ID=1000
FAILED=0
TEST_TIME=${TEST_TIME:-600}
TESTS=${TESTS:-native::}
MODES=${MODES:-root,top,container,delegated,plain}
CONTROLLERS=

for controller in $(cat $TOP/cgroup.controllers); do
    echo "+$controller" > $TOP/cgroup.subtree_control && CONTROLLERS="$CONTROLLERS +$controller"
done

# Makes a group as systemd makes a service's at each start, new and with controllers handed down to it.
service() {
    local group=$TOP/system.slice/$1
    [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} +
    mkdir -p "$group"
    echo "$CONTROLLERS" > $TOP/system.slice/cgroup.subtree_control
    [ "$1" != delegated.service ] || delegate "$1"
}

# What `Delegate=yes` with `User=` does (systemd.resource-control(5)).
delegate() {
    local group=$TOP/system.slice/$1
    chown $USER_ID:$USER_ID "$group" "$group"/cgroup.{procs,threads,subtree_control}
}

# Runs a command in a group, or in none of its own where the name is empty.
within() {
    local group=$1
    shift
    [ -z "$group" ] || service "$group"
    (
        echo "$BASHPID" > "$TOP/${group:+system.slice/$group/}cgroup.procs" || exit 1
        exec "$@"
    )
}


# Runs the tests by a mode of the same name as the command that starts programs in it.
mode() {
    local name=$1 status=0 began=$SECONDS left
    echo "== MODE $name"
    TAKO_VM_TEST_CGROUP=2
    [ "$name" = plain ] && TAKO_VM_TEST_CGROUP=none
    export TAKO_VM_TEST_CGROUP
    "$name" timeout -k 10 "$TEST_TIME" /tests/unit engine::native::c --color never --test-threads 2 < /dev/null || status=1
    "$name" timeout -k 10 "$TEST_TIME" /tests/it ${TESTS//,/ } --color never --test-threads 2 < /dev/null || status=1
    # The leaf holds whoever was there before; everything else must be gone.
    left=$(find $TOP -path '*/tako-vm*' -type d ! -name tako-vm-host)
    if [ -n "$left" ]; then
        echo "LEFT BEHIND: $left"
        status=1
    fi
    if [ $status = 0 ]; then
        echo "== PASS $name in $((SECONDS - began)) s"
    else
        echo "== FAIL $name"
        FAILED=1
    fi
}

root() { within root.service "$@"; }
top() { within '' "$@"; }
container() { within container.service unshare --cgroup --mount sh -c \
    'umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"' sh "$@"; }
delegated() { within delegated.service setpriv --reuid $USER_ID --regid $USER_ID --clear-groups "$@"; }
plain() { within plain.service setpriv --reuid $USER_ID --regid $USER_ID --clear-groups "$@"; }

echo "== KERNEL $(uname -r) CONTROLLERS $(cat $TOP/cgroup.controllers)"
python3 --version
mkdir -p /run/user/$USER_ID
chown $USER_ID:$USER_ID /run/user/$USER_ID

for name in ${MODES//,/ }; do
    mode "$name"
done
[ $FAILED = 0 ] && echo "== ALL PASS" || echo "== SOME FAIL"
sync
echo b > /proc/sysrq-trigger
sleep 60
