#!/bin/sh
# Makes RabbitMQ available to the tests. Repeating it is quick and changes nothing; it needs root or `sudo -n`.
set -eu

wanted=4.3
suite=forky
cache=${AGENTQ_TEST_CACHE:-$HOME/.cache/agentq-tests}
root=$cache/rabbitmq-$wanted

say() { echo "rabbitmq for tests: $*"; }
die() {
    say "$*" >&2
    exit 1
}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
version_in() { ls "$1/usr/lib/rabbitmq/lib" 2>/dev/null | sed -n 's/^rabbitmq_server-//p' | sort -V | tail -n 1; }
new_enough() { [ -n "$1" ] && [ "$(printf '%s\n' "$wanted" "$1" | sort -V | head -n 1)" = "$wanted" ]; }
port_mappers() { for process in /proc/[0-9]*; do
    [ "$(cat "$process/comm" 2>/dev/null)" != epmd ] || echo "${process#/proc/}"
done; }

apt_install() {
    command -v apt-get >/dev/null || die "missing: $*; install Docker, or a RabbitMQ of version $wanted or later"
    as_root true 2>/dev/null || die "missing: $*; run this as root, or allow sudo without a password"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

# The package starts its server when it is installed; a policy that forbids it is what Debian offers against that.
policy=/usr/sbin/policy-rc.d
forbid_services() {
    trap 'allow_services' EXIT
    trap 'exit 130' INT TERM HUP
    [ ! -e $policy ] || as_root mv $policy $policy.agentq-kept
    # It forbids only while this script lives, so that a killed one leaves nothing that matters.
    printf '#!/bin/sh\nif [ -d /proc/%s ]; then exit 101; fi\n' $$ | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
}
allow_services() {
    as_root rm -f $policy
    [ ! -e $policy.agentq-kept ] || as_root mv $policy.agentq-kept $policy
    trap - EXIT INT TERM HUP
}

install_package() {
    before=" $(port_mappers | tr '\n' ' ')"
    forbid_services
    apt_install rabbitmq-server
    allow_services
    if command -v systemctl >/dev/null; then
        as_root systemctl --quiet disable rabbitmq-server.service epmd.socket epmd.service 2>/dev/null || true
    fi
    for pid in $(port_mappers); do
        case $before in *" $pid "*) ;; *) as_root kill "$pid" 2>/dev/null || true ;; esac
    done
}

debian_mirror() {
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 'Component: main' |
        sort | uniq -c | sort -rn | sed -n '1s/^ *[0-9]* //p'
}

build_root() {
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || die "missing: version $wanted (here is ${package:-none}), and apt here knows no Debian mirror" \
        "to build it from; install Docker, or a RabbitMQ of version $wanted or later"
    [ -x /usr/sbin/debootstrap ] || apt_install debootstrap
    eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
    building=$(mktemp -d "$root.building.XXXXXX")
    # In namespaces of its own: neither a mount nor a process of the build can outlive it.
    as_root env ${http_proxy:+"http_proxy=$http_proxy"} LC_ALL=C \
        unshare --mount --pid --fork --kill-child --mount-proc \
        debootstrap --force-check-gpg --variant=minbase --include=rabbitmq-server \
        "$suite" "$building" "$mirror" /usr/share/debootstrap/scripts/sid >"$building.log" 2>&1 || {
        tail -n 15 "$building.log" >&2
        die "debootstrap of $suite failed, its last lines are above"
    }
    found=$(version_in "$building")
    new_enough "$found" || die "$suite has version ${found:-none}, the tests need $wanted or later"
    echo "127.0.0.1 localhost" | as_root tee "$building/etc/hosts" >/dev/null
    as_root sh -c 'rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*; chmod 755 "$1"' sh "$building"
    as_root mv -T "$building" "$root"
    rm -f "$building.log"
}

if docker info >/dev/null 2>&1; then
    say "a Docker engine answers, nothing to install"
    exit 0
fi

did=""
package=$(version_in "")
if [ -z "$package" ]; then
    install_package
    package=$(version_in "")
    [ -n "$package" ] || die "the package rabbitmq-server was installed, but there is no server in it"
    did="installed the package; "
fi
if new_enough "$package"; then
    say "${did}version $package is ready"
    exit 0
fi

mkdir -p "$cache"
# Two installs at once: the second one waits here and finds the work done.
exec 9>"$cache/lock"
flock 9
if [ ! -d "$root" ]; then
    as_root rm -rf "$root".building.*
    build_root
    did="${did}built the newer one; "
fi
say "${did}versions $package and $(version_in "$root") are ready"
