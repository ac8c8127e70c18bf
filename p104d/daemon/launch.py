"""From a placed job to what a shim is told: argv, environment, account, limits."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from p104d.api.spec import expand, expand_engine
from p104d.core.errors import P104Error
from p104d.core.plan import Start
from p104d.daemon.accounts import account, base_environment, own_account
from p104d.daemon.config import Settings
from p104d.daemon.server_launch import batch_argv
from p104d.policy.retry import Stop
from p104d.processes.attempt import LaunchSpec
from p104d.store.forgotten import Origin
from p104d.store.instances import Instance
from p104d.store.reads import JobFacts
from p104d.store.schedules import Owed

#: A notification that takes longer is not going to arrive.
_NOTIFY_SECONDS = 60.0


class CannotLaunch(P104Error):
    """The job cannot be started here; it fails with this reason."""


def launch_spec(
    job: JobFacts, number: int, start: Start | None, settings: Settings, copy: Instance | None = None
) -> LaunchSpec:
    """What the shim of attempt ``number`` is told; ``copy`` is the copy of a model that it runs on. Raises
    CannotLaunch, for an account that is gone for one."""
    argv, env = expand(msgspec.structs.replace(job.spec, env=job.env.env), job.matrix)
    if copy is not None:
        argv = _batch(job, copy)
    cards = start.cards if start else ()
    built = _environment(job, number, cards, env)
    drop = _drop_to(job.uid, job.user)
    return LaunchSpec(
        id=job.id,
        number=number,
        argv=tuple(argv),
        env=built,
        cwd=job.spec.cwd,
        uid=drop[0] if drop else None,
        gid=drop[1] if drop else None,
        user=drop[2] if drop else None,
        umask=job.umask,
        rlimits=job.env.limits,
        time_limit_seconds=job.spec.time_limit_seconds,
        grace_seconds=settings.stop_grace_seconds,
        log_limit_bytes=settings.log_limit_bytes,
        ram_bytes=job.spec.ram_bytes,
        pids_max=settings.max_pids,
        cards=tuple(cards),
        reserved_bytes=start.reserved_bytes if start else (),
        annex=_origin(job, copy),
    )


def _batch(job: JobFacts, copy: Instance) -> tuple[str, ...]:
    if copy.cpu_only and job.spec.gpu_required:
        raise CannotLaunch(f"{Stop.NEVER_ON_CARD}: llama-server has found no card to compute on")
    return batch_argv(expand_engine(job.spec, job.matrix), copy.loaded.socket, copy.label)


def _origin(job: JobFacts, copy: Instance | None) -> str:
    """What the folder keeps of the job, should the queue forget it."""
    origin = Origin(
        name=job.name,
        uid=job.uid,
        user=job.user,
        submitted_at=job.submitted_at,
        spec=job.spec,
        matrix=job.matrix,
        kept=job.env.kept,
        limits=job.env.limits,
        copy=copy.id if copy is not None else None,
    )
    return msgspec.json.encode(origin).decode()


def _environment(job: JobFacts, number: int, cards: Sequence[str], env: dict[str, str]) -> dict[str, str]:
    found = account(job.uid)
    base = base_environment(found or own_account())
    placed = {
        "CUDA_VISIBLE_DEVICES": ",".join(cards),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "P104_JOB_ID": str(job.id),
        "P104_ATTEMPT": str(number),
        "P104_CARDS": ",".join(cards),
    }
    return base | env | placed


def _drop_to(uid: int, user: str) -> tuple[int, int, str] | None:
    """The account to become; None where the daemon runs as that user already."""
    if uid == os.getuid():
        return None
    found = account(uid)
    if found is None:
        raise CannotLaunch(f"its user {user} ({uid}) has no account on this host any more")
    return found.uid, found.gid, found.name


def notify_spec(owed: Owed, settings: Settings) -> LaunchSpec:
    """A notification command, run as the user whom it serves, without cards."""
    found = account(owed.uid) or own_account()
    drop = _drop_to(owed.uid, owed.user)
    return LaunchSpec(
        kind="notify",
        id=owed.id,
        number=1,
        argv=tuple(owed.command),
        env=base_environment(found) | {"CUDA_VISIBLE_DEVICES": ""} | owed.env,
        cwd=found.home if os.path.isdir(found.home) else "/",
        uid=drop[0] if drop else None,
        gid=drop[1] if drop else None,
        user=drop[2] if drop else None,
        rlimits=owed.limits,
        time_limit_seconds=_NOTIFY_SECONDS,
        grace_seconds=settings.stop_grace_seconds,
        log_limit_bytes=65536,
    )
