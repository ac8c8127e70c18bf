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
    for job in answer["jobs"]:
        out(job_became(verb, job))


def job_became(verb: str, job: Mapping[str, Any]) -> str:
    """What ``verb`` made of a job: ``job 12 (posters): held``."""
    from p104d.cli.text import clean

    name = f" ({clean(job['name'])})" if job.get("name") else ""
    became = f"priority {job.get('priority')}" if verb == "priority" else job["state"]
    return f"job {job['id']}{name}: {became}"


def drain(cards: Sequence[str], *, undo: bool, as_json: bool) -> None:
    """Take ``cards`` out of service, or with ``undo`` put them back."""
    answer = client().post("/v1/cards/drain", {"cards": list(dict.fromkeys(cards)), "undo": undo})
    if as_json:
        print_json(answer)
        return
    for card in answer["cards"]:
        out(card_became(card, undo=undo))


def card_became(card: dict[str, Any], *, undo: bool) -> str:
    """What draining made of a card: ``card 0 (P104-100): draining, still runs 12``."""
    from p104d.cli.rig import card_index, card_name
    from p104d.cli.text import clean

    jobs = ", ".join(str(job) for job in card.get("jobs") or ())
    rest = f", still runs {jobs}" if jobs and not undo else ""
    return f"card {card_index(card)} ({clean(card_name(card))}): {card['state']}{rest}"
