"""The end of a write-ahead log that was not committed: cut off, so that nobody ever takes it for committed.

Where the sync of a commit fails, SQLite has the whole transaction in the log, its commit frame too, and only the index
in shared memory tells that it does not count. When closing cannot empty the log either (the disk still fails), the next
to open the file builds the index anew from the log, and what was refused has happened after all: a job that is said to
start, and that nobody starts.

Formats: https://www.sqlite.org/walformat.html. SQLite's own descriptors are used, because closing another one of the
same file would release its locks.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

#: The index's header, which is there twice: byte 12 tells whether it is filled in, then the size of a page and the
#: number of committed frames, in the host's byte order.
_INDEX_HEADER_BYTES = 48
_INDEX_FIELDS = struct.Struct("=12xBxHI")
_LOG_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_LARGEST_PAGE = 65536


def cut(database: Path) -> None:
    """Cut off what was written to the log of ``database`` and not committed.

    For a process that has it open, alone, with no transaction under way. Raises OSError where the disk refuses.
    """
    index, log = _descriptor(database, "-shm"), _descriptor(database, "-wal")
    if index is None or log is None:
        return
    committed = _committed_bytes(os.pread(index, 2 * _INDEX_HEADER_BYTES, 0))
    if committed is not None and os.fstat(log).st_size > committed:
        os.ftruncate(log, committed)


def _committed_bytes(headers: bytes) -> int | None:
    """How long the log is up to its last commit; None where the index does not say."""
    first, second = headers[:_INDEX_HEADER_BYTES], headers[_INDEX_HEADER_BYTES:]
    if len(second) < _INDEX_HEADER_BYTES or first != second:
        return None
    filled, page, frames = _INDEX_FIELDS.unpack_from(first)
    if not filled:
        return None
    if not frames:
        return 0
    return _LOG_HEADER_BYTES + int(frames) * (_FRAME_HEADER_BYTES + (_LARGEST_PAGE if page == 1 else int(page)))


def _descriptor(database: Path, suffix: str) -> int | None:
    """This process's descriptor of a companion of ``database``."""
    wanted = os.path.realpath(database) + suffix
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == wanted:
                return int(name)
        except OSError:
            continue
    return None
