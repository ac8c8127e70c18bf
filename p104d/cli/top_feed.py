"""What the live screen asks the daemon, in threads of its own: looking all the time, doing what keys ask for.

Threads that nobody waits for at the end: whoever quits beside a daemon that does not answer is not kept.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from p104d.api.client import Client
from p104d.core.errors import P104Error

#: Of a long queue the screen shows the head, and so many of those that wait for something else than their turn.
WAITING_SHOWN = 100
#: A daemon that keeps a reading screen waiting for longer is said to be away.
_PATIENCE_SECONDS = 10.0
#: Whether a daemon that went away is back is looked at this often, however seldom readings are wanted.
_AGAIN_SECONDS = 1.0
#: Threads end at once unless a daemon hangs; then they end with the process.
_END_SECONDS = 0.5


class Reading(NamedTuple):
    """What one look at the daemon gave, when (monotonic seconds)."""

    at: float
    status: dict[str, Any]
    waiting: list[dict[str, Any]]


def look(asked: Client) -> Reading:
    """One look. Raises P104Error."""
    status = asked.get("/v1/status", timeout=_PATIENCE_SECONDS)
    try:
        _check(status)
        counts = status["queue"]
        waiting = _waiting(asked) if counts.get("queued") or counts.get("held") else []
        return Reading(time.monotonic(), status, waiting)
    except (KeyError, TypeError, AttributeError) as error:
        raise misread(error) from error


def _check(status: dict[str, Any]) -> None:
    """Raise KeyError or TypeError for what the screen could not be built on."""
    for part in ("daemon", "queue", "warnings"):
        status[part]
    for part, key in (("cards", "uuid"), ("running", "id")):
        for one in status[part]:
            one[key]


def misread(error: Exception) -> P104Error:
    """The error for an answer that is not what it should be."""
    message = f"the daemon's answer is not understood ({type(error).__name__}: {error})"
    return P104Error(message, mend="install the same release of p104ctl and p104d")


def _waiting(asked: Client) -> list[dict[str, Any]]:
    """Who starts next, in that order; then who waits for more than a turn, by priority and age."""
    limit = {"limit": WAITING_SHOWN}
    first = asked.get("/v1/jobs", {"order": "next", **limit}, timeout=_PATIENCE_SECONDS)["jobs"]
    newest = asked.get("/v1/jobs", {"state": "queued,held", **limit}, timeout=_PATIENCE_SECONDS)["jobs"]
    known = {job["id"] for job in first}
    # A full page of the next ones says that more of them follow: among the newest they would look like the next.
    more = len(first) >= WAITING_SHOWN
    rest = [job for job in newest if job["id"] not in known and not (more and job["state"] == "queued")]
    return [*first, *sorted(rest, key=lambda job: (-(job.get("priority") or 0), job["id"]))]


class Feed(threading.Thread):
    """Looks every ``interval`` seconds and tells what it saw, or what kept it from seeing."""

    def __init__(self, asked: Client, interval: float, tell: Callable[[Reading | P104Error], object]) -> None:
        super().__init__(name="top-feed", daemon=True)
        self._asked, self._interval, self._tell = asked, interval, tell
        self._wake = threading.Event()
        self._ended = False

    def run(self) -> None:
        while not self._ended:
            pause = self._interval
            self._wake.clear()
            try:
                seen: Reading | P104Error = look(self._asked)
            except P104Error as error:
                seen, pause = error, min(pause, _AGAIN_SECONDS)
            self._tell(seen)
            self._wake.wait(pause)

    def soon(self) -> None:
        """Look again now: something was done."""
        self._wake.set()

    def end(self) -> None:
        """Look no more."""
        self._ended = True
        self._wake.set()
        self.join(_END_SECONDS)


class Errands(threading.Thread):
    """Does one request after the other, in the order asked; hands over what came of each."""

    def __init__(self) -> None:
        super().__init__(name="top-errands", daemon=True)
        self._asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def run(self) -> None:
        while (errand := self._asked.get()) is not None:
            errand()

    def do(self, request: Callable[[], Any], tell: Callable[[Any], object]) -> None:
        """``tell`` gets what ``request`` returns, or the P104Error that it ended with."""

        def errand() -> None:
            try:
                came: Any = request()
            except P104Error as error:
                came = error
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                came = misread(error)
            tell(came)

        self._asked.put(errand)

    def end(self) -> None:
        """Do no more than what was asked so far."""
        self._asked.put(None)
        self.join(_END_SECONDS)
