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


#: /proc/PID/limits names them in words; as ``resource`` calls them.
_LIMITS = {
    "Max cpu time": "cpu",
    "Max file size": "fsize",
    "Max data size": "data",
    "Max stack size": "stack",
    "Max core file size": "core",
    "Max resident set": "rss",
    "Max processes": "nproc",
    "Max open files": "nofile",
    "Max locked memory": "memlock",
    "Max address space": "as",
    "Max pending signals": "sigpending",
    "Max msgqueue size": "msgqueue",
    "Max nice priority": "nice",
    "Max realtime priority": "rtprio",
    "Max realtime timeout": "rttime",
}
_WORDS_AT = 26  # fs/proc/base.c: "%-25s %-20s %-20s %-10s"


def limits_of(pid: int, uid: int) -> dict[str, tuple[int, int]] | None:
    """The resource limits, (soft, hard) by name, -1 for none, of a process that is ``uid``'s through and through; None
    where there is no such process. Its number may be another's by now: then that is the same user's, or refused."""
    try:
        # What is opened below this descriptor is of one process, whoever has its number later.
        folder = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        own = _uids(folder) == [uid] * 4
        found = _parse_limits(_text(folder, "limits"))
        return found if own and _uids(folder) == [uid] * 4 else None
    except (OSError, ValueError):
        return None
    finally:
        os.close(folder)


def _text(folder: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    # newline: as it is, for a process may have a carriage return in its name.
    with open(descriptor, encoding="ascii", errors="replace", newline="\n") as file:
        return file.read()


def _uids(folder: int) -> list[int]:
    """Real, effective, saved and file system uid."""
    # Not splitlines(): of what that splits at the kernel escapes the newline alone in the name of a process.
    line = next(line for line in _text(folder, "status").split("\n") if line.startswith("Uid:"))
    return [int(word) for word in line.split()[1:]]


def _parse_limits(text: str) -> dict[str, tuple[int, int]]:
    found = {}
    for line in text.split("\n"):
        name = _LIMITS.get(line[:_WORDS_AT].strip())
        if name is not None:
            soft, hard = (-1 if word == "unlimited" else int(word) for word in line[_WORDS_AT:].split()[:2])
            found[name] = (soft, hard)
    return found


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
