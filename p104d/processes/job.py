"""The steps between an attempt's claim and the exec of its job. Standard library only: shims import this.

What can be done before the fork is done there: a page that the child touches is a page copied, and Python touches a
hundred of them in no time. What remains in the child runs as root in a system daemon until :func:`_become` is done;
nothing after that may matter to anybody but the submitter. What fails there is told through a pipe that exec closes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Iterator
from typing import Any, NoReturn

from p104d.processes import cgroup, native

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as sh(1) has them
_DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class Failure(Exception):
    """The job cannot be started: the exit code it gets and a reason for people."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def encode_failure(failure: Failure) -> bytes:
    """As it goes through the pipe: within PIPE_BUF, so whole or not at all."""
    return f"{failure.code} {failure.reason}".encode("utf-8", "surrogateescape")[:1000]


def decode_failure(data: bytes) -> Failure:
    """What :func:`encode_failure` wrote."""
    code, _, reason = data.decode("utf-8", "replace").partition(" ")
    return Failure(int(code), reason)


class Job:
    """What is to be executed, from ``launch.json``. Raises Failure when that cannot be expressed at all."""

    def __init__(self, launch: dict[str, Any]) -> None:
        self.uid: int | None = launch["uid"]
        self.cwd: str = launch["cwd"]
        self._gid: int = launch["gid"]
        self._user: str = launch["user"]
        self._umask: int = launch["umask"]
        self._protected: bool = launch["protected"]
        self._rlimits: dict[str, list[int]] = launch["rlimits"]
        self._argv = [os.fsencode(text) for text in launch["argv"]]
        self._env = {os.fsencode(name): os.fsencode(value) for name, value in launch["env"].items()}
        if not self._argv or not self._argv[0]:
            raise Failure(_NOT_FOUND, "command not found: (empty)")
        if any(b"\0" in text for text in (*self._argv, *self._env, *self._env.values())):
            raise Failure(_NOT_EXECUTABLE, "the command or its environment holds a NUL byte")
        self._candidates: list[bytes] = []

    @contextlib.contextmanager
    def posture(self, output: int) -> Iterator[None]:
        """Stand as the job will: its output, umask and, as the same user, its folder. Undone for the shim afterwards;
        descriptor 0 is /dev/null for both. Raises Failure."""
        mask = os.umask(self._umask)
        try:
            if self.uid is None:
                _enter(self.cwd)
            self._candidates = self._search()
            os.dup2(output, 1)
            os.dup2(output, 2)
            yield
        finally:
            os.dup2(0, 1)
            os.dup2(0, 2)
            os.umask(mask)
            os.chdir("/")

    def _search(self) -> list[bytes]:
        """Paths to try, in order; without those that surely are not there, unless that leaves nothing."""
        name = self._argv[0]
        if b"/" in name:
            return [name]
        folders = self._env.get(b"PATH", _DEFAULT_PATH).split(b":")
        paths = [os.path.join(folder or b".", name) for folder in folders]
        # Another user's relative entries mean another folder, to be entered in the child.
        possible = [path for path in paths if (self.uid is not None and not path.startswith(b"/")) or not _absent(path)]
        return possible or paths

    def become(self, *, shim: int, report: int, go: int, group: str | None) -> NoReturn:
        """Turn this freshly forked child into the job; never returns.

        A byte on ``go`` says that the claim is durable and the exec may happen; end of file there means that the shim
        died, and that the attempt may be found lost. ``group`` is the cgroup to join, where the fork did not.
        """
        try:
            self._prepare(group)
            native.die_with_parent()  # after any change of uid, which clears it
            if os.getppid() != shim or os.read(go, 1) != b"g":
                os._exit(_NOT_EXECUTABLE)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            self._exec()
        except Failure as failure:
            os.write(report, encode_failure(failure))
        except BaseException as error:  # whatever it is, it must not run on as a second shim
            os.write(report, encode_failure(Failure(_NOT_EXECUTABLE, f"cannot start: {error}")))
        finally:
            os._exit(_NOT_FOUND)

    def _prepare(self, group: str | None) -> None:
        os.setsid()
        if group is not None:
            cgroup.join(group)
        if self._protected:
            _unprotect()
        for name, (soft, hard) in self._rlimits.items():
            _limit(name, soft, hard)
        if self.uid is not None:
            _become(self._user, self.uid, self._gid)
            _enter(self.cwd)

    def _exec(self) -> NoReturn:
        """As execvpe(3): the first that can be executed; one that may not be is passed over for a later one."""
        denied = False
        for path in self._candidates:
            try:
                os.execve(path, self._argv, self._env)
            except PermissionError:  # of the command itself, or of a folder on PATH that is nobody's business here
                denied = denied or b"/" in self._argv[0] or os.path.exists(path)
            except OSError as error:
                if error.errno == errno.ENOEXEC:  # a script without #!, treated as execvp(3) and shells treat it
                    os.execve(b"/bin/sh", [b"sh", path, *self._argv[1:]], self._env)
                if error.errno not in _ABSENT:
                    raise self._refusal(os.strerror(error.errno or 0)) from None
        if denied:
            raise self._refusal("permission denied")
        if any(os.path.isfile(path) for path in self._candidates):
            raise self._refusal("its interpreter does not exist")
        raise Failure(_NOT_FOUND, f"command not found: {os.fsdecode(self._argv[0])}")

    def _refusal(self, why: str) -> Failure:
        return Failure(_NOT_EXECUTABLE, f"command cannot be executed: {os.fsdecode(self._argv[0])}: {why}")


def _absent(path: bytes) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno in _ABSENT
    return False


def _unprotect() -> None:
    """The daemon may be shielded from the OOM killer; a job must not be."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    os.write(descriptor, b"0")
    os.close(descriptor)


def _limit(name: str, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
    except (AttributeError, ValueError, OSError) as error:
        raise Failure(_NOT_EXECUTABLE, f"cannot set the limit {name}: {error}") from error


def _become(user: str, uid: int, gid: int) -> None:
    try:
        os.initgroups(user, gid)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise Failure(_NOT_EXECUTABLE, f"cannot become user {user}: {error.strerror}") from error


def _enter(cwd: str) -> None:
    try:
        os.chdir(cwd)
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        what = {errno.ENOENT: "cwd does not exist", errno.ENOTDIR: "cwd is not a folder"}
        why = what.get(number or 0) or f"cwd cannot be entered ({os.strerror(number) if number else error})"
        raise Failure(_NOT_EXECUTABLE, f"{why}: {cwd}") from error
