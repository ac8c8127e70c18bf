"""The library that numbers, kills at, and fails the calls of a process: ``interpose.c`` beside this file, compiled.

A process is started under it with :func:`environment` and, once it runs, told more by :class:`Interposer`::

    env = environment("eio:fsync|fdatasync:3:queue.db")      # the third sync of the queue's files fails
    subprocess.run([sys.executable, ...], env={**os.environ, **env})

    interposer = Interposer()      # in a process started under it
    interposer.arm("count")        # interpose.c lists what it understands
    ...
    interposer.points

A child made by fork starts disarmed and may arm itself; a program that is executed is armed by its environment.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from typing import NamedTuple

_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "interpose.c")
_FLAGS = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-pthread", "-ldl")


class NoInterposerError(Exception):
    """This machine cannot build or load it; the text is the reason to skip."""


@functools.lru_cache(maxsize=1)
def library() -> str:
    """The library's path; built once for each version of the source. Raises NoInterposerError."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoInterposerError("there is no C compiler (cc) to build tests/support/interpose.c with")
    with open(_SOURCE, "rb") as file:
        mark = hashlib.sha256(file.read() + " ".join(_FLAGS).encode()).hexdigest()[:16]
    target = os.path.join(_folder(), f"interpose-{mark}.so")
    if not os.path.exists(target):
        _compile(compiler, target)
    return target


def _folder() -> str:
    """Where compiled things are kept anyway; where that cannot be, or LD_PRELOAD cannot name it, one for this run."""
    kept = os.path.join(os.path.dirname(_SOURCE), "__pycache__")
    with contextlib.suppress(OSError):
        os.makedirs(kept, exist_ok=True)
        if os.access(kept, os.W_OK) and not set(kept) & set(" :"):
            return kept
    folder = tempfile.mkdtemp(prefix="p104-interpose-", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _compile(compiler: str, target: str) -> None:
    """Under a name of its own first: other tests may be compiling it at this moment."""
    descriptor, unfinished = tempfile.mkstemp(dir=os.path.dirname(target), suffix=".so")
    os.close(descriptor)
    done = subprocess.run([compiler, _SOURCE, "-o", unfinished, *_FLAGS], capture_output=True, text=True)
    if done.returncode:
        os.unlink(unfinished)
        missing = "No such file" in done.stderr and ".h:" in done.stderr
        if missing:
            raise NoInterposerError(f"the C compiler has no headers: {done.stderr.splitlines()[0]}")
        raise AssertionError(f"interpose.c does not compile:\n{done.stderr}")
    os.chmod(unfinished, 0o755)  # jobs of other users may be started under it
    os.rename(unfinished, target)


def required() -> str:
    """:func:`library`, skipping the test where there is none."""
    import pytest  # what runs under the interposer imports this module too, and has no use for it

    try:
        return library()
    except NoInterposerError as reason:
        pytest.skip(str(reason))


def environment(rule: str = "off", trace: str | None = None) -> dict[str, str]:
    """What a process needs in its environment to run under it. Raises NoInterposerError."""
    found = {"LD_PRELOAD": library(), "P104_INTERPOSE": rule}
    return {**found, "P104_INTERPOSE_TRACE": trace} if trace else found


class Interposer:
    """This process's, which must have been started under it (NoInterposerError otherwise)."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        if not hasattr(self._library, "p104_interpose"):
            raise NoInterposerError("this process was not started with LD_PRELOAD")
        self._library.p104_interpose_points.restype = ctypes.c_long
        self._library.p104_interpose_failed.restype = ctypes.c_long

    def arm(self, rule: str) -> None:
        """Do ``rule`` from now on, counting from 1. Raises ValueError where it is not understood."""
        if self._library.p104_interpose(rule.encode()):
            raise ValueError(f"not understood: {rule}")

    def trace(self, path: str) -> None:
        """Append a line for each point to ``path``; "" ends it."""
        error = self._library.p104_interpose_trace(path.encode())
        if error:
            raise OSError(error, os.strerror(error), path)

    @property
    def points(self) -> int:
        """Points passed since it was armed."""
        return int(self._library.p104_interpose_points())

    @property
    def failed(self) -> int:
        """Calls made to fail since it was armed."""
        return int(self._library.p104_interpose_failed())


class Point(NamedTuple):
    """A line of a trace; ``call`` is "failed" in the second line of one that was made to fail."""

    number: int
    call: str
    path: str


def read_trace(path: str) -> list[Point]:
    """The points in a trace, in order."""
    with open(path) as file:
        lines = [line.rstrip("\n").split(" ", 2) for line in file]
    return [Point(int(number), call, path) for number, call, path in lines]
