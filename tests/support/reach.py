"""Other users for tests: they reach this checkout and its Python also where those lie in a private home.

In a mount namespace of their own, a folder that others may not pass through (/root, say) is covered by an empty one
that they may, and only what is needed is put back into it. Nothing of the host is changed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def acting(uid: int, gid: int, groups: Sequence[int] = ()) -> list[str]:
    """A prefix under which a command is that user's. Root only; skips the test where there is none to be had."""
    if (setpriv := shutil.which("setpriv")) is None:
        pytest.skip("not installed: setpriv")
    more = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    return [*way_in(), setpriv, f"--reuid={uid}", f"--regid={gid}", more, "--"]


@cache
def way_in() -> list[str]:
    """A prefix under which others reach what they need; none where they do already. Skips where it cannot be."""
    prefix = opened([str(ROOT), sys.prefix, sys.base_prefix, sys.executable])
    if prefix and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("others cannot reach this checkout or its Python, and no mount namespace is to be had here")
    return prefix


def need_reach(prefix: Sequence[str], *paths: str) -> None:
    """Skip where the user of ``prefix`` cannot read one of ``paths``: its own mode forbids it."""
    for path in paths:
        if subprocess.run([*prefix, "test", "-r", path], capture_output=True, check=False).returncode != 0:
            pytest.skip(f"other users cannot read {path}")


def opened(needed: Iterable[str]) -> list[str]:
    """A prefix under which everybody may pass on the way to each of ``needed``."""
    back: dict[str, str] = {}  # what is put back, and the folder that hides it
    for path in needed:
        for one in _passed(path):
            if hiding := _hiding(one):
                back |= dict.fromkeys(_parts(one), hiding)
    back = {path: hiding for path, hiding in back.items() if not any(_beneath(path, other) for other in back)}
    if not back:
        return []
    return [shutil.which("unshare") or "unshare", "-m", "sh", "-c", _script(back), "sh"]


def _passed(path: str) -> Iterator[str]:
    """The links that the kernel follows on its way to ``path``, and what it finds there: of a file, its folder."""
    at, rest = "/", path.split("/")[::-1]
    while rest:
        part = rest.pop()
        here = os.path.normpath(os.path.join(at, part))
        if not os.path.islink(here):
            at = here
            continue
        yield here
        target = os.readlink(here)
        at = "/" if target.startswith("/") else at
        rest += target.split("/")[::-1]
    yield at if os.path.isdir(at) else os.path.dirname(at)


def _hiding(path: str) -> str | None:
    """The first folder on the way to ``path`` that others may not pass, which may be the last one."""
    for folder in [*reversed(Path(path).parents), Path(path)]:
        if not folder.is_symlink() and folder.is_dir() and not folder.stat().st_mode & stat.S_IXOTH:
            return str(folder)
    return None


def _parts(path: str) -> list[str]:
    """What to put back of ``path``: itself, or all that is in it where its own mode is what hides it."""
    if os.path.islink(path) or os.stat(path).st_mode & stat.S_IXOTH:
        return [path]
    return [os.path.join(path, name) for name in os.listdir(path)]


def _beneath(path: str, other: str) -> bool:
    return path != other and path.startswith(other + "/") and not os.path.islink(other)


def _script(back: dict[str, str]) -> str:
    """Shell: everything aside to /run, the covers, everything to its place; then the command in "$@"."""
    q = shlex.quote
    aside, covers, place = [], [], []
    for number, (path, hiding) in enumerate(sorted(back.items())):
        hidden = f"/run/{number}"
        place.append(f"mkdir -p {q(os.path.dirname(path))}")
        if os.path.islink(path):
            place.append(f"ln -s {q(os.readlink(path))} {q(path)}")
            continue
        make = "mkdir" if os.path.isdir(path) else "touch"
        aside += [f"{make} {hidden}", f"mount --rbind {q(path)} {hidden}"]
        place += [f"{make} {q(path)}", f"mount --move {hidden} {q(path)}"]
        cover = f"mount -t tmpfs -o mode=755 tmpfs {q(hiding)}"
        if cover not in covers:
            covers.append(cover)
    steps = ["umask 022", "mount -t tmpfs -o mode=755 tmpfs /run", *aside, *covers, *place, "umount /run"]
    return f'mask=$(umask) && {" && ".join(steps)} && umask "$mask" && exec "$@"'
