"""What a step of the loop has decided inside its transaction and does after the commit."""

from __future__ import annotations

import msgspec

from p104d.core.card import DueTest
from p104d.core.job import JobState
from p104d.daemon.accounts import Account
from p104d.processes.attempt import Key, LaunchSpec
from p104d.store.cards import CardRecord
from p104d.store.instances import Instance
from p104d.store.results import Result


class BegunTest(msgspec.Struct, frozen=True, kw_only=True):
    """A memory test that was written down and is to be started."""

    uuid: str
    test_id: int
    due: DueTest
    at: float


class Work(msgspec.Struct, kw_only=True):
    """Filled while the transaction is open; acted on only once it is durable.

    ``loads`` are copies of models that are among the launches: number, account (None: the daemon's own user), whether
    others may use it. ``begun`` are copies whose process is there, ``evicts`` those that are to go, some of them at
    once, ``gone`` those that have gone, ``sick`` those that a job found to be silent.
    ``unsettled`` are documents that wait for a job that has ended, and are to be freed or cancelled.
    ``launch_cards`` are the cards of each launch: a memory test or a copy there has to be gone first. ``tests_left``
    are tests that are over (card and record), ``findings`` what they found, for the log; ``cards`` records that were
    saved and hold from now on, ``tests_next_at`` when all cards are to be tested again (Unix time).
    ``waits``, ``ends`` and ``verdicts`` are for counting: seconds that jobs waited for their first start, how jobs
    ended and how long they ran, what tests came to.
    """

    launches: list[LaunchSpec] = []
    loads: list[tuple[int, Account | None, bool]] = []
    begun: list[Instance] = []
    evicts: list[int] = []
    evicts_at_once: set[int] = set()
    gone: list[int] = []
    sick: list[int] = []
    launch_cards: dict[Key, tuple[str, ...]] = {}
    unstartable: list[tuple[Key, str]] = []
    taken_back: list[tuple[Key, str]] = []
    stops: list[Key] = []
    kills: list[Key] = []
    ended: dict[int, JobState] = {}
    unsettled: list[int] = []
    results: list[Result] = []
    tests: list[BegunTest] = []
    tests_left: dict[str, int] = {}
    cards: dict[str, CardRecord] = {}
    tests_next_at: float | None = None
    findings: list[str] = []
    waits: list[float] = []
    ends: list[tuple[JobState, str | None, float | None]] = []
    verdicts: list[str | None] = []
    dirty: bool = False
    notify: bool = False
    running_changed: bool = False
