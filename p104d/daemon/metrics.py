"""The page for Prometheus: a picture of the daemon is taken on the event loop, the page is made of it in a thread."""

from __future__ import annotations

import asyncio
import copy
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import p104d
from p104d.daemon.cardviews import messages
from p104d.daemon.metrics_counts import Counts
from p104d.store import instances, reads

if TYPE_CHECKING:
    from p104d.daemon.loop import Loop
    from p104d.daemon.metrics_page import Picture

#: The text format that every Prometheus reads.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: A page this young is given again: cards are read once a second, and nobody can keep a processor busy by asking.
_FRESH_SECONDS = 0.5


class Metrics:
    """What /metrics answers. ``warnings`` are those that ``status`` shows besides the rig's own."""

    def __init__(self, loop: Loop, counts: Counts, *, started_at: float, simulated: bool) -> None:
        self._loop, self.counts = loop, counts
        self._started_at, self._mode = started_at, "simulated" if simulated else "real"
        self._hostname = socket.gethostname()
        self.warnings: Callable[[], Sequence[str]] = lambda: ()
        self._scrapes = 0
        self._page = b""
        self._made_at = float("-inf")
        self._making: asyncio.Task[bytes] | None = None

    def picture(self) -> Picture:
        """All that the page tells, as it is now. Raises UnavailableError where the queue cannot be read."""
        from p104d.daemon.metrics_page import Picture

        begun = time.perf_counter()
        loop = self._loop
        with loop.database.read() as conn:
            cards, jobs = (
                messages(loop.rig, loop.proofs, reads.open_attempts(conn), instances.open_instances(conn)),
                reads.counts(conn),
            )
        heat, problem = loop.settings.heat, loop.rig.problem
        picture = Picture(
            version=p104d.__version__,
            mode=self._mode,
            started_at=self._started_at,
            paused=loop.paused,
            hostname=self._hostname,
            cards=cards,
            jobs=jobs,
            counts=copy.deepcopy(self.counts),
            heat={"no_new_jobs": heat.no_new_jobs, "stop_jobs": heat.stop_jobs},
            warnings=len(loop.rig.warnings()) + len(self.warnings()),
            problem=problem.kind if problem is not None else None,
            scrapes=self._scrapes,
            gather_seconds=time.perf_counter() - begun,
        )
        self._scrapes += 1
        return picture

    def text(self) -> bytes:
        """The page, made at once; blocks for some milliseconds with many cards. ``page`` does not."""
        from p104d.daemon.metrics_page import render

        return render(self.picture())

    async def page(self) -> bytes:
        """The page, at most half a second old. Those who ask while it is made share it. Raises UnavailableError."""
        if time.monotonic() - self._made_at < _FRESH_SECONDS:
            return self._page
        if self._making is None:
            self._making = asyncio.create_task(self._make())
            self._making.add_done_callback(self._made)
        return await asyncio.shield(self._making)

    async def _make(self) -> bytes:
        # The first scrape imports the library; after that this is a look-up.
        render = await asyncio.to_thread(_renderer)
        return await asyncio.to_thread(render, self.picture())

    def _made(self, task: asyncio.Task[bytes]) -> None:
        self._making = None
        if not task.cancelled() and task.exception() is None:
            self._page, self._made_at = task.result(), time.monotonic()


def _renderer() -> Callable[[Picture], bytes]:
    from p104d.daemon.metrics_page import render

    return render
