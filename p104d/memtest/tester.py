"""The daemon's end of one memory test: starts its process, hears it, watches it, and never waits for it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec

from p104d.core.units import format_duration
from p104d.hardware.child_process import ChildProcess
from p104d.memtest.messages import Failure, Packet, Progress, TestConfig, TestResult

#: Until the first word: the interpreter's start and cuInit, which without persistence mode wakes every card first.
START_SECONDS = 120.0
#: A test that works says something every two seconds; one piece of memory takes a fraction of one.
STALL_SECONDS = 30.0
#: A killed process whose context is torn down is gone within this; a longer one is stuck in the driver.
LEAVE_SECONDS = 10.0


class EndKind(StrEnum):
    """How a test ended. ``finished``: with a result; ``failed``: a driver call failed; ``hung``: silent for too long,
    or over its time limit; ``died``: the process ended without a result; ``killed``: by ``Tester.kill``."""

    FINISHED = "finished"
    FAILED = "failed"
    HUNG = "hung"
    DIED = "died"
    KILLED = "killed"


class TestEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a test: ``result`` only of a finished one, ``failure`` only of a failed one, ``text`` one line for
    people ("" where there is nothing to say), ``signal`` the one that a process died of. ``gone`` is whether the
    process has left the card: where it is False, nothing else should be started there (``Tester.reaped`` tells when
    it leaves)."""

    kind: EndKind
    result: TestResult | None = None
    failure: Failure | None = None
    text: str = ""
    signal: int | None = None
    gone: bool = True


class Tester:
    """One memory test in a process of its own. To be made in a running event loop; never raises into it.

    ``on_progress`` is called for every word of it. ``on_end`` is called exactly once, when the process is gone, or
    ``LEAVE_SECONDS`` after its end where the driver holds it. Both are called from the event loop, never from within
    the constructor or ``kill``. ``time_limit`` is seconds for the whole test, None for no limit.
    """

    def __init__(
        self,
        config: TestConfig,
        *,
        on_progress: Callable[[Progress], None],
        on_end: Callable[[TestEnd], None],
        start_seconds: float = START_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        time_limit: float | None = None,
    ) -> None:
        self._on_progress, self._on_end = on_progress, on_end
        self._allowed, self._stall_seconds = max(start_seconds, stall_seconds), stall_seconds
        self._loop = asyncio.get_running_loop()
        self._decoder = msgspec.msgpack.Decoder(Packet)
        self._started = self._heard = time.monotonic()
        self._limit = time_limit
        self._timer: asyncio.TimerHandle | None = None
        self._child: ChildProcess | None = None
        self.reaped: asyncio.Task[bool] | None = None
        self._end: TestEnd | None = None
        self._farewell: asyncio.Task[None] | None = None
        try:
            self._child = ChildProcess(
                "p104d.memtest.child",
                first=msgspec.msgpack.encode(config),
                on_packet=self._packet,
                on_closed=self._closed,
                environment=child_environment(os.environ),
            )
        except OSError as error:
            self._finish(EndKind.DIED, text=f"the test's process cannot be started: {error.strerror or error}")
        else:
            self._watch()

    @property
    def pid(self) -> int | None:
        """Of the process; None where none could be started."""
        return self._child.pid if self._child is not None else None

    @property
    def ended(self) -> bool:
        """Whether the end has come, though ``on_end`` may still be to be called."""
        return self._end is not None

    def kill(self) -> asyncio.Task[bool]:
        """End it. The task is done when the process is gone (True: a job may start on the card), or given up after
        ten minutes (False: the driver holds it). A test that has ended already keeps its end."""
        if self._end is None:
            self._finish(EndKind.KILLED, text="interrupted")
        assert self.reaped is not None
        return self.reaped

    def _packet(self, packet: bytes) -> None:
        self._heard = time.monotonic()
        if self._allowed != self._stall_seconds:
            # It has started: from now on less silence is allowed, and the watch must wake earlier.
            self._allowed = self._stall_seconds
            self._rearm()
        try:
            message = self._decoder.decode(packet)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._finish(EndKind.DIED, text=f"the test said something that is not understood: {error}")
            return
        match message:
            case Progress():
                self._on_progress(message)
            case TestResult():
                self._finish(EndKind.FINISHED, result=message)
            case Failure():
                self._finish(EndKind.FAILED, failure=message, text=message.text)

    def _closed(self) -> None:
        assert self._child is not None
        words = self._child.last_words()
        self._finish(EndKind.DIED, text=f"the test's process died: {words}" if words else "")

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._watch()

    def _watch(self) -> None:
        """Look again when the time for its next word is over, unless it came."""
        if self._end is not None:
            return
        now = time.monotonic()
        silent, limit = self._heard + self._allowed - now, self._limit
        left = min(silent, self._started + limit - now) if limit is not None else silent
        if left > 0:
            self._timer = self._loop.call_later(left + 0.001, self._watch)
        elif silent <= 0:
            self._finish(EndKind.HUNG, text=f"no word from the test for {format_duration(self._allowed)}: it hangs")
        else:
            self._finish(EndKind.HUNG, text=f"not finished within its time limit of {format_duration(limit)}")

    def _finish(
        self, kind: EndKind, *, result: TestResult | None = None, failure: Failure | None = None, text: str = ""
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._child is not None:
            self._child.finish()
            self.reaped = self._child.reaped
        else:
            self.reaped = self._loop.create_task(_nothing_to_reap())
        self._end = TestEnd(kind=kind, result=result, failure=failure, text=text)
        self._farewell = self._loop.create_task(self._tell_end())

    async def _tell_end(self) -> None:
        assert self._end is not None and self.reaped is not None
        done, _ = await asyncio.wait([self.reaped], timeout=LEAVE_SECONDS)
        gone = bool(done) and not self.reaped.cancelled() and self.reaped.result()
        status = self._child.exit_status if self._child is not None else None
        signal = -status if status is not None and status < 0 and self._end.kind is EndKind.DIED else None
        text = self._end.text or self._obituary()
        self._end = msgspec.structs.replace(self._end, gone=gone, text=text, signal=signal)
        self._on_end(self._end)

    def _obituary(self) -> str:
        """How a process ended that said nothing."""
        assert self._end is not None
        if self._end.kind is not EndKind.DIED or self._child is None:
            return ""
        status = self._child.exit_status
        if status is not None and status < 0:
            return f"the test's process was killed by signal {-status}"
        return f"the test's process ended without a result (exit code {status})"

    async def close(self) -> None:
        """End it, and wait for it a moment, never for one that cannot die. For the daemon's own end."""
        task = self.kill()
        assert self._farewell is not None
        await asyncio.wait([self._farewell])
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._child is not None:
            self._child.abandon()


def child_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What the test's process gets of ``ours``: only what CUDA's library looks at, so that nothing that the daemon was
    started with (a library to preload, a debugger's switch) changes what is tested."""
    kept = {name: value for name, value in ours.items() if name.startswith("CUDA_")}
    kept.pop("CUDA_LAUNCH_BLOCKING", None)  # would wait for every launch, and measure that
    return kept | {name: ours[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in ours}


async def _nothing_to_reap() -> bool:
    return True
