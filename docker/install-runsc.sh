#!/bin/sh
# Installs gVisor from Debian's packages and registers it at the local Docker Engine as the
# runtime `runsc`, which security_mode strict asks for.
#
#   sh docker/install-runsc.sh
#
# Sandboxes need no network, so runsc runs without its own network stack, which not every
# kernel lets it set up. Its platform is the release's default unless RUNSC_PLATFORM names
# another (ptrace, kvm, systrap); releases before systrap get ptrace, which runs anywhere.
# The seccomp profile of a container is applied inside the sandbox too.
# Does nothing when the daemon has the runtime already. Running containers are left alone.
set -eu

settings=/etc/docker/daemon.json

say() { printf 'install-runsc: %s\n' "$*"; }
fail() {
    printf 'install-runsc: %s\n' "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }
registered() { docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -q '"runsc"'; }

has docker || fail "the docker command is missing; install the Docker CLI and run this again"
docker info >/dev/null 2>&1 || fail "no Docker Engine answers this user; start it, or run this as root"
if registered; then
    say "the daemon has the runtime runsc already"
    exit 0
fi
[ "$(id -u)" = 0 ] || fail "this changes $settings and the daemon, so it needs root; run: sudo sh docker/install-runsc.sh"
case ${DOCKER_HOST:-unix:///var/run/docker.sock} in
unix://*) ;;
*) fail "DOCKER_HOST names another host; run this there" ;;
esac

if ! has runsc; then
    has apt-get || fail "this host has no apt; install runsc by hand (gvisor.dev says how), then run this again"
    say "installing the package runsc"
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends runsc >/dev/null ||
        fail "the package could not be installed. Ubuntu has none: gvisor.dev says how"
fi
runsc=$(command -v runsc)

platform=${RUNSC_PLATFORM:-}
if [ -z "$platform" ] && ! runsc flags 2>&1 | grep -q systrap; then
    platform=ptrace
fi

has python3 || fail "python3 is needed to edit $settings; or add a runtime runsc with path $runsc by hand and reload the daemon"
say "registering $runsc in $settings${platform:+ (platform $platform)}"
mkdir -p "$(dirname "$settings")"
[ ! -e "$settings" ] || cp -p "$settings" "$settings.before-runsc"
python3 - "$settings" "$runsc" "$platform" <<'PYTHON'
import json, os, sys

path, runsc, platform = sys.argv[1:]
settings = {}
if os.path.exists(path):
    with open(path) as file:
        text = file.read()
    try:
        settings = json.loads(text) if text.strip() else {}
    except ValueError as error:
        sys.exit(f"install-runsc: {path} is not JSON ({error}); left as it is")
arguments = ["--network=none", "--oci-seccomp"] + ([f"--platform={platform}"] if platform else [])
settings.setdefault("runtimes", {})["runsc"] = {"path": runsc, "runtimeArgs": arguments}
# Written beside and renamed: the daemon never reads half a file.
with open(path + ".new", "w") as file:
    json.dump(settings, file, indent=2)
    file.write("\n")
os.replace(path + ".new", path)
PYTHON

say "telling the daemon to read it"
if has systemctl && systemctl is-active --quiet docker 2>/dev/null; then
    systemctl reload docker
else
    pidfile=
    for candidate in /run/docker.pid /var/run/docker.pid; do
        [ ! -s "$candidate" ] || pidfile=$candidate
    done
    [ -n "$pidfile" ] || fail "the daemon's pid file was not found; restart the daemon by hand"
    kill -HUP "$(cat "$pidfile")"
fi

tries=0
until registered; do
    tries=$((tries + 1))
    [ "$tries" -le 20 ] || fail "the daemon does not show the runtime; restart it, and see its log"
    sleep 0.25
done
say "the daemon has the runtime runsc"
