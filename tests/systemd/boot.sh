#!/bin/sh
# Becomes a manager of systemd's with nothing of this machine's in reach: `unshare --mount --pid --fork --kill-child
# --mount-proc boot.sh CGROUP UNITS FOLDER…`. It has /run, /srv, /var/lib and the user's home to itself; its services see
# the FOLDERs there, wherever they lie, and know a user agentq.
set -eu
cgroup=$1 units=$2
shift 2

# A manager takes all groups that it sees for its own, so it sees one alone: that which it is in.
echo 0 >"$cgroup/cgroup.procs"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system /run/manager /run/kept
number=0
for folder in "$units" "$@"; do
    number=$((number + 1))
    mkdir /run/kept/$number
    mount --bind "$folder" /run/kept/$number
done
mkdir /run/kept/group
mount --bind "$cgroup" /run/kept/group
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
seen=/sys/fs/cgroup
if [ "$(basename "$(dirname "$cgroup")")" = systemd ]; then
    seen=/sys/fs/cgroup/systemd
    mkdir $seen
fi
mount --bind /run/kept/group $seen
umount /run/kept/group
for own in /srv /var/lib "$HOME"; do mount -t tmpfs -o mode=755 tmpfs "$own"; done
number=0
for folder in "$units" "$@"; do
    number=$((number + 1))
    mkdir -p "$folder"
    mount --bind /run/kept/$number "$folder"
done
cp /etc/passwd /run/passwd
echo "agentq:x:971:971::/var/lib/agentq:/bin/sh" >>/run/passwd
mount --bind /run/passwd /etc/passwd
cp /etc/group /run/group
echo "agentq:x:971:" >>/run/group
mount --bind /run/group /etc/group
install -d -o 971 -g 971 -m 700 /var/lib/agentq

for target in nothing basic shutdown; do printf '[Unit]\nDefaultDependencies=no\n' >"$units/$target.target"; done

export XDG_RUNTIME_DIR=/run/manager SYSTEMD_UNIT_PATH="$units" SYSTEMD_LOG_TARGET=console
cd /
umask 0
# Never as the first process here: that would be the system's manager.
unshare --cgroup /lib/systemd/systemd --user --unit=nothing.target &
wait
