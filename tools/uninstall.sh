#!/bin/sh
# Remove what tools/install.sh installed. The queue, logs, configuration, groups and the user stay; the last lines say where.
set -eu
. "$(dirname "$0")/python.sh"

DESTDIR=${DESTDIR:-}
root=${DESTDIR%/}
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "make uninstall needs root: sudo make uninstall"

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now --quiet p104d.service p104d-metrics.socket 2>/dev/null || true
fi

rm -rf "$root/opt/p104d"
rm -f "$root/usr/local/bin/p104d" "$root/usr/local/bin/p104ctl" \
    "$root/etc/systemd/system/p104d.service" "$root/etc/systemd/system/p104d-metrics.socket" "$root/etc/sysusers.d/p104d.conf" "$root/etc/tmpfiles.d/p104d.conf" \
    "$root/usr/local/share/bash-completion/completions/p104ctl" \
    "$root"/usr/local/share/man/man1/p104ctl.1 "$root"/usr/local/share/man/man1/p104ctl-*.1

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
echo "p104d is removed. Jobs that were running go on, and the models they use; to end them: systemctl stop 'p104-*'"
echo "Kept: $root/var/lib/p104d (queue, logs), $root/etc/p104d (configuration), groups p104 and p104-admin, user p104-model."
