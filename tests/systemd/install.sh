#!/bin/sh
# Makes systemd available to the tests: installed as a package, never booted. Repeating it is quick and changes nothing.
set -eu

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
die() {
    echo "systemd for tests: $*" >&2
    exit 1
}

as_root true 2>/dev/null || die "run this as root, or allow sudo without a password: its tests need namespaces"
if [ ! -x /lib/systemd/systemd ] || ! command -v systemd-analyze >/dev/null; then
    command -v apt-get >/dev/null || die "missing: install it"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends systemd >/dev/null
fi
systemd-analyze --version | head -n 1
