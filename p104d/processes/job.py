"""The steps of a forked child on its way to its job's exec. Standard library only: shims import this.

It runs as root in a system daemon until :func:`_become` is done; nothing after that may matter to anybody but the
submitter. What fails is told through a pipe that exec closes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import socket
import struct
from typing import Any, NoReturn

from p104d.processes import cgroup, native

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as sh(1) has them
_DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"
#: The last of a waiting child's orders.
GO = b"g"
_ONE_DESCRIPTOR = socket.CMSG_LEN(struct.calcsize("=i"))
#: More than a shim ever has; where the kernel can, it closes a range at once.
_DESCRIPTORS = 1024
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


def wait(*, shim: int, orders: socket.socket, report: int, output: int, group: str | None, adjusted: bool) -> NoReturn:
    """What a child forked ahead of its job does; never returns. It comes from the process ``shim``, and dies with it.

    ``orders`` brings the length of a ``launch.json`` (a native 32-bit number), its content and, once the attempt is
    claimed, :data:`GO` with the attempt's lock, held until the exec; end of file there is the shim's death. What is
    wrong goes to ``report``. ``group`` is the cgroup to join, where the fork did not; ``adjusted``: the OOM killer
    spares or prefers this process, and not the job.
    """
    try:
        os.setsid()
        native.die_with_parent()
        _keep(orders.fileno(), report, output)
        if group is not None:
            cgroup.join(group)
        if adjusted:
            _leave_adjustment()
        if os.getppid() == shim:
            (size,) = struct.unpack("=I", _read(orders, 4))
            Job(json.loads(_read(orders, size))).become(shim, orders)
    except Failure as failure:
        os.write(report, encode_failure(failure))
    except EOFError:
        pass  # nobody is there to be told
    except BaseException as error:  # whatever it is, it must not run on as a second shim
        os.write(report, encode_failure(Failure(_NOT_EXECUTABLE, f"cannot start: {error}")))
    finally:
        os._exit(_NOT_FOUND)


def _keep(orders: int, report: int, output: int) -> None:
    """Close everything else: the shim's line and its pipes' other ends must end with the shim."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    below = 2
    for descriptor in sorted((orders, report)):
        os.closerange(below + 1, descriptor)
        below = descriptor
    os.closerange(below + 1, _DESCRIPTORS)


def _read(orders: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = orders.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


class Job:
    """What is to be executed, from ``launch.json``. Raises Failure when that cannot be expressed at all."""

    def __init__(self, launch: dict[str, Any]) -> None:
        self._uid: int | None = launch["uid"]
        self._cwd: str = launch["cwd"]
        self._gid: int = launch["gid"]
        self._user: str = launch["user"]
        self._umask: int = launch["umask"]
        self._rlimits: dict[str, list[int]] = launch["rlimits"]
        self._argv = [os.fsencode(text) for text in launch["argv"]]
        self._env = {os.fsencode(name): os.fsencode(value) for name, value in launch["env"].items()}
        if not self._argv or not self._argv[0]:
            raise Failure(_NOT_FOUND, "command not found: (empty)")
        if any(b"\0" in text for text in (*self._argv, *self._env, *self._env.values())):
            raise Failure(_NOT_EXECUTABLE, "the command or its environment holds a NUL byte")

    def become(self, shim: int, orders: socket.socket) -> NoReturn:
        """Turn this process into the job once :data:`GO` came. Raises Failure, or EOFError when ``shim`` is dead."""
        self._prepare()
        candidates = self._search()
        native.die_with_parent()  # again: the change of uid cleared it
        # Not recv_fds(), whose flags Python 3.11 ignores: the job would keep the lock.
        if os.getppid() != shim or orders.recvmsg(len(GO), _ONE_DESCRIPTOR, socket.MSG_CMSG_CLOEXEC)[0] != GO:
            raise EOFError
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._exec(candidates)

    def _search(self) -> list[bytes]:
        """Paths to try, in order; without those that surely are not there, unless that leaves nothing."""
        name = self._argv[0]
        if b"/" in name:
            return [name]
        folders = self._env.get(b"PATH", _DEFAULT_PATH).split(b":")
        paths = [os.path.join(folder or b".", name) for folder in folders]
        return [path for path in paths if not _absent(path)] or paths

    def _prepare(self) -> None:
        os.umask(self._umask)
        for name, (soft, hard) in self._rlimits.items():
            _limit(name, soft, hard)
        if self._uid is not None:
            native.leave_session_keyring()  # root's own, or one that the jobs of all users would share
            _become(self._user, self._uid, self._gid)
        _enter(self._cwd)

    def _exec(self, candidates: list[bytes]) -> NoReturn:
        """As execvpe(3): the first that can be executed; one that may not be is passed over for a later one."""
        denied = False
        for path in candidates:
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
        if any(os.path.isfile(path) for path in candidates):
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


def _leave_adjustment() -> None:
    """The daemon may be shielded from the OOM killer, or offered to it; a job must be neither. Where a user may not go
    back to 0 the job stays what the user made the daemon."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    with contextlib.suppress(PermissionError):
        os.write(descriptor, b"0")
    os.close(descriptor)


def _limit(name: str, soft: int, hard: int) -> None:
    """Where this process may not raise its own (a container's root, say), as near as it may."""
    try:
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, OSError):
            most = resource.getrlimit(number)[1]
            resource.setrlimit(number, (_lower(soft, most), _lower(hard, most)))
    except (AttributeError, ValueError, OSError) as error:
        raise Failure(_NOT_EXECUTABLE, f"cannot set the limit {name}: {error}") from error


def _lower(one: int, other: int) -> int:
    finite = [each for each in (one, other) if each != resource.RLIM_INFINITY]
    return min(finite, default=resource.RLIM_INFINITY)


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
