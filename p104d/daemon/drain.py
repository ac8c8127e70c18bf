"""``p104ctl drain`` and ``undrain``: a person's word on whether a card takes jobs."""

from __future__ import annotations

import msgspec
from sqlalchemy.engine import Connection

from p104d.api import messages as m
from p104d.api.service import Caller
from p104d.core.errors import NotFoundError
from p104d.daemon.cardnames import resolve
from p104d.daemon.cardviews import messages
from p104d.daemon.loop import Loop
from p104d.daemon.work import Work
from p104d.store import instances, reads


def drain(loop: Loop, caller: Caller, cards: list[str], undo: bool) -> m.Cards:
    """Let cards take no new jobs (or again); undrain also clears a suspicion."""
    if not cards:
        raise NotFoundError("no card named", mend="name cards by index or UUID")
    uuids = [resolve(loop.rig, text) for text in cards]

    def request(conn: Connection, _now: float, work: Work) -> bool:
        for uuid in uuids:
            record = loop.proofs.record_of(work, uuid)
            changed = msgspec.structs.replace(
                record,
                drained=not undo,
                drained_by=None if undo else caller.user,
                suspect=None if undo else record.suspect,
            )
            loop.proofs.change(conn, work, changed)
        work.dirty = True
        return True

    loop.step(request)
    with loop.database.read() as conn:
        found = {
            card.uuid: card
            for card in messages(loop.rig, loop.proofs, reads.open_attempts(conn), instances.open_instances(conn))
        }
    return m.Cards([found[uuid] for uuid in uuids])
