"""Verbs that change something: one request, one line for each thing changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p104d.cli.common import client, out, print_json, unique


def act(verb: str, body: Mapping[str, Any], as_json: bool) -> None:
    """Do ``verb`` to the jobs in ``body["ids"]``, all or none, and tell what became of each."""
    answer = client().post(f"/v1/jobs/{verb}", {**body, "ids": unique(body["ids"])})
    if as_json:
        print_json(answer)
        return
    from p104d.cli.text import clean

    for job in answer["jobs"]:
        name = f" ({clean(job['name'])})" if job.get("name") else ""
        became = f"priority {job.get('priority')}" if verb == "priority" else job["state"]
        out(f"job {job['id']}{name}: {became}")


def drain(cards: Sequence[str], *, undo: bool, as_json: bool) -> None:
    """Take ``cards`` out of service, or with ``undo`` put them back."""
    answer = client().post("/v1/cards/drain", {"cards": list(dict.fromkeys(cards)), "undo": undo})
    if as_json:
        print_json(answer)
        return
    from p104d.cli.rig import card_index, card_name
    from p104d.cli.text import clean

    for card in answer["cards"]:
        jobs = ", ".join(str(job) for job in card.get("jobs") or ())
        rest = f", still runs {jobs}" if jobs and not undo else ""
        out(f"card {card_index(card)} ({clean(card_name(card))}): {card['state']}{rest}")
