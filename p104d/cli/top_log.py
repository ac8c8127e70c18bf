"""A job's log for the live screen: followed in a thread, cut into lines that a terminal can show."""

from __future__ import annotations

import codecs
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from p104d.api.client import Answer, Client
from p104d.cli.text import clean, width
from p104d.cli.top_feed import misread
from p104d.cli.waiting import ENDED, describe_end
from p104d.core.errors import P104Error

#: Lines kept to scroll back in, and how many of them are asked for at first.
KEPT_LINES = 5_000
_FIRST_LINES = 1_000
#: A "line" without an end, of a job that prints binary data, is broken here.
_LONGEST = 16 * 1024
_AGAIN_SECONDS = 1.0
_END_SECONDS = 0.5
#: Colours, cursor movements, titles: they would be shown as rubbish, and say nothing here.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_=>])")


class Lines:
    """Output cut into lines. Of a line that is written over (a progress bar) the last state counts."""

    def __init__(self) -> None:
        self._whole: deque[str] = deque(maxlen=KEPT_LINES)
        self._part = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

    def add(self, piece: bytes) -> None:
        """More output."""
        *whole, self._part = (self._part + self._decode(piece)).split("\n")
        # Of a flood, only what is kept is worth looking at.
        self._whole.extend(map(shown, whole[-KEPT_LINES:]))
        if len(self._part) > _LONGEST:
            self._whole.append(shown(self._part[:_LONGEST]))
            self._part = self._part[-_LONGEST:]

    def __len__(self) -> int:
        return len(self._whole) + bool(self._part)

    def upwards(self, below: int) -> Iterator[str]:
        """The lines from the last one before ``below`` up to the first."""
        if self._part and below > len(self._whole):
            yield shown(self._part)
        yield from islice(reversed(self._whole), max(0, len(self._whole) - below), None)


def shown(line: str) -> str:
    """A line as it can be shown: written over where it was, without colours, control characters escaped."""
    last = line.rstrip("\r").rpartition("\r")[2]
    return clean(_ESCAPES.sub("", last).expandtabs())


def broken(line: str, room: int) -> list[str]:
    """``line`` in pieces of at most ``room`` columns."""
    if line.isascii():
        return [line[at : at + room] for at in range(0, len(line), room)] or [""]
    pieces, taken = [""], 0
    for char in line:
        size = width(char)
        if taken + size > room:
            pieces.append("")
            taken = 0
        pieces[-1] += char
        taken += size
    return pieces


class Follower(threading.Thread):
    """Follows the log of a job on a connection of its own, through restarts of the daemon, until ended.

    ``lines`` and ``said`` (how it stands) are to be read holding ``lock``; ``tell`` is called when there is more, once
    until :meth:`seen` is.
    """

    def __init__(self, asked: Client, job: int, tell: Callable[[], object]) -> None:
        super().__init__(name=f"top-log-{job}", daemon=True)
        self._asked, self._job, self._tell = asked, job, tell
        self._ending = threading.Event()
        self._told = False
        self._answer: Answer | None = None
        self.lock = threading.Lock()
        self.lines = Lines()
        self.said = "waiting for output"

    def seen(self) -> None:
        """What was told of has been read."""
        self._told = False

    def end(self) -> None:
        """Hang up."""
        with self.lock:
            self._ending.set()
            if self._answer is not None:
                self._answer.hang_up()
        self.join(_END_SECONDS)

    def run(self) -> None:
        while not self._ending.is_set():
            try:
                self._read()
                [job] = self._asked.post("/v1/jobs/wait", {"ids": [self._job], "timeout_seconds": 0})["jobs"]
                if job["state"] in ENDED:
                    self._say(describe_end(job))
                    return
            except P104Error as error:
                if not error.retry:
                    self._say(error.line())
                    return
                self._say("the daemon went away; waiting for it to come back")
            except (KeyError, ValueError, TypeError) as error:
                self._say(misread(error).line())
                return
            self._ending.wait(_AGAIN_SECONDS)

    def _read(self) -> None:
        with self._asked.stream(f"/v1/jobs/{self._job}/log", {"follow": 1, "tail": _FIRST_LINES}) as answer:
            with self.lock:
                if self._ending.is_set():
                    return
                self._answer = answer
                # After an outage, or of another attempt, the log is read anew.
                self.lines = Lines()
            try:
                self._say("following")
                for piece in answer.pieces():
                    with self.lock:
                        self.lines.add(piece)
                    self._ring()
            finally:
                with self.lock:
                    self._answer = None

    def _say(self, text: str) -> None:
        with self.lock:
            self.said = text
        self._ring()

    def _ring(self) -> None:
        if not self._told and not self._ending.is_set():
            self._told = True
            self._tell()
