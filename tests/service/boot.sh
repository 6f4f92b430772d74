#!/bin/sh
# Boots a systemd of its own, with nothing to start but WeirMQ's unit: boot.sh WEIRMQ CONFIG-FOLDER ETC-FOLDER
#
# It has its own processes, mounts and control groups, and shares files and network with the machine; what it writes outside
# the three folders is gone with it. Needs root. It stays in the foreground, and ends with its first process.
set -e
binary=$1 units=$2 etc=$3
if [ -z "$WEIRMQ_BOOT_INSIDE" ]; then
    WEIRMQ_BOOT_INSIDE=1 exec unshare --fork --pid --mount --uts --ipc --cgroup --mount-proc --kill-child sh "$0" "$@"
fi
mount --make-rprivate /
# The units first: their folder may lie below one that is covered soon.
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/units /mnt/etc /mnt/etc.work /mnt/bin /mnt/bin.work /mnt/weirmq
cp "$binary" /mnt/bin/weirmq
cp -r "$etc"/. /mnt/weirmq/
for unit in service socket sysusers tmpfiles; do cp "$units/weirmq.$unit" /mnt/; done
mv /mnt/weirmq.service /mnt/weirmq.socket /mnt/units/
for target in sysinit basic sockets shutdown umount network-online multi-user; do
    printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' $target >/mnt/units/$target.target
done
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/etc.work /etc
mount -t overlay overlay -o lowerdir=/usr/bin,upperdir=/mnt/bin,workdir=/mnt/bin.work /usr/bin
systemd-sysusers /mnt/weirmq.sysusers
systemd-tmpfiles --create /mnt/weirmq.tmpfiles
cp -r /mnt/weirmq/. /etc/weirmq/
chown -R root:weirmq /etc/weirmq
chmod -R u=rwX,g=rX,o= /etc/weirmq
umount -l /sys/fs/cgroup 2>/dev/null || true
if grep -q cgroup2 /proc/mounts || ! grep -qw cgroup /proc/filesystems; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
fi
exec env -i container=other SYSTEMD_UNIT_PATH=/mnt/units PATH="$PATH" /lib/systemd/systemd --system \
    --unit=multi-user.target --log-target=console --log-level=info --show-status=no
