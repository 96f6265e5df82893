#!/bin/sh
# Makes promtool available to the tests, beside what the machine has: only unpacked, no server is installed or started.
# Prints where it is. Repeating it is quick and changes nothing.
set -eu

cache=${AGENTQ_TEST_CACHE:-$HOME/.cache/agentq-tests}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
die() {
    echo "promtool for tests: $*" >&2
    exit 1
}

if command -v promtool; then exit 0; fi
if [ -x "$cache/promtool" ]; then
    echo "$cache/promtool"
    exit 0
fi
command -v apt-get >/dev/null || die "missing: install Prometheus, whose promtool checks the alert rules"
as_root apt-get update -qq || die "missing, and the lists of packages cannot be read; install Prometheus"
mkdir -p "$cache"
building=$(mktemp -d "$cache/promtool.building.XXXXXX")
trap 'rm -rf "$building"' EXIT
(cd "$building" && apt-get download -qq prometheus >/dev/null 2>&1) || die "apt here has no package prometheus"
dpkg-deb -x "$building"/prometheus_*.deb "$building"
mv "$building/usr/bin/promtool" "$cache/promtool"
echo "$cache/promtool"
