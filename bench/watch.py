"""See the moment a file is made, by inotify.

A job's start is seen by the file it touches. The file's own timestamp will not do: the kernel stamps files from its
coarse clock, which stands still for up to 4 ms.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time

_IN_CREATE = 0x100
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class FolderWatch:
    """Watches one folder from a thread that sleeps in read(2). Close it, or use it in a ``with``."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._changed = threading.Condition()
        self._seen: dict[str, float] = {}
        self._inotify = _libc.inotify_init1(os.O_CLOEXEC)
        if self._inotify < 0 or _libc.inotify_add_watch(self._inotify, folder.encode(), _IN_CREATE) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> FolderWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        with open(os.path.join(self.folder, ".stop"), "w"):
            pass
        self._thread.join()
        os.close(self._inotify)

    def wait_for(self, name: str, timeout: float = 30.0) -> float:
        """When ``name`` was made, on the clock of ``time.perf_counter``. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._seen, timeout):
                raise TimeoutError(f"{name} was not made within {timeout:.0f} s: the job did not start")
            return self._seen.pop(name)

    def _read(self) -> None:
        while True:
            events = os.read(self._inotify, 65536)
            now = time.perf_counter()
            names = list(_names(events))
            with self._changed:
                self._seen.update(dict.fromkeys(names, now))
                self._changed.notify_all()
            if ".stop" in names:
                return


def _names(events: bytes) -> list[str]:
    names, offset = [], 0
    while offset < len(events):
        *_, length = _EVENT.unpack_from(events, offset)
        offset += _EVENT.size
        names.append(os.fsdecode(events[offset : offset + length].rstrip(b"\0")))
        offset += length
    return names
