"""A memory test from beginning to end, in the process that may be killed: everything of it on one card."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from p104d.hardware.cuda import Cuda, CudaError, NoCudaError
from p104d.memtest.card import WORD_BYTES, CannotTestError, Card
from p104d.memtest.findings import Findings
from p104d.memtest.messages import Failure, Fault, PassResult, Progress, StuckBit, TestConfig, TestResult
from p104d.memtest.meter import Meter
from p104d.memtest.places import FILLS, stuck_bits
from p104d.memtest.speed import Speeds, measure
from p104d.memtest.steps import HASHES, Check, Fill, Hold, Operation, Pass, passes
from p104d.memtest.sweep import Sweeper


def attempt(
    config: TestConfig, on_progress: Callable[[Progress], None], *, library: Any = None, close: bool = True
) -> TestResult | Failure:
    """Run the test; whatever the driver refuses, or has not got, is a Failure.

    ``library`` stands in for what the configuration names. ``close`` False: everything is left to the end of the
    process, as one does who is about to end, for a call into a broken driver may not come back.
    """
    stack = ExitStack()
    try:
        return run(Cuda(library or _library(config)), config, on_progress, stack)
    except CudaError as error:
        text = f"{error.call} failed: {error.text} ({error.name}, code {error.code})"
        return Failure(text=text, call=error.call, code=error.code)
    except NoCudaError as error:
        return Failure(text=error.line())
    except CannotTestError as error:
        return Failure(text=str(error))
    finally:
        if close:
            stack.close()


def _library(config: TestConfig) -> Any:
    """The driver: None for the real one."""
    if config.simulate is None:
        return config.library
    from p104d.hardware.simulated_cuda import SimulatedCuda
    from p104d.memtest.simulated_kernels import KERNELS

    return SimulatedCuda(config.simulate, config.uuid, config.epoch, kernels=KERNELS)


def run(cuda: Cuda, config: TestConfig, on_progress: Callable[[Progress], None], stack: ExitStack) -> TestResult:
    """Test the card. What is taken from the driver is given back by ``stack``.

    Raises CudaError, and CannotTestError where the card is another one or has no memory free.
    """
    started = time.monotonic()
    card = Card(cuda, config.uuid, stack)
    meter = Meter(on_progress)
    meter.step("taking the memory")
    card.take_all()
    meter.step("measuring the speed")
    speeds = measure(card, stack)
    test = _Test(card, meter, stack)
    test.make(passes(config.depth, config.seed, hold_seconds=config.hold_seconds, rounds=config.rounds))
    stuck = test.look_again()
    meter.finish()
    return test.result(config, speeds, stuck, time.monotonic() - started)


class _Test:
    """The passes on one card, and what they found."""

    def __init__(self, card: Card, meter: Meter, stack: ExitStack) -> None:
        self._card, self._meter = card, meter
        self._sweeper = Sweeper(card, meter, stack)
        self._findings = Findings(card.tested_words, card.cell_shift)
        self._results: dict[str, PassResult] = {}
        #: Bytes a second; the best of the hash passes, which do the same on every card.
        self._write = self._read = 0.0
        self._folded = False

    def make(self, plan: tuple[Pass, ...]) -> None:
        """All of the passes, or the hash passes only: what is folded fails all others too, and they say nothing new."""
        self._meter.plan(plan, self._card.tested_words * WORD_BYTES)
        for one in plan:
            if one.name not in HASHES and self._folded:
                return
            self._meter.step(one.label)
            self._make(one)
            if one.name in HASHES:
                self._folded = self._findings.folded()

    def _make(self, one: Pass) -> None:
        size = self._card.tested_words * WORD_BYTES
        seconds, errors, comparisons = 0.0, 0, 0
        for operation in one.operations:
            # In folded memory the writing of everything writes over the records as well: they are read before it, and
            # cleared after it.
            if isinstance(operation, Fill):
                errors += self._harvest(comparisons)
                comparisons = 0
            elif not isinstance(operation, Hold):
                if not comparisons:
                    self._sweeper.clear_records()
                comparisons += 1
            took = self._sweeper.run(operation)
            seconds += took
            if one.name in HASHES:
                self._note_speed(operation, size / max(took, 1e-9))
        errors += self._harvest(comparisons)
        self._note(one.name, errors, seconds, sum(operation.moved(size) for operation in one.operations))

    def _harvest(self, comparisons: int) -> int:
        """What so many comparisons of every word have left in the records; bad words found."""
        if not comparisons:
            return 0
        errors = self._findings.add(self._sweeper.read_records(), comparisons)
        self._meter.found(errors)
        return errors

    def _note_speed(self, operation: Operation, speed: float) -> None:
        if isinstance(operation, Fill):
            self._write = max(self._write, speed)
        elif isinstance(operation, Check):
            self._read = max(self._read, speed)

    def _note(self, name: str, errors: int, seconds: float, moved: int) -> None:
        """The repetitions of a thorough test are one pass to people."""
        before = self._results.get(name, PassResult(name=name, errors=0, seconds=0.0, bytes_moved=0))
        self._results[name] = PassResult(
            name=name,
            errors=before.errors + errors,
            seconds=before.seconds + seconds,
            bytes_moved=before.bytes_moved + moved,
        )

    def look_again(self) -> tuple[StuckBit, ...]:
        """The bits that never change. None is looked for in folded memory, where writing here changes what is there."""
        if self._folded or not self._findings.cells:
            return ()
        label = "reading the bad places again"
        self._meter.plan((Pass(label, label, FILLS),), self._card.tested_words * WORD_BYTES)
        self._meter.step(label)
        return stuck_bits(self._card, self._sweeper, self._findings)

    def result(self, config: TestConfig, speeds: Speeds, stuck: tuple[StuckBit, ...], seconds: float) -> TestResult:
        """All of it."""
        card, findings = self._card, self._findings
        ones, zeros = findings.masks()
        ranges = findings.ranges()
        located = {bit.address // WORD_BYTES * WORD_BYTES for bit in stuck}
        return TestResult(
            depth=config.depth,
            cuda_total_bytes=card.total_bytes,
            cuda_free_bytes=card.free_bytes,
            tested_bytes=card.tested_words * WORD_BYTES,
            seconds=seconds,
            write_bytes_per_second=self._write,
            read_bytes_per_second=self._read,
            copy_bytes_per_second=speeds.copy,
            host_to_device_bytes_per_second=speeds.host_to_device,
            device_to_host_bytes_per_second=speeds.device_to_host,
            passes=tuple(self._results.values()),
            errors=findings.errors,
            # In folded memory nearly everything is wrong: where that begins says it all.
            addresses=tuple(one.start for one in ranges) if self._folded else findings.addresses(located),
            ranges=ranges,
            flipped_or=ones | zeros,
            flipped_and=findings.always_flipped(),
            ones=ones,
            zeros=zeros,
            aliased=findings.aliased,
            alias_offset=findings.alias_offset() if self._folded else None,
            broken_records=findings.broken_records,
            fault=self._fault(stuck),
            stuck=stuck,
            cell_bytes=card.cell_bytes,
            cells=findings.bad_cells(),
        )

    def _fault(self, stuck: tuple[StuckBit, ...]) -> Fault | None:
        if not self._findings.errors:
            return None
        if self._folded:
            return Fault.ALIASING
        return Fault.STUCK if stuck else Fault.SOFT
