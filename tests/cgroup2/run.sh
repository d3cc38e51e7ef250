#!/bin/sh
# Runs the native engine's tests on a Linux with cgroup v2 alone: in a virtual machine with Debian's kernel and a small
# Debian, unattended. As root on Debian: tests/cgroup2/run.sh
#
# SUITE     whose kernel: by default the host's own release; bookworm-backports has one that can reset memory.peak
# MODES     root,top,container,delegated,plain: how the server meets its cgroup, see init.sh
# TESTS     filters of the test program, with commas between; by default native::
# ACCEL     kvm or tcg; by default kvm where it gets a machine to start
# TEST_TIME seconds for one program in one mode; without KVM everything is 10 to 30 times slower
# WORK      a directory for what is downloaded, kept for the next run; by default one that is removed
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
. /etc/os-release
suite=${SUITE:-$VERSION_CODENAME}
[ "$(id -u)" = 0 ] || { echo "run.sh: must be root, to unpack a Debian" >&2; exit 2; }

needed=
command -v qemu-system-x86_64 > /dev/null || needed="$needed qemu-system-x86"
command -v debootstrap > /dev/null || needed="$needed debootstrap"
command -v mke2fs > /dev/null || needed="$needed e2fsprogs"
command -v xz > /dev/null || needed="$needed xz-utils"
# Nothing that is there may go: Debian's QEMU takes the place of another release's qemu-utils, which is for the operator to decide.
# shellcheck disable=SC2086
[ -z "$needed" ] || { apt-get update && apt-get install -y --no-install-recommends --no-remove $needed; } ||
    { echo "run.sh: cannot install$needed without removing others; install it by hand" >&2; exit 2; }

if [ -n "${WORK:-}" ]; then
    work=$WORK
    mkdir -p "$work"
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi

echo "Building the tests"
built=$(cargo test --test it --lib --no-run 2>&1) || { echo "$built"; exit 1; }
program() { echo "$built" | sed -n "s/.*Executable .*$1.* (\(.*\))/\1/p"; }
unit=$(program 'src\/lib.rs')
it=$(program 'tests\/it\/main.rs')

if [ ! -f "$work/debian/usr/bin/python3" ]; then
    echo "Unpacking a Debian"
    debootstrap --variant=minbase --include=python3 "$VERSION_CODENAME" "$work/debian" > "$work/debootstrap.log"
fi

kernel=$work/kernel-$suite
if [ ! -d "$kernel" ]; then
    echo "Downloading the kernel of $suite"
    # An apt of its own, so that the host's lists stay as they are.
    apt=$work/apt-$suite
    mkdir -p "$apt/lists/partial"
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -n 1)
    echo "deb [signed-by=$key] $mirror $suite main" > "$apt/sources.list"
    options="-qq -o Dir::Etc::SourceList=$apt/sources.list -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists=$apt/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root"
    # shellcheck disable=SC2086
    apt-get $options update
    # shellcheck disable=SC2086
    package=$(apt-cache $options depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
    # shellcheck disable=SC2086
    (cd "$apt" && apt-get $options download "$package" busybox-static 2> /dev/null ||
        { apt-get $options download "$package" && apt-get -qq download busybox-static; })
    dpkg-deb -x "$apt"/busybox-static_*.deb "$apt/busybox"
    dpkg-deb -x "$apt"/linux-image-*.deb "$kernel.new"
    mv "$apt/busybox" "$kernel.new/busybox"
    mv "$kernel.new" "$kernel"
fi

# The kernel has its disk driver in modules, so a first root loads them.
rm -rf "$work/initrd"
mkdir -p "$work/initrd/bin" "$work/initrd/modules" "$work/initrd/root" "$work/initrd/dev"
cp "$kernel/busybox/bin/busybox" "$work/initrd/bin/"
drivers='virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk'
for driver in $drivers; do
    find "$kernel/lib/modules" -name "$driver.ko*" -exec cp {} "$work/initrd/modules/" \;
done
find "$work/initrd/modules" -name '*.xz' -exec xz -d {} +
cat > "$work/initrd/init" << 'END'
#!/bin/busybox sh
# Their order differs from kernel to kernel; what lacks another is loaded in a later round.
for round in 1 2 3 4; do
    for module in /modules/*.ko; do busybox insmod "$module" 2> /dev/null; done
done
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t ext4 /dev/vda /root
exec busybox switch_root /root /tests/init.sh
END
chmod +x "$work/initrd/init"
(cd "$work/initrd" && find . | bin/busybox cpio -o -H newc 2> /dev/null | gzip -1) > "$work/initrd.gz"

mkdir -p "$work/debian/tests"
cp "$here/init.sh" "$work/debian/tests/init.sh"
chmod +x "$work/debian/tests/init.sh"
strip -g -o "$work/debian/tests/it" "$it"
strip -g -o "$work/debian/tests/unit" "$unit"
rm -f "$work/disk"
mke2fs -q -t ext4 -d "$work/debian" "$work/disk" 1G

console=$work/console.log
boot() {
    limit=$1 accel=$2
    shift 2
    timeout -k 10 "$limit" qemu-system-x86_64 -accel "$accel" -cpu max -smp 2 -m 2048 -display none -nodefaults \
        -no-reboot -serial "file:$console" -kernel "$kernel"/boot/vmlinuz-* -initrd "$work/initrd.gz" \
        -append "console=ttyS0 panic=-1 quiet $*" -drive "file=$work/disk,format=raw,if=virtio,snapshot=on"
}

accel=${ACCEL:-}
if [ -z "$accel" ]; then
    accel=tcg,thread=multi
    # A /dev/kvm that opens may still not run anything, as inside some virtual machines.
    if [ -w /dev/kvm ] && boot 20 kvm MODES=none > /dev/null 2>&1 && grep -q '^== KERNEL' "$console"; then
        accel=kvm
    fi
fi
case $accel in
    kvm) default=300 ;;
    *) default=3600 ;;
esac
time=${TEST_TIME:-$default}
echo "Testing on the kernel of $suite with $accel"
status=0
boot $((time * 10 + 120)) "$accel" "TEST_TIME=$time ${MODES:+MODES=$MODES} ${TESTS:+TESTS=$TESTS}" || status=$?
cat "$console"
# What the machine says counts; that it ended by itself too.
[ $status = 0 ] && grep -q '^== ALL PASS' "$console"
