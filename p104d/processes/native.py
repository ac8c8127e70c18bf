"""The few Linux calls that Python does not wrap, through ctypes. Standard library only: shims import this."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_SFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK  # SFD_CLOEXEC and SFD_NONBLOCK are defined as these
_SIGNALFD_RECORD = 128  # sizeof(struct signalfd_siginfo); its first word is the signal's number
_IN_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE_SELF = 0x400

_SYS_CLONE3 = 435  # the same number on every architecture
_CLONE_INTO_CGROUP = 0x200000000

_libc = ctypes.CDLL(None, use_errno=True)
#: Keeps the interpreter lock over the call: a fork in the middle of giving it up would leave the child without one.
_locked_libc = ctypes.PyDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, so that none of them can leave the tree (prctl(2))."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent() -> None:
    """Ask for SIGKILL when the parent ends. A change of uid clears it, so this comes after; then check the parent."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def signal_descriptor(signals: Iterable[int]) -> int:
    """A non-blocking descriptor that becomes readable for ``signals``, which the caller has blocked (signalfd(2))."""
    words = (ctypes.c_ulong * (128 // ctypes.sizeof(ctypes.c_ulong)))()  # sigset_t of glibc and musl: 1024 bits
    width = 8 * ctypes.sizeof(ctypes.c_ulong)
    for number in signals:
        words[(number - 1) // width] |= 1 << ((number - 1) % width)
    return _checked(_libc.signalfd(-1, ctypes.byref(words), _SFD_FLAGS), "signalfd")


def fork_into(group: str | None) -> tuple[int, bool]:
    """Fork, the child beginning in the cgroup ``group``: (its pid or 0, whether it is there).

    Moving a running process waits for an RCU grace period, 10 to 25 ms on an idle machine; being born there does not
    (clone3(2), Linux 5.7). Where that is not to be had it is a plain fork, and the child must move itself. Only for a
    process without threads, whose child goes on to exec: Python's own after-fork hooks are left out. Raises OSError.
    """
    if group is not None:
        folder = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            pid = _clone(_CLONE_INTO_CGROUP, folder)
        finally:
            os.close(folder)
        if pid >= 0:
            return pid, True
    pid = _clone(0, 0)
    return (pid if pid >= 0 else os.fork()), False


def _clone(flags: int, folder: int) -> int:
    """clone3 as fork(2) would call it, perhaps into a cgroup; negative where the kernel or a filter refuses."""
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    # set_tid_size, cgroup
    arguments = (ctypes.c_uint64 * 11)(flags, 0, 0, 0, int(signal.SIGCHLD), 0, 0, 0, 0, 0, folder)
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    return int(_locked_libc.syscall(ctypes.c_long(_SYS_CLONE3), ctypes.byref(arguments), size))


#: keyctl(2) by machine; elsewhere jobs keep the session keyring of whoever started the daemon.
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1


def leave_session_keyring() -> None:
    """Take a new, empty session keyring. Who possesses one may read and change the keys in it, whatever their uid, and
    children inherit it. Nothing happens where the kernel has none."""
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number is not None:
        _libc.syscall(ctypes.c_long(number), ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), None)


#: rt_sigaction(2) by machine; elsewhere the two signals stay as they were found.
_SYS_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}


def default_reserved_signals() -> None:
    """Signals 32 and 33 belong to the C library, whose sigaction refuses them; but whoever started the daemon may
    ignore them, and a job would inherit that."""
    number = _SYS_RT_SIGACTION.get(os.uname().machine)
    if number is None:
        return
    # struct kernel_sigaction: handler (SIG_DFL is 0), flags, restorer, mask
    action, size = (ctypes.c_uint64 * 4)(), ctypes.c_size_t(8)
    for reserved in (32, 33):
        _libc.syscall(ctypes.c_long(number), ctypes.c_long(reserved), ctypes.byref(action), None, size)


def read_signals(descriptor: int) -> set[int]:
    """The numbers of the signals that arrived on a :func:`signal_descriptor`; empty when none did."""
    try:
        data = os.read(descriptor, _SIGNALFD_RECORD * 16)
    except BlockingIOError:
        return set()
    return {struct.unpack_from("=I", data, at)[0] for at in range(0, len(data), _SIGNALFD_RECORD)}


def watch_folder(path: str) -> int:
    """An inotify descriptor, non-blocking, that becomes readable when something in ``path`` is written or renamed."""
    descriptor = _checked(_libc.inotify_init1(_IN_FLAGS), "inotify_init1")
    mask = IN_MODIFY | IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF
    try:
        _checked(_libc.inotify_add_watch(descriptor, os.fsencode(path), mask), "inotify_add_watch")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
