"""Watching servers until they answer: one task each, none for those that have answered. What a server's log says of its
end, or of the card that it does not use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from p104d.core.clock import Clock
from p104d.daemon.events import ServerReady, ServerSick
from p104d.daemon.server_launch import KIND
from p104d.engines.server_health import alive, first_token, wait_ready
from p104d.engines.server_log import ServerSaid, said
from p104d.policy.retry import signal_text
from p104d.processes import logs
from p104d.processes.attempt import Key, Look
from p104d.processes.supervisor import Supervisor

log = logging.getLogger(__name__)
_HEAD_BYTES, _TAIL_BYTES = 64 * 1024, 32 * 1024
#: One token of a server that has answered before; its slots may be full of a job's requests.
_AGAIN_SECONDS = 120.0
#: llama-server answers ``/health`` from a thread that computes nothing. It may be swapped out, or the host overloaded.
_BEAT_SECONDS, _MISSED_BEATS = 5.0, 3
#: From an exchange that broke off to the news that it has ended, which a busy host may be late with.
_END_SECONDS = 10.0
#: More of a server's own words makes no reason any clearer.
_MOST_WORDS = 300
#: What a server without a card says, and the mend.
CPU_ONLY = "llama-server has found no card to compute on; use one that is built with CUDA (models.llama_server)"
#: Jobs of one file must not run on another.
CHANGED = "its file was replaced, or written to, while it was loaded"


class ServerWatch:
    """``post`` takes in what was found."""

    def __init__(
        self,
        supervisor: Supervisor,
        timeout_seconds: float,
        post: Callable[[ServerReady | ServerSick], None],
        clock: Clock,
    ) -> None:
        self._supervisor, self._timeout, self._post, self._clock = supervisor, timeout_seconds, post, clock
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._beats: dict[int, asyncio.Task[None]] = {}
        self._due: dict[int, float] = {}

    async def close(self) -> None:
        """Give up all watching."""
        tasks = [*self._tasks.values(), *self._beats.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def beat(self, number: int, socket: str) -> None:
        """Ask a copy that serves, now and then, whether it still answers at all; called as often as you like."""
        now = self._clock.monotonic()
        if number in self._beats or number in self._tasks or now < self._due.setdefault(number, now + _BEAT_SECONDS):
            return
        self._due[number] = now + _BEAT_SECONDS
        task = self._beats[number] = asyncio.get_running_loop().create_task(self._beat(number, socket))
        task.add_done_callback(lambda _: self._beats.pop(number, None))

    async def _beat(self, number: int, socket: str) -> None:
        for _ in range(_MISSED_BEATS):
            if await alive(socket, patience=_BEAT_SECONDS):
                return
        self._post(ServerSick(number, f"it has not answered anything for {_MISSED_BEATS * _BEAT_SECONDS:.0f} s"))

    def begin(
        self,
        number: int,
        socket: str,
        *,
        embeddings: bool,
        since: float,
        was_ready: bool,
        changed: Callable[[], Awaitable[bool]],
    ) -> None:
        """Watch copy ``number``, being loaded since ``since`` (Unix seconds). ``changed`` tells whether what was loaded
        is another file than was meant."""
        if number in self._tasks:
            return
        began = self._clock.monotonic() - max(0.0, self._clock.now() - since)
        if was_ready:
            run = self._again(number, socket, embeddings)
        else:
            run = self._first(number, socket, embeddings, began, changed)
        task = self._tasks[number] = asyncio.get_running_loop().create_task(run)
        task.add_done_callback(lambda done: self._done(number, done))

    def _done(self, number: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(number) is task:
            del self._tasks[number]
        if not task.cancelled() and task.exception() is not None:
            log.error("watching copy %d failed", number, exc_info=task.exception(), extra={"action": "watch_failed"})
            self._post(ServerSick(number, "it could not be watched"))

    async def _first(
        self, number: int, socket: str, embeddings: bool, began: float, changed: Callable[[], Awaitable[bool]]
    ) -> None:
        left = max(1.0, self._timeout - (self._clock.monotonic() - began))
        health = await wait_ready(socket, embeddings=embeddings, deadline_seconds=left)
        if health.failure is not None:
            if health.broken:
                # Most likely it has ended. That news is better: it knows whether the server or its shim died. It
                # ends this task.
                await asyncio.sleep(_END_SECONDS)
            self._post(ServerSick(number, self._with_words(number, health.failure)))
            return
        seconds = self._clock.monotonic() - began
        if await changed():
            self._post(ServerSick(number, CHANGED))
            return
        words = await asyncio.to_thread(self._words, number)
        self._post(ServerReady(number, seconds, words.cpu_only))

    async def _again(self, number: int, socket: str, embeddings: bool) -> None:
        health = await first_token(socket, embeddings=embeddings, patience=_AGAIN_SECONDS)
        if health.failure is not None:
            self._post(ServerSick(number, self._with_words(number, health.failure)))

    def forget(self, number: int) -> None:
        """The copy is gone."""
        self._due.pop(number, None)
        for tasks in (self._tasks, self._beats):
            task = tasks.pop(number, None)
            if task is not None:
                task.cancel()

    # --- its log ---------------------------------------------------------------------------------------------------

    def _words(self, number: int) -> ServerSaid:
        folder = self._supervisor.folder(Key(KIND, number, 1))
        try:
            return said(logs.read(folder, limit=_HEAD_BYTES) + b"\n" + logs.read(folder, tail=_TAIL_BYTES))
        except OSError:
            return said(b"")

    def _with_words(self, number: int, failure: str) -> str:
        error = self._words(number).error
        return f"{failure} ({error})"[:_MOST_WORDS] if error else failure

    def last_words(self, number: int, look: Look | None) -> str:
        """Why a server has ended, in a line: what it said last, and how it ended."""
        record = look.exit if look is not None else None
        if record is None:
            return "it died, and nobody knows how"
        if record.reason is not None and record.reason != "stopped" and record.exit_code != 0:
            return record.reason
        how = f"exit code {record.exit_code}" if record.signal is None else f"signal {signal_text(record.signal)}"
        error = self._words(number).error
        return f"{error[:_MOST_WORDS]} (llama-server: {how})" if error else f"llama-server ended with {how}"
