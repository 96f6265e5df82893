#!/bin/sh
# Makes PostgreSQL available to the tests: what the machine has, else its own packages, only unpacked beside it. No server
# is installed or started. Prints the folder of its programs. Repeating it is quick and changes nothing.
set -eu

# For root in a folder that all may enter: the server will not run as root.
if [ "$(id -u)" = 0 ]; then caches=/var/cache; else caches=$HOME/.cache; fi
cache=${AGENTQ_TEST_CACHE:-$caches/agentq-tests}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
die() {
    echo "PostgreSQL for tests: $*" >&2
    exit 1
}
found() {
    for folder in $(ls -d "$1"/usr/lib/postgresql/*/bin 2>/dev/null | sort -Vr); do
        if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then
            echo "$folder"
            return
        fi
    done
    return 1
}

if found "" || found "$cache/postgresql"; then exit 0; fi
command -v apt-get >/dev/null || die "missing: install it, initdb and postgres are what is needed"
as_root apt-get update -qq || die "missing, and the lists of packages cannot be read; install it"
mkdir -p "$cache"
building=$(mktemp -d "$cache/postgresql.building.XXXXXX")
mkdir -p "$building/debs/partial"
trap 'as_root rm -rf "$building"' EXIT
as_root apt-get install -qq -y --no-install-recommends --download-only -o Dir::Cache::archives="$building/debs" postgresql \
    >/dev/null || die "apt here has no package postgresql"
for package in "$building"/debs/*.deb; do dpkg-deb -x "$package" "$building/root"; done
mv "$building/root" "$cache/postgresql"
chmod -R a+rX "$cache/postgresql"
found "$cache/postgresql"
