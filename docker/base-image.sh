#!/bin/sh
# Makes a Python base image out of Debian (or Ubuntu) packages, for hosts on which
# `docker pull python:<version>-slim` finds no registry.
#
#   sh docker/base-image.sh [PYTHON_VERSION [TAG]]
#
# PYTHON_VERSION is like 3.11 and must be the release's own python3, which is also the default.
# TAG defaults to tako-vm/python:<version>. An existing tag is left as it is.
# The release and its mirrors are those of this host's own apt configuration.
set -eu

say() { printf 'base-image: %s\n' "$*"; }
fail() {
    printf 'base-image: %s\n' "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

has docker || fail "the docker command is missing; install the Docker CLI (apt-get install docker.io) and run this again"
docker version --format '{{.Server.Version}}' >/dev/null 2>&1 ||
    fail "no Docker Engine answers this user; start it, join its group (docker), or set DOCKER_HOST, and run this again"
has apt-get && [ -r /etc/os-release ] ||
    fail "this host has no apt; make a base image elsewhere (docker pull python:<version>-slim, docker save) and docker load it here"

distribution=$(. /etc/os-release && printf '%s' "$ID")
release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
[ -n "$release" ] || fail "/etc/os-release names no VERSION_CODENAME, so the release to install is unknown"

# Only one run at a time, apt's own part included: a second one waits, then finds the tag.
if [ "$(id -u)" = 0 ] && has flock; then
    exec 9>/run/tako-vm-base-image.lock
    flock 9
fi

# Major and minor version of the python3 that apt would install; empty while apt has no lists.
candidate() {
    apt-cache policy python3 | sed -n 's/^ *Candidate: \([0-9]*:\)\{0,1\}\([0-9]*\.[0-9]*\).*/\2/p'
}

offered=$(candidate)
if [ -z "$offered" ] && [ "$(id -u)" = 0 ]; then
    say "apt has no package lists yet; fetching them"
    apt-get update -qq
    offered=$(candidate)
fi
version=${1:-$offered}
[ -n "$version" ] || fail "apt knows no python3; run apt-get update, or name the version"
tag=${2:-tako-vm/python:$version}

if docker image inspect "$tag" >/dev/null 2>&1; then
    say "$tag exists already"
    exit 0
fi
[ -z "$offered" ] || [ "$offered" = "$version" ] ||
    fail "$distribution $release offers Python $offered, not $version; ask for $offered, or docker load an image of $version"
[ "$(id -u)" = 0 ] ||
    fail "installing packages into a root of their own needs root; run: sudo sh docker/base-image.sh $version $tag"
if ! has debootstrap; then
    say "installing debootstrap"
    apt-get install -y -qq --no-install-recommends debootstrap >/dev/null ||
        fail "debootstrap could not be installed; run apt-get update && apt-get install debootstrap, then this again"
fi

# Lines of "suite mirror" for the release itself, its updates and its security fixes.
sources=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk -v release="$release" '
        $2 == "main" && ($1 == release || $1 == release "-updates" || $1 == release "-security") && !seen[$1]++ { print $1, $3 }')
mirror=$(printf '%s\n' "$sources" | awk -v release="$release" '$1 == release { print $2 }')
[ -n "$mirror" ] || fail "apt's sources name no mirror for $release main; add one to /etc/apt/sources.list"

work=$(mktemp -d "${TMPDIR:-/var/tmp}/tako-vm-base-image.XXXXXX")
root=$work/root
clean() {
    for mounted in proc sys dev/pts dev; do
        umount -l "$root/$mounted" 2>/dev/null || true
    done
    rm -rf --one-file-system "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# apt's proxies serve debootstrap too, which reads only the environment.
eval "$(apt-config shell proxy_http Acquire::http::Proxy proxy_https Acquire::https::Proxy)"
[ -z "${proxy_http:-}" ] || export http_proxy="$proxy_http"
[ -z "${proxy_https:-}" ] || export https_proxy="$proxy_https"

say "installing $distribution $release with Python $version (about a minute)"
debootstrap --variant=minbase \
    --include=python3,python3-pip,ca-certificates \
    "$release" "$root" "$mirror" >"$work/log" 2>&1 || {
    tail -n 20 "$work/log" "$root/debootstrap/debootstrap.log" >&2 2>/dev/null || true
    fail "debootstrap could not install $release (its last lines are above)"
}

printf '%s\n' "$sources" | awk '{ print "deb " $2 " " $1 " main" }' >"$root/etc/apt/sources.list"
if [ "$(printf '%s\n' "$sources" | wc -l)" -gt 1 ]; then
    say "installing the release's updates"
    chroot "$root" sh -c '
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq && apt-get -y -qq dist-upgrade' >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        fail "the release's updates could not be installed (the last lines are above)"
    }
fi

installed=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$installed" = "$version" ] || fail "$release installed Python $installed, not $version"

say "removing what a sandbox never reads"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/var/log/* \
    "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/info/* \
    "$root"/usr/share/locale/* "$root"/usr/share/i18n/* "$root"/tmp/* "$root"/var/tmp/*
# The standard library keeps its __pycache__: without it each start would compile anew.
rm -f "$root/etc/resolv.conf" "$root/etc/hostname" "$root/etc/machine-id"
mkdir -p "$root/var/cache/apt/archives/partial" "$root/var/log/apt"
ln -sf python3 "$root/usr/bin/python"

say "importing it as $tag"
tar --numeric-owner --one-file-system -C "$root" -cf - . |
    docker import \
        --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        --change 'CMD ["python3"]' \
        --change "LABEL tako-vm.python=$version tako-vm.release=$distribution-$release" \
        --message "python3 of $distribution $release" \
        - "$tag" >/dev/null
say "made $tag ($(docker image inspect --format '{{.Size}}' "$tag" | awk '{ printf "%.0f MB", $1 / 1e6 }'))"
