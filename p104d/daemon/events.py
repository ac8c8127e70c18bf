"""What wakes the loop beside requests. Supervisor events come as they are (``processes.supervisor``)."""

from __future__ import annotations

import msgspec

from p104d.memtest.tester import TestEnd


class CardsGone(msgspec.Struct, frozen=True):
    """Cards that have been missing for too long: their jobs end with them."""

    uuids: tuple[str, ...]


class CardsTooHot(msgspec.Struct, frozen=True):
    """Cards over the temperature at which what runs on them is stopped, to go on when they are cooler."""

    uuids: tuple[str, ...]


class CardBad(msgspec.Struct, frozen=True):
    """A card left service by itself: people who want to know are told. ``state`` is suspect or missing."""

    uuid: str
    index: int
    state: str
    note: str


class StopJob(msgspec.Struct, frozen=True):
    """A watcher's finding: this job has to end, for this reason; ``now`` without the usual grace."""

    job_id: int
    reason: str
    now: bool = False


class TestOver(msgspec.Struct, frozen=True):
    """The memory test ``test_id`` of a card has ended by itself, with what it found."""

    uuid: str
    test_id: int
    end: TestEnd


class ServerReady(msgspec.Struct, frozen=True):
    """Copy ``number`` of a model has answered with its first token, ``seconds`` after it was begun. ``cpu_only``: it
    says that it has found no card to compute on."""

    number: int
    seconds: float
    cpu_only: bool = False


class ServerSick(msgspec.Struct, frozen=True):
    """Copy ``number`` of a model does not answer, or cannot be loaded: why."""

    number: int
    text: str


LoopEvents = CardsGone | CardsTooHot | CardBad | StopJob | TestOver | ServerReady | ServerSick
