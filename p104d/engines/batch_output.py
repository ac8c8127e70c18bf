"""The answers of a batch: a file of JSON lines that only ever grows, one line an answer, each durable before its
request counts as finished.

A runner may be killed at any instruction, and its host may lose power: what such an end leaves (the beginning of a
line, or zeros where a line should be) is cut off when the file is opened again. A file that is not one of ours is
never touched. Of several lines with one custom_id the newest counts.

Nobody else is to write there meanwhile. The lock keeps other runners out; of an editor, a shell's ``>`` or a clean-up
the file is asked before and after each write, by its size and its name: answers that went elsewhere must not count.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from typing import Any, BinaryIO

from p104d.engines.batch_index import Index
from p104d.engines.batch_orders import OrdersError

#: How every line of ours begins; what is torn is told by it from what is foreign.
HEAD = b'{"id": "batch_req_'
#: An answer's body is bounded (``batch_http``); escapes can make three bytes of one.
_MOST_LINE_BYTES = 256 * 1024 * 1024
#: A runner that was killed a moment ago holds its lock until it is gone.
_LOCK_SECONDS = 2.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BAD_LINE = "bad_line"


class BusyError(Exception):
    """Another runner writes this file."""


class LostError(Exception):
    """The answers cannot be kept: the disk is full, or the file was taken away or changed. For a person; exit code
    74."""


class Before:
    """What was found on file."""

    def __init__(self) -> None:
        self.lines = 0
        self.cut_bytes = 0
        #: Lines of the input whose error is on file: telling it again would make the file grow with every run.
        self.told = Index()

    def was_told(self, line: int, why: str) -> bool:
        """Whether this error of this line is on file."""
        return self.told.is_done(f"{line} {why}")

    def tell(self, line: int, why: str) -> None:
        """Note an error that is on file."""
        self.told.add(f"{line} {why}", 1, 0)
        self.told.mark(f"{line} {why}", None, True)


class Answers:
    """The file, locked and open for appending. Not for several threads."""

    def __init__(self, path: str) -> None:
        """Opens or makes it. Raises OrdersError where that cannot be, BusyError where another runner has it."""
        self._path = path
        self._fd = _open(path)
        try:
            self._lock()
        except BaseException:
            os.close(self._fd)
            raise
        self._size = os.fstat(self._fd).st_size

    def same_as(self, other: os.stat_result) -> bool:
        """Whether this is that file."""
        mine = os.fstat(self._fd)
        return (mine.st_dev, mine.st_ino) == (other.st_dev, other.st_ino)

    def resume(self, index: Index) -> Before:
        """Read what is there, mark in ``index`` what need not be asked again, cut off what is torn. Raises OrdersError
        for a file that is not ours, which is left as it was, and LostError where the disk fails."""
        try:
            return self._resume(index)
        except OSError as error:
            raise self._cannot(error, "continued") from None

    def _resume(self, index: Index) -> Before:
        before = Before()
        with open(os.dup(self._fd), "rb", buffering=256 * 1024) as file:
            file.seek(0)
            whole, ended = _read(file, self._path, index, before)
        if whole < self._size:
            before.cut_bytes = self._size - whole
            os.ftruncate(self._fd, whole)
            self._size = whole
        elif not ended:
            self._write(b"\n")
        return before

    def append(self, lines: list[bytes]) -> None:
        """Write each line, then make all of them durable. Raises LostError; then none of them is there, as far as the
        disk lets it be so."""
        self.check()
        durable = self._size
        try:
            for line in lines:
                self._write(line)
            os.fdatasync(self._fd)
        except OSError as error:
            self._cut_back(durable, durable + sum(map(len, lines)))
            raise self._cannot(error) from None
        self.check()

    def check(self) -> None:
        """Raises LostError unless the file has its name still, and in it what was written here and nothing else."""
        try:
            mine, named = os.fstat(self._fd), os.stat(self._path)
        except FileNotFoundError:
            raise self._lost("removed or moved away") from None
        except OSError as error:
            raise self._cannot(error) from None
        if not os.path.samestat(mine, named):
            raise self._lost("replaced by another file")
        if mine.st_size != self._size:
            raise self._lost("changed")

    def _lost(self, how: str) -> LostError:
        return LostError(
            f"{self._path} was {how} while its answers were written; let nobody else write there and run the batch "
            "again, it asks for what is missing"
        )

    def _cannot(self, error: OSError, what: str = "written") -> LostError:
        mend = "make room" if error.errno in _NO_ROOM else "mend its disk"
        return LostError(
            f"{self._path} cannot be {what} ({error.strerror}); {mend} and run the batch again, "
            "it goes on where it stopped"
        )

    def _cut_back(self, durable: int, most: int) -> None:
        """What was never durable must not count as done in a rerun, only because it can be read for now. What somebody
        else has added to it is left alone."""
        # The disk that refused to write may refuse this as well; the first error is the one to tell.
        with contextlib.suppress(OSError):
            if os.fstat(self._fd).st_size <= most:
                os.ftruncate(self._fd, durable)
                self._size = durable

    def close(self) -> None:
        """Let another have it."""
        os.close(self._fd)

    def _write(self, line: bytes) -> None:
        """One write a line. The rest of one that was cut short says by its own error why."""
        left = memoryview(line)
        while left:
            left = left[os.write(self._fd, left) :]
        self._size += len(line)

    def _lock(self) -> None:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BusyError(f"another batch writes {self._path}") from None
                time.sleep(0.05)
            except OSError as error:
                # A file system without locks: the daemon sees to it that a job runs once.
                if error.errno in (errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS):
                    return
                raise


def line_of(
    request_id: str,
    *,
    custom_id: str | None,
    line: int,
    check: int | None = None,
    response: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    timings: Any = None,
    seconds: float = 0.0,
    attempts: int = 0,
) -> bytes:
    """One line of the file. Raises ValueError for numbers that JSON does not have."""
    value = {
        "id": f"batch_req_{request_id}",
        "custom_id": custom_id,
        "line": line,
        "request_crc32": check,
        "response": response,
        "error": error,
        "timings": timings,
        "seconds": round(seconds, 3),
        "attempts": attempts,
    }
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        # Half of a surrogate pair is no text, but JSON can say it.
        return json.dumps(value, allow_nan=False).encode() + b"\n"


def _open(path: str) -> int:
    try:
        made = not os.path.lexists(path)
        if not made:
            _regular(os.stat(path), path)
        # Without O_NONBLOCK a FIFO that takes the place meanwhile would keep us for ever.
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise OrdersError(_why_not(path, error)) from None
    try:
        _regular(os.fstat(fd), path)
        if made:
            _sync_folder(path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OrdersError(f"the output {path} is a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise OrdersError(f"the output {path} is not a file; answers can only be kept in one")


def _why_not(path: str, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"the output's folder {os.path.dirname(path) or '.'} does not exist; make it, or name another output"
    return f"the output {path} cannot be opened ({error.strerror}); name another, or mend its rights"


def _sync_folder(path: str) -> None:
    """A new file's name must last as long as what is in it."""
    # A file system that cannot, a folder that may be written and not be read: nothing more can be done.
    with contextlib.suppress(OSError):
        fd = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _read(file: BinaryIO, path: str, index: Index, before: Before) -> tuple[int, bool]:
    """How many bytes are whole lines of ours, and whether the last of them has its line end."""
    whole = 0
    while raw := file.readline(_MOST_LINE_BYTES):
        before.lines += 1
        if raw.isspace():
            whole += len(raw)
            continue
        value = _answer(raw)
        if value is None and _torn(raw, whole):
            return whole, True
        if value is None:
            raise _foreign(path, before.lines, raw)
        whole += len(raw)
        _mark(value, index, before)
        if not raw.endswith(b"\n"):
            return whole, False
    return whole, True


def _foreign(path: str, line: int, raw: bytes) -> OrdersError:
    """A line that a kill cannot have left; one that begins like ours was made of two by whoever else wrote there."""
    if line > 1 or raw.startswith(HEAD):
        return OrdersError(
            f"the output {path} is there, and its line {line} is not an answer of a batch; take that line out, "
            "or name another output"
        )
    return OrdersError(
        f"the output {path} is there, and its line {line} is not an answer of a batch; "
        "name another output, or move that file away"
    )


def _answer(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw.decode())
    except (ValueError, RecursionError):
        return None
    ours = isinstance(value, dict) and "custom_id" in value and ("response" in value or "error" in value)
    return value if ours else None


def _torn(raw: bytes, whole: int) -> bool:
    """Whether a line that is no answer is what a kill or a loss of power makes of one of ours. Without power, pages of
    the last lines may be zeros: those were never durable, nor was what follows them."""
    if raw.strip(b"\0\n") == b"":
        return whole > 0
    if not raw.endswith(b"\n"):
        begun = raw.rstrip(b"\0")
        return begun.startswith(HEAD) or HEAD.startswith(begun) or (raw.startswith(b"\0") and whole > 0)
    return b"\0" in raw and (raw.startswith(HEAD) or (raw.startswith(b"\0") and whole > 0))


def _mark(value: dict[str, Any], index: Index, before: Before) -> None:
    """An answer without error is done; one with an error is asked again, the newest line counts."""
    custom_id, error, check = value["custom_id"], value.get("error"), value.get("request_crc32")
    if isinstance(error, dict) and error.get("code") == BAD_LINE:
        before.tell(value.get("line") or 0, str(error.get("message")))
    if isinstance(custom_id, str):
        done = error is None and value.get("response") is not None
        index.mark(custom_id, check if isinstance(check, int) else None, done)
