"""The batch runner: feeds the requests of one job to a model server that is up, and keeps the answers.

    python -m p104d.engines.batch '{"version": 1, "socket": "/run/.../s.sock", "input": "prompts.jsonl",
                                    "output": "answers.jsonl", "parallel": 4, "model": "qwen2-7b"}'

It may be killed at any instruction and started again: requests that have an answer on file are not asked again; those
with an error are. It is the standard library alone, because one lives as long as each job does.

Exit codes: 0 every request has an answer (or there are none); 1 some ended in errors; 2 the batch cannot be carried
out as ordered; 73 another runner has the output; 74 the answers cannot be written; 75 the server cannot be used: run it
again; 143 SIGTERM, 130 SIGINT: what had arrived is on file.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import BinaryIO

from p104d.engines.batch_index import Index
from p104d.engines.batch_input import Junk, Request, requests
from p104d.engines.batch_ledger import Ledger
from p104d.engines.batch_orders import Orders, OrdersError, parse
from p104d.engines.batch_output import Answers, BusyError, LostError
from p104d.engines.batch_report import Report, say
from p104d.engines.batch_run import Batch, GiveUpError

#: 75 is the server's fault and costs it its place, so nothing else ends so.
DONE, SOME_FAILED, BAD_ORDERS, OUTPUT_BUSY, CANNOT_WRITE, TRY_AGAIN = 0, 1, 2, 73, 74, 75
_BUFFER_BYTES = 256 * 1024


class _Stop:
    """Remembers SIGTERM and SIGINT; ``fd`` becomes readable when one came. Before the batch is ``sending`` there is
    nothing to finish, and reading long files shall keep nobody: the process ends at once."""

    def __init__(self) -> None:
        self.signal = 0
        self.sending = False
        self.fd, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        if not self.sending:
            os._exit(128 + number)

    def __call__(self) -> bool:
        return self.signal != 0


def main(arguments: list[str]) -> int:
    """Carry out one batch. Returns the exit code."""
    stop = _Stop()
    try:
        if len(arguments) != 1:
            raise OrdersError("usage: python -m p104d.engines.batch ORDERS (one JSON object)")
        return _run(parse(arguments[0]), stop)
    except OrdersError as error:
        say(f"error: {error}", 2)
        return BAD_ORDERS
    except LostError as error:
        say(f"error: {error}", 2)
        return CANNOT_WRITE
    except (GiveUpError, BusyError) as error:
        say(f"error: {error}; what was answered is kept, and the batch goes on when it is run again", 2)
        return OUTPUT_BUSY if isinstance(error, BusyError) else TRY_AGAIN


def _run(orders: Orders, stop: _Stop) -> int:
    with _open(orders.input) as file:
        answers = Answers(orders.output)
        if answers.same_as(os.fstat(file.fileno())):
            raise OrdersError(f"the output {orders.output} is the input; name another")
        stamp = _stamp(file)
        index, total = _survey(file, orders)
        before = answers.resume(index)
        if before.cut_bytes:
            say(f"{before.cut_bytes} bytes of a torn line were cut off {orders.output}")
        if not total:
            say(f"{orders.input} has no requests; nothing to do")
            return DONE
        report = Report(total, index.done, orders.report_seconds, time.monotonic())
        say(f"{total} requests, {index.done} of them answered before; {orders.parallel} at a time")
        ledger = Ledger(answers, before, report)
        stop.sending = True
        try:
            Batch(orders, _left(file, orders, index, total, stamp, stop), ledger, wakeup=stop.fd, stopped=stop).run()
        finally:
            say(report.line(time.monotonic()))
        answers.check()  # what was cut off since the last one was written is missing, and was counted
        return 128 + stop.signal if stop() else _verdict(report, orders)


def _verdict(report: Report, orders: Orders) -> int:
    if not report.failed:
        return DONE
    where = f"their errors are in {orders.output}, a rerun asks them again"
    say(f"{report.failed} of {report.total} requests failed; {where}")
    return SOME_FAILED


def _open(path: str) -> BinaryIO:
    try:
        # Without O_NONBLOCK a FIFO would keep us until somebody writes to it.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise OrdersError(f"the input {path} does not exist; check its name and the job's cwd") from None
        raise OrdersError(f"the input {path} cannot be read ({error.strerror}); mend its rights") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OrdersError(f"the input {path} is not a file; it is read twice, write the requests to one")
    return open(fd, "rb", buffering=_BUFFER_BYTES)


def _survey(file: BinaryIO, orders: Orders) -> tuple[Index, int]:
    """All ids, before anything is sent: two requests of one id could not be told apart in the output."""
    index, total = Index(), 0
    for entry in _entries(file, orders):
        total += 1
        if entry.custom_id is None:
            continue
        first = index.add(entry.custom_id, entry.line, entry.check if isinstance(entry, Request) else 0)
        if first:
            raise OrdersError(
                f"{orders.input}: lines {first} and {entry.line} have the same custom_id {entry.custom_id!r}; "
                "give each request its own (without one, it is the line's number)"
            )
    return index, total


def _left(
    file: BinaryIO, orders: Orders, index: Index, total: int, stamp: tuple[int, int], stop: Callable[[], bool]
) -> Iterator[Request | Junk]:
    """What is to be done, in the order of the input. Raises OrdersError where it is not what was surveyed: what is
    missing from it now would otherwise count as done."""
    count = 0
    for count, entry in enumerate(_entries(file, orders), 1):  # noqa: B007 - used after the loop
        if stop():
            return
        # Without an id: junk from the beginning, or a line that is being written over.
        known = index.line_of(entry.custom_id) == entry.line if entry.custom_id is not None else _stamp(file) == stamp
        if not known:
            raise _changed(orders)
        if isinstance(entry, Junk) or entry.custom_id is None or not index.is_done(entry.custom_id):
            yield entry
    if count != total:
        raise _changed(orders)


def _stamp(file: BinaryIO) -> tuple[int, int]:
    """What changes when somebody writes to the file."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _changed(orders: Orders) -> OrdersError:
    return OrdersError(f"the input {orders.input} was changed while it was read; run the batch again")


def _entries(file: BinaryIO, orders: Orders) -> Iterator[Request | Junk]:
    try:
        file.seek(0)
        yield from requests(file, orders.model)
    except OSError as error:
        raise OrdersError(f"the input {orders.input} cannot be read ({error.strerror})") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
