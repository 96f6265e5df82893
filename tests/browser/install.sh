#!/bin/sh
# Makes Chromium available to the tests, from the machine's own packages. Prints where it is. Repeating it is quick and
# changes nothing; it needs root or `sudo -n` where there is none yet.
set -eu

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
die() {
    echo "Chromium for tests: $*" >&2
    exit 1
}
found() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

if found; then exit 0; fi
command -v apt-get >/dev/null || die "missing: install Chromium, in which the page is tested"
as_root true 2>/dev/null || die "missing: run this as root, or allow sudo without a password"
as_root apt-get update -qq || die "missing, and the lists of packages cannot be read; install Chromium"
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null ||
    die "apt here has no package chromium"
found || die "the package chromium was installed, but there is no program of that name"
