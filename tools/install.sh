#!/bin/sh
# Install p104d for the whole machine: tools/install.sh [PART...]. Parts, all of them when none is named:
#   package   a virtual environment in /opt/p104d with the wheel built from this checkout
#   files     commands, unit, sysusers.d, tmpfiles.d, man pages, completion, an example configuration
#   activate  groups, the user of model servers, folders, and the service started (never with DESTDIR)
# Run again after `git pull` to upgrade: running jobs go on, the configuration is kept.
set -eu
cd "$(dirname "$0")/.."
. tools/python.sh
umask 022

DESTDIR=${DESTDIR:-}
root=${DESTDIR%/}
opt=/opt/p104d
conf=/etc/p104d/config.toml

choose_python() {
    # A Python below somebody's home would not be readable by the jobs' users: Debian's own is preferred.
    if [ -z "${PYTHON:-}" ] || [ "$PYTHON" = python3 ]; then
        PYTHON=python3
        if /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            PYTHON=/usr/bin/python3
        fi
    fi
    check_python
    real=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    case $real in
    /root/* | /home/*)
        [ -n "$root" ] || fail "$real is in a home folder that other users cannot read; name a system Python: make install PYTHON=/usr/bin/python3"
        ;;
    esac
}

install_package() {
    choose_python
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    trap 'exit 130' INT TERM
    PYTHON=$PYTHON tools/wheel.sh "$scratch"
    if ! "$root$opt/bin/python" -c '' 2>/dev/null; then
        rm -rf "$root$opt"
        mkdir -p "$root/opt"
        "$PYTHON" -m venv "$root$opt"
    fi
    pip="$root$opt/bin/python -m pip --quiet --disable-pip-version-check --no-cache-dir"
    # First what is missing, then the package itself even when its version did not change.
    $pip install "$scratch"/p104d-*.whl || fail "the package could not be installed into $root$opt; see above"
    $pip install --force-reinstall --no-deps "$scratch"/p104d-*.whl || fail "the package could not be installed; see above"
    rm -rf "$scratch"
    trap - EXIT INT TERM
    if [ -n "$root" ]; then
        # The scripts name their Python by its full path; below DESTDIR that is not where it will be.
        for script in "$root$opt"/bin/*; do
            if [ -f "$script" ] && [ ! -L "$script" ]; then sed -i "1,3s|$root$opt|$opt|g" "$script"; fi
        done
        sed -i "s|$root$opt|$opt|g" "$root$opt/pyvenv.cfg"
    fi
    echo "installed $root$opt"
}

put() { # put MODE SOURCE TARGET
    mkdir -p "$(dirname "$root$3")"
    install -m "$1" "$2" "$root$3"
    echo "installed $root$3"
}

install_files() {
    [ -x "$root$opt/bin/python" ] || fail "$root$opt is not installed; run the whole of make install"
    mkdir -p "$root/usr/local/bin"
    for command in p104d p104ctl; do
        ln -sfn "$opt/bin/$command" "$root/usr/local/bin/$command"
        echo "installed $root/usr/local/bin/$command"
    done
    put 644 systemd/p104d.service /etc/systemd/system/p104d.service
    put 644 systemd/p104d-metrics.socket /etc/systemd/system/p104d-metrics.socket
    put 644 systemd/p104d.sysusers.conf /etc/sysusers.d/p104d.conf
    put 644 systemd/p104d.tmpfiles.conf /etc/tmpfiles.d/p104d.conf

    man=$root/usr/local/share/man/man1
    mkdir -p "$man"
    rm -f "$man"/p104ctl.1 "$man"/p104ctl-*.1
    "$root$opt/bin/python" -m p104d.cli.man "$man" >/dev/null || fail "the man pages could not be written to $man"
    echo "installed $man/p104ctl.1 and a page for each command"

    completions=$root/usr/local/share/bash-completion/completions
    mkdir -p "$completions"
    "$root$opt/bin/python" -m p104d.cli.main completion bash >"$completions/p104ctl" ||
        fail "the completion could not be written to $completions"
    echo "installed $completions/p104ctl"

    if [ -e "$root$conf" ]; then
        echo "kept      $root$conf"
    else
        put 640 systemd/config.toml "$conf"
    fi
}

add_accounts() {
    if [ -d /run/systemd/system ] && command -v systemd-sysusers >/dev/null; then
        systemd-sysusers p104d.conf
        return
    fi
    echo "systemd is not running here: adding groups and a user with groupadd and useradd"
    for group in p104 p104-admin; do
        getent group "$group" >/dev/null || groupadd --system "$group"
    done
    getent passwd p104-model >/dev/null ||
        useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin p104-model
}

activate() {
    add_accounts
    if [ ! -d /run/systemd/system ]; then
        mkdir -p -m 700 /var/lib/p104d
        mkdir -p -m 755 /run/p104d
        echo "systemd is not running here: start the daemon yourself, as root: p104d --system"
        return
    fi
    systemd-tmpfiles --create p104d.conf
    systemctl daemon-reload
    systemctl enable --quiet p104d.service
    # A restart leaves running jobs alone: the new daemon adopts them.
    systemctl restart p104d.service || fail "the service did not start; see: journalctl -u p104d -n 50"
    echo "p104d is running; try: p104ctl doctor. Let somebody use it: adduser NAME p104"
}

[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "make install needs root: sudo make install (or DESTDIR=/somewhere make install)"
case $root in
'' | /*) ;;
*) fail "DESTDIR has to be an absolute path, not $DESTDIR" ;;
esac

[ $# -gt 0 ] || set -- package files activate
for part in "$@"; do
    case $part in
    package) install_package ;;
    files) install_files ;;
    activate) [ -n "$root" ] || activate ;;
    *) fail "tools/install.sh: no part named $part" ;;
    esac
done
