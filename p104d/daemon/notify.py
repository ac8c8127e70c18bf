"""Telling people: a command or a webhook of theirs, run as them by a shim; owed in the transaction of what it tells."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import JobState
from p104d.daemon.accounts import own_account
from p104d.daemon.config import NotifyConfig
from p104d.daemon.events import CardBad
from p104d.store import schedules
from p104d.store.reads import JobFacts

#: Posts P104_WEBHOOK_BODY to P104_WEBHOOK_URL: in a process of the user's own, never in the daemon.
WEBHOOK_COMMAND = [
    sys.executable,
    "-I",
    "-S",
    str(Path(__file__).resolve().parent.parent / "processes" / "webhook.py"),
]


def owe_for_job(conn: Connection, job: JobFacts, state: JobState, reason: str, now: float) -> bool:
    """Note what is owed for a job that ended so; was anything?"""
    wanted = job.spec.notify
    if wanted is None or state.value not in wanted.on:
        return False
    env = {
        "P104_JOB_ID": str(job.id),
        "P104_JOB_NAME": job.name,
        "P104_STATE": state.value,
        "P104_REASON": reason,
    }
    if wanted.command:
        schedules.owe(conn, job_id=job.id, uid=job.uid, user=job.user, command=wanted.command, env=env, now=now)
    if wanted.webhook is not None:
        body = {"job_id": job.id, "name": job.name, "state": state.value, "reason": reason, "user": job.user}
        schedules.owe(
            conn,
            job_id=job.id,
            uid=job.uid,
            user=job.user,
            command=WEBHOOK_COMMAND,
            env=env | _webhook(wanted.webhook, body),
            now=now,
        )
    return True


def owe_for_card(conn: Connection, bad: CardBad, config: NotifyConfig, now: float) -> bool:
    """Note what the configuration owes to people for a card that went bad; run as the daemon's own user."""
    env = {
        "P104_CARD": bad.uuid,
        "P104_CARD_INDEX": str(bad.index),
        "P104_STATE": bad.state,
        "P104_REASON": bad.note,
    }
    commands = [config.command] if config.command else []
    if config.webhook:
        body = {"card": bad.uuid, "index": bad.index, "state": bad.state, "reason": bad.note}
        env |= _webhook(config.webhook, body)
        commands.append(WEBHOOK_COMMAND)
    who = own_account()
    for command in commands:
        schedules.owe(conn, job_id=None, uid=who.uid, user=who.name, command=command, env=env, now=now)
    return bool(commands)


def _webhook(url: str, body: dict[str, object]) -> dict[str, str]:
    """What WEBHOOK_COMMAND finds: in its environment, for everybody on the host can read a command line, and the
    addresses of hooks are secrets."""
    return {"P104_WEBHOOK_URL": url, "P104_WEBHOOK_BODY": msgspec.json.encode(body).decode()}
