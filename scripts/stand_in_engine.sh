#!/usr/bin/env bash
# A Docker engine with BuildKit, and a base image, for a machine that has neither and reaches no image registry: Debian's
# docker.io, and a Python image made with debootstrap. It proves steps, users, paths, sizes and signals, not the official
# base image's bytes. The engine has no bridge and touches no firewall, so containers use the host's network.
#
#   scripts/stand_in_engine.sh start DIR [SUITE]   SUITE: bookworm (Python 3.11, the default) or trixie (3.13)
#   scripts/stand_in_engine.sh stop DIR
#
# Needs root on Debian. `start` prints two lines for the shell: DOCKER_HOST and PYTHON_IMAGE.
set -euo pipefail
action=${1:?start or stop}
home=$(realpath -m "${2:?a directory for the engine}")
suite=${3:-bookworm}
root=$home/root-$suite
certificates=/etc/ssl/certs/ca-certificates.crt
export DOCKER_HOST=unix://$home/engine.sock

start() {
    mkdir -p "$home"
    if ! command -v dockerd debootstrap >/dev/null; then
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends docker.io debootstrap >"$home/apt.log"
    fi
    if [ ! -e "$root/complete" ]; then
        debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$root" >"$home/debootstrap.log"
        ln -s /usr/bin/python3 "$root/usr/local/bin/python"
        cp "$certificates" "$root$certificates"
        touch "$root/complete"
    fi
    if ! /usr/bin/docker version >/dev/null 2>&1; then
        dockerd -H "$DOCKER_HOST" --data-root "$home/data" --exec-root "$home/exec" --pidfile "$home/engine.pid" \
            --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false >"$home/engine.log" 2>&1 &
        for _ in $(seq 150); do
            /usr/bin/docker version >/dev/null 2>&1 && break
            sleep 0.2
        done
    fi
    local version
    version=$(chroot "$root" python3 -c 'import sys; print(*sys.version_info[:2], sep=".")')
    image=convserve-stand-in/python:$version
    if ! /usr/bin/docker image inspect "$image" >/dev/null 2>&1; then
        tar -C "$root" -c --exclude=./complete --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' . |
            /usr/bin/docker import --change "ENV PIP_CERT=$certificates" - "$image" >/dev/null
    fi
    echo "DOCKER_HOST=$DOCKER_HOST"
    echo "PYTHON_IMAGE=$image"
}

stop() {
    kill "$(cat "$home/engine.pid")"
    while [ -e "$home/engine.pid" ]; do sleep 0.2; done
    umount "$home/exec/netns/default" 2>/dev/null || true
}

case $action in
start) start ;;
stop) stop ;;
*) echo "start or stop, not $action" >&2; exit 2 ;;
esac
