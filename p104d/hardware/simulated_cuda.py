"""A simulated CUDA driver: the driver API's functions in Python, for one card of a simulated rig.

It stands in the place of ``libcuda.so.1`` beneath the memory test, so that the test's own code runs on memory that is
not there. References (``byref(x)``) arrive as objects whose ``_obj`` is ``x``, buffers bare, numbers as ctypes values
or int; every function answers a CUresult. Kernels are not interpreted: their semantics are handed in by name.
Functions and codes are those of ``cuda.h`` (docs.nvidia.com/cuda/cuda-driver-api).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from p104d.hardware.rig import Rig
from p104d.hardware.simulated import SimulatedCard, SimulatedRig, never_return
from p104d.hardware.simulated_cuda_calls import ALWAYS, FUNCTIONS, WITHOUT_CONTEXT
from p104d.hardware.simulated_cuda_memory import CONTEXT_BYTES, CudaFailure, DeviceMemory
from p104d.hardware.simulated_cuda_values import (
    CONTEXT_IS_DESTROYED,
    INVALID_CONTEXT,
    LAUNCH_FAILED,
    NO_DEVICE,
    NOT_INITIALIZED,
    SUCCESS,
    UNKNOWN,
    Context,
)

#: What an XID does to the context that was there when it came: nothing, for those not listed.
_XID_RESULTS = {13: LAUNCH_FAILED, 31: LAUNCH_FAILED, 62: LAUNCH_FAILED, 79: UNKNOWN}
#: While it waits, the card is looked at so often: a lost one answers at once, not when its work would be done.
_WATCH_SECONDS = 0.05
_SLOWER = {"slow": 0.6, "hot": 0.3}


class Kernel(Protocol):
    """What a kernel does: ``parameters`` are the ctypes types of its arguments, by which they are read."""

    @property
    def parameters(self) -> tuple[type, ...]:
        """Types of the arguments, in order."""

    def __call__(self, memory: DeviceMemory, *values: int) -> int:
        """Run it; the bytes it moved to and from memory. Raises CudaFailure."""


class Timeline:
    """When the card's work is done. One queue for all streams.

    ``done`` is simulated seconds of work since the start: idle time between two pieces does not count, because how
    long this process takes to prepare one says nothing of a card. ``ready`` is when all of it is over, in real time.
    """

    def __init__(self, clock: Callable[[], float], speedup: float) -> None:
        self._clock, self._speedup = clock, speedup
        self.done = 0.0
        self.ready = -math.inf

    def work(self, seconds: float) -> None:
        """Queue so many simulated seconds of work."""
        self.done += seconds
        self.ready = max(self.ready, self._clock()) + seconds / self._speedup


class SimulatedCuda:
    """The driver library for the card ``uuid`` of ``rig``, as if CUDA_VISIBLE_DEVICES named it alone.

    ``epoch`` is the rig's start on ``clock`` (CLOCK_MONOTONIC but in tests, ``pause`` waits on it); ``kernels`` is what
    the kernels of a module do, by name. Work takes the time it would take on the card, divided by the rig's speedup.
    Not for use by several threads.
    """

    def __init__(
        self,
        rig: Rig,
        uuid: str,
        epoch: float,
        kernels: Mapping[str, Kernel],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rig = SimulatedRig(rig, epoch, clock)
        self.card: SimulatedCard | None = next((card for card in self.rig.cards if card.spec.uuid == uuid), None)
        self.kernels = kernels
        self.timeline = Timeline(clock, rig.speedup)
        self.memory = DeviceMemory(self.card.spec) if self.card else None
        self.contexts: dict[int, Context] = {}
        self.objects: dict[int, Any] = {}
        self.clock, self._pause, self._speedup = clock, pause, rig.speedup
        self._initialised: float | None = None
        self._last_handle = 0x5500_0000

    def __getattr__(self, name: str) -> Callable[..., int]:
        """The C function ``name``, as a plain function: ctypes users set attributes on them."""
        if name in ALWAYS:
            function = ALWAYS[name]
        elif name in FUNCTIONS:
            function = self._guarded(FUNCTIONS[name], needs_context=name not in WITHOUT_CONTEXT)
        else:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            try:
                return function(self, *arguments) or SUCCESS
            except CudaFailure as failure:
                return failure.code

        self.__dict__[name] = call
        return call

    def _guarded(self, body: Callable[..., int | None], *, needs_context: bool) -> Callable[..., int | None]:
        def function(library: SimulatedCuda, *arguments: Any) -> int | None:
            library.look(needs_context=needs_context)
            return body(library, *arguments)

        return function

    def initialise(self) -> None:
        """cuInit. Raises CudaFailure where there is no card, or no driver."""
        now = self.rig.now()
        card = self.card
        if card is None or card.has("lost", now) or card.has("gone", now) or self.rig.reloading(now):
            raise CudaFailure(NO_DEVICE)
        self._suffer(card, now)
        self._initialised = now

    def look(self, *, needs_context: bool = True) -> float:
        """What any call meets first: the card as it is now, and what its context has been through. The rig's time."""
        now = self.rig.now()
        if self._initialised is None or self.card is None:
            raise CudaFailure(NOT_INITIALIZED)
        self._suffer(self.card, now)
        if self.rig.reloaded_since(self._initialised, now):
            raise CudaFailure(CONTEXT_IS_DESTROYED)
        if needs_context:
            if not self.contexts:
                raise CudaFailure(INVALID_CONTEXT)
            broken = self._broken(self.card, list(self.contexts.values())[-1], now)
            if broken:
                raise CudaFailure(broken)
        return now

    def _suffer(self, card: SimulatedCard, now: float) -> None:
        if card.has("hang", now):
            never_return()
        if any(card.has(kind, now) for kind in ("lost", "gone", "unknown")):
            raise CudaFailure(UNKNOWN)

    def _broken(self, card: SimulatedCard, context: Context, now: float) -> int:
        """What broke a context stays with it, whatever becomes of the card."""
        if not context.broken:
            for fault in card.faults:
                if context.since < fault.at <= now:
                    if fault.kind in {"lost", "gone"}:
                        context.broken = UNKNOWN
                    elif fault.kind == "xid":
                        context.broken = _XID_RESULTS.get(fault.code or 0, SUCCESS)
        return context.broken

    def device(self) -> SimulatedCard:
        """The card. Raises CudaFailure where there is none."""
        if self.card is None:
            raise CudaFailure(NO_DEVICE)
        return self.card

    def device_memory(self) -> DeviceMemory:
        """Its memory. Raises CudaFailure where there is no card."""
        if self.memory is None:
            raise CudaFailure(NO_DEVICE)
        return self.memory

    def break_context(self, code: int) -> None:
        """What a kernel that touched what it must not leaves behind."""
        list(self.contexts.values())[-1].broken = code

    def handle(self, what: Any) -> int:
        """A new handle of ``what``."""
        self._last_handle += 0x10
        self.objects[self._last_handle] = what
        return self._last_handle

    def free_bytes(self) -> int:
        """What can still be allocated."""
        memory = self.device_memory()
        used = self.device().memory_used(self.rig.now()) + CONTEXT_BYTES * max(1, len(self.contexts))
        return max(0, memory.total - used - memory.allocated)

    def bandwidth(self) -> float:
        """Bytes a second that the card's memory moves now."""
        card, now = self.device(), self.rig.now()
        slowed = math.prod(share for kind, share in _SLOWER.items() if card.has(kind, now))
        return card.spec.memory_bandwidth * slowed

    def wait(self, until: float | None = None) -> None:
        """Until the work is done that was queued by then (real time; None: all). Raises CudaFailure."""
        until = self.timeline.ready if until is None else until
        while (left := until - self.clock()) > 0:
            self._pause(min(left, _WATCH_SECONDS))
            self.look()

    def sleep(self, seconds: float) -> None:
        """So many seconds of the card's time. A card that is lost meanwhile ends it; the next call answers so."""
        try:
            self.wait(self.clock() + seconds / self._speedup)
        except CudaFailure:
            return
