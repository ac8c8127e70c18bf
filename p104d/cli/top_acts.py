"""What the keys of the live screen ask the daemon for, and what is said of the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from p104d.api.client import Client
from p104d.cli.acting import card_became, job_became
from p104d.cli.cardpage import card_page, last_test
from p104d.cli.jobs import explain_page, indexes_of, job_page
from p104d.cli.text import clean
from p104d.core.errors import NotFoundError

#: States from which ``d`` puts a card back in service.
_UNDRAINED = ("draining", "drained", "suspect")


def act_on_job(asked: Client, verb: str, job: int) -> str:
    """Do ``verb`` to a job; what became of it."""
    [done] = asked.post(f"/v1/jobs/{verb}", {"ids": [job]})["jobs"]
    return job_became(verb, done)


def drain(asked: Client, card: dict[str, Any]) -> str:
    """Drain a card, or put one that is out of service back; what became of it."""
    undo = card.get("state") in _UNDRAINED
    [done] = asked.post("/v1/cards/drain", {"cards": [card["uuid"]], "undo": undo})["cards"]
    return card_became(done, undo=undo)


def pause(asked: Client, paused: bool) -> str:
    """Resume a paused queue, pause another; what that means."""
    asked.post("/v1/resume" if paused else "/v1/pause", {})
    return "resumed: jobs start again" if paused else "paused: running jobs go on, no other starts; p resumes"


def fetch_job(asked: Client, job: int) -> Callable[[], Sequence[str]]:
    """All that is known of a job and, if it waits, why: what draws its page."""
    [shown] = asked.post("/v1/jobs/show", {"ids": [job]})["jobs"]
    cards = asked.get("/v1/cards")["cards"]
    if shown["state"] not in ("queued", "held"):
        return lambda: job_page(shown, indexes_of(cards))
    [why] = asked.post("/v1/jobs/explain", {"ids": [job]})["jobs"]
    return lambda: [*job_page(shown, indexes_of(cards)), "", *explain_page(why, cards)]


def fetch_card(asked: Client, uuid: str) -> Callable[[], Sequence[str]]:
    """All that is known of a card, read anew: what draws its page. Raises NotFoundError for one that is gone."""
    card = next((one for one in asked.get("/v1/cards")["cards"] if one["uuid"] == uuid), None)
    if card is None:
        raise NotFoundError(f"card {uuid} is not known any more", mend="Esc goes back to those that are")
    test = last_test(asked, uuid)
    return lambda: card_page(card, test)


def described(job: dict[str, Any]) -> str:
    """``job 12 (posters), which is running``."""
    return f"job {job['id']} ({clean(job['name'])}), which is {job['state']}"
