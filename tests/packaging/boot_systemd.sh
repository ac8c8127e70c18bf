#!/bin/sh
# Become a machine of its own whose PID 1 is systemd: called in new pid, mount, cgroup, uts and ipc namespaces.
# The host's root is there read-only; everything that is written goes to memory and is gone afterwards.
#   boot_systemd.sh NEW-ROOT PREFIX PYTHON VENV SOURCE UNIT
# PREFIX/PYTHON is the interpreter. It, VENV and SOURCE may lie where the unit's sandbox hides them: they are put to /opt.
set -e
root=$1 prefix=$2 python=$3 venv=$4 source=$5 unit=$6

mount --make-rprivate /
mount --bind / "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --bind /dev "$root/dev"
for folder in run tmp opt var/lib var/log; do
    mount -t tmpfs tmpfs "$root/$folder"
done
mkdir -p -m 1777 "$root/run/lock"
mkdir -p "$root/run/etc" "$root/run/etc.work" "$root/opt/python" "$root/opt/venv/bin" "$root/opt/venv/lib" "$root/opt/source"
mount -t overlay -o "lowerdir=/etc,upperdir=$root/run/etc,workdir=$root/run/etc.work" overlay "$root/etc"
mount --bind "$prefix" "$root/opt/python"
mount --bind "$venv/lib" "$root/opt/venv/lib"
ln -s "/opt/python/$python" "$root/opt/venv/bin/python"
echo "home = /opt/python/${python%/*}" >"$root/opt/venv/pyvenv.cfg"
mount --bind "$source" "$root/opt/source"

cp "$unit" "$root/etc/systemd/system/p104d.service"
cat >"$root/etc/systemd/system/test.target" <<UNIT
[Unit]
Description=p104d under test
AllowIsolate=yes
Wants=p104d.service
UNIT
# Not chroot: whoever enters the mount namespace later is to find this root too.
mkdir "$root/run/old"
cd "$root"
pivot_root . run/old
cd /
umount -l /run/old
# A Python with a shared library of its own looks for it at the old place, which the sandbox hides.
echo /opt/python/lib >/etc/ld.so.conf.d/p104d-test.conf
/sbin/ldconfig -X
exec /lib/systemd/systemd --unit=test.target --log-target=null --show-status=no
