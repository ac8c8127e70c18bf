"""Who a process is: pids are reused, a pid with its start time and boot id is not. Standard library only."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Container, Iterator

_PF_KTHREAD = 0x00200000  # linux/sched.h

#: Kernels without CONFIG_PROC_CHILDREN lack these files; there every process is asked for its parent.
_CHILDREN_FILES = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


@functools.cache
def boot_id() -> str:
    """The kernel's id of this boot: what ran under another one is gone."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _read_stat(pid: int) -> list[bytes]:
    """Fields of /proc/PID/stat from the state on (proc(5) field 3). Raises OSError."""
    descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    try:
        data = os.read(descriptor, 1024)
    finally:
        os.close(descriptor)
    # The name may hold spaces and parentheses; it ends at the last one.
    return data[data.rfind(b")") + 2 :].split()


def _stat_fields(pid: int) -> list[bytes] | None:
    """The same; None when there is no such process."""
    try:
        return _read_stat(pid)
    except OSError:
        return None


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which ``pid`` started (proc(5) field 22); None when there is no such process."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def parent(pid: int) -> int | None:
    """The parent's pid; None when there is no such process."""
    fields = _stat_fields(pid)
    return int(fields[1]) if fields else None


def ancestor_among(pid: int, wanted: Container[int]) -> int | None:
    """``pid`` itself or the nearest of its parents that is in ``wanted``; None where none is."""
    ancestor: int | None = pid
    for _ in range(1000):  # a backstop: chains of parents end at 0
        if ancestor is None or ancestor <= 1 or ancestor in wanted:
            break
        ancestor = parent(ancestor)
    return ancestor if ancestor is not None and ancestor in wanted else None


def alive(pid: int, start: int) -> bool:
    """Whether the process that started at ``start`` still runs. A zombie does not."""
    return _lives(_stat_fields(pid), start)


def _lives(fields: list[bytes] | None, start: int) -> bool:
    return bool(fields) and fields is not None and int(fields[19]) == start and fields[0] not in (b"Z", b"X")


def open_pidfd(pid: int, start: int) -> int | None:
    """A pidfd of exactly that process, or None when it is gone. The check comes after the opening: no race.

    Raises OSError where nobody can say: without a descriptor to be had, who lives would be taken for dead.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except (ProcessLookupError, ValueError, OverflowError):
        return None
    try:
        if _lives(_read_stat(pid), start):
            return descriptor
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def send_signal(pidfd: int, number: signal.Signals) -> bool:
    """Signal the process behind ``pidfd``; False when it is gone."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def all_pids() -> Iterator[int]:
    """Every process in sight."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def children(pid: int) -> list[int]:
    """Direct children of ``pid``, of all its threads, zombies included; empty when it is gone."""
    if not _CHILDREN_FILES:
        return [other for other in all_pids() if parent(other) == pid]
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(text) for text in file.read().split()]
    return found


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, parents first."""
    found: list[int] = []
    queue, seen = [pid], {pid}
    while queue:
        for child in children(queue.pop()):
            if child not in seen:
                seen.add(child)
                found.append(child)
                queue.append(child)
    return found


def environment(pid: int) -> dict[bytes, bytes] | None:
    """The environment ``pid`` was started with; None where it is gone or not ours to read.

    Empty for a moment while a process executes: nothing can be told from that.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            data = file.read()
    except OSError:
        return None
    return dict(entry.split(b"=", 1) for entry in data.split(b"\0") if b"=" in entry)


def is_user_process(pid: int) -> bool:
    """Whether ``pid`` lives and is neither a zombie nor a thread of the kernel."""
    fields = _stat_fields(pid)
    return bool(fields) and fields is not None and fields[0] not in (b"Z", b"X") and not int(fields[6]) & _PF_KTHREAD
