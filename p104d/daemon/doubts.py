"""What makes the daemon itself want another test of a card: something its proof rests on changed, an XID, a failure."""

from __future__ import annotations

from p104d.core.card import DueTest, Verdict, XidEvent
from p104d.daemon.sights import Sight
from p104d.hardware.messages import Cycle
from p104d.policy.health import xid_text
from p104d.policy.proof import deeper, doubt_counts, why_again
from p104d.store.cards import CardRecord


class Doubts:
    """``first_depth`` is that of a new card's test; a card that was condemned by a deeper one is asked as deeply."""

    def __init__(self, first_depth: str) -> None:
        self._first_depth = first_depth
        self._retested: set[str] = set()

    def of_card(self, record: CardRecord, sight: Sight, cycle: Cycle) -> DueTest | None:
        """The test that is wanted because of what was just read. One that could not finish is tried once more, and
        again when the card was away or the daemon starts."""
        identity, seen = record.identity, sight.report.identity
        cause = why_again(
            record.proof,
            driver=cycle.driver_version,
            vbios=seen.vbios,
            total_bytes=seen.memory_total_bytes,
            foreign_bytes=sight.foreign_bytes,
        )
        if cause is None and record.verdict is Verdict.FAILED and identity.uuid not in self._retested:
            cause = "its last test could not finish"
        if cause is None:
            return None
        self._retested.add(identity.uuid)
        return DueTest(cause=cause, depth=self._depth(record), asked_at=cycle.at)

    def of_xid(self, record: CardRecord, event: XidEvent, at: float, *, condemns: bool) -> DueTest | None:
        """The test that is wanted because of an XID; those of a program count now and then only."""
        if not condemns and not doubt_counts(record.proof, at):
            return None
        cause = f"{xid_text(event.code)} was reported of it"
        return DueTest(cause=cause, depth=self._depth(record), asked_at=at)

    def forget(self, uuid: str) -> None:
        """The card was away."""
        self._retested.discard(uuid)

    def _depth(self, record: CardRecord) -> str:
        return deeper(self._first_depth, record.proof.depth if record.proof is not None else self._first_depth)
