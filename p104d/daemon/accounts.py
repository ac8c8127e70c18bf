"""The account a job runs as, and the environment built for it."""

from __future__ import annotations

import os
import pwd
from functools import lru_cache

import msgspec

#: What a login gives a user of a Debian system; a job that needs more says so in its env.
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
_ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Account(msgspec.Struct, frozen=True):
    """A user as the host knows it."""

    uid: int
    gid: int
    name: str
    home: str
    shell: str


def account(uid: int) -> Account | None:
    """The account of ``uid``; None where the host has none."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir, entry.pw_shell)


def own_account() -> Account:
    """The daemon's own user, who may run without an account (a container's bare uid)."""
    found = account(os.getuid())
    return found or Account(os.getuid(), os.getgid(), str(os.getuid()), os.environ.get("HOME", "/"), "/bin/sh")


def base_environment(who: Account) -> dict[str, str]:
    """PATH, HOME, USER, LOGNAME, SHELL and LANG of the account; nothing of the daemon's own."""
    return {
        "PATH": _ROOT_PATH if who.uid == 0 else _PATH,
        "HOME": who.home,
        "USER": who.name,
        "LOGNAME": who.name,
        "SHELL": who.shell or "/bin/sh",
        "LANG": _system_lang(),
    }


@lru_cache(maxsize=1)
def _system_lang() -> str:
    try:
        with open("/etc/default/locale", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.strip().partition("=")
                if key == "LANG" and value:
                    return value.strip("\"'")
    except OSError:
        pass
    return "C.UTF-8"
