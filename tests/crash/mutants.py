"""What is broken in a daemon that was just forked, by name: several joined with commas.

Some names break nothing and only make a scenario certain (a shim that waits, a disk that is small); they are there with
and without the sabotage.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from typing import Any

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000

#: The zygote of a daemon some of whose sabotage is in its shims. {home} is the rig's folder.
ZYGOTE = """
import ctypes, os, sys, time
sys.path.append(sys.argv[1])
from p104d.processes import holding, identity, native, record, zygote
launched = {{}}
read_launch = holding.Holding.read_launch
def remember(self):
    orders, launch = read_launch(self)
    launched.update(launch)
    arm(launch)
    return orders, launch
holding.Holding.read_launch = remember
def arm(launch): pass
{sabotage}
zygote.main(int(sys.argv[2]))
"""

#: By name, what is done in the zygote, for all its shims.
IN_SHIMS = {
    # The first attempt of the first job waits at the last moment before its claim.
    "slow": """
def point(name):
    if name == "allocated" and (launched.get("id"), launched.get("number")) == (1, 1):
        with open("{home}/there", "w") as file: file.write(str(os.getpid()))
        while not os.path.exists("{home}/go"): time.sleep(0.005)
holding.point = point
""",
    # Whoever claims owns the attempt, whoever claimed before.
    "no claim": """
link = os.link
def take(source, target, *, src_dir_fd, dst_dir_fd, follow_symlinks):
    try: os.unlink(target, dir_fd=dst_dir_fd)
    except FileNotFoundError: pass
    link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)
os.link = take
""",
    "no lock": "holding.fcntl.flock = lambda *_: None",
    "no allocation": "os.posix_fallocate = lambda *_: None",
    "no subreaper": "native.become_subreaper = lambda: None",
    "no death signal": "native.die_with_parent = lambda: None",
    # The shim of a job's first attempt dies at one numbered point of it: of job N at the Nth. One that had fewer goes
    # on to other attempts, and lives if they are not first ones.
    "mortal shims": """
def arm(launch):
    library = ctypes.CDLL(None)
    library.p104_interpose(b"off")
    library.p104_interpose_trace(b"")
    if launch["number"] == 1 and launch["kind"] == "job":
        me = os.getpid(), identity.start_time(os.getpid())
        number = (launch["id"] - 1) % {points} + 1
        with open("{home}/mortal", "a") as file: file.write("%d %d %d %d\\n" % (*me, launch["id"], number))
        library.p104_interpose_trace(b"{home}/points-%d" % launch["id"])
        library.p104_interpose(b"kill:%d" % number)
""",
}


def _no_fence() -> None:
    """Recovery takes an attempt back without a claim of its own."""
    from p104d.processes.supervisor import Supervisor

    Supervisor.revoke = lambda self, key: True  # type: ignore[method-assign]


def _naive_requeue() -> None:
    """Recovery queues again whatever it finds open."""
    from p104d.core.job import Outcome
    from p104d.core.lifecycle import Move
    from p104d.daemon import recover
    from p104d.store import moves

    async def one(loop: Any, _supervisor: Any, attempt: Any, *_: Any) -> None:
        with loop.database.write() as conn:
            over = {"move": Move.REQUEUE, "outcome": Outcome.REVOKED, "at": loop.clock.now()}
            moves.end(conn, moves.Ended(job_id=attempt.job_id, number=attempt.number, **over))

    recover._recover_one = one


def _forgetful() -> None:
    """Nothing is recovered."""
    from p104d.daemon import recover

    async def one(*_: Any) -> None:
        return

    recover._recover_one = one


def _again_after_loss() -> None:
    """Every job is taken for idempotent."""
    from p104d.daemon import endings

    after_end = endings.after_end
    endings.after_end = lambda ending, **facts: after_end(ending, **{**facts, "idempotent": True})


def _act_first() -> None:
    """A shim is told before the commit."""
    from p104d.daemon.placing import Placer

    start = Placer.start

    def start_and_act(self: Placer, conn: Any, what: Any, work: Any, now: float, copy: Any = None) -> None:
        start(self, conn, what, work, now, copy)
        for spec in work.launches:
            self._loop.supervisor.launch(spec)

    Placer.start = start_and_act  # type: ignore[method-assign]


def _unguarded() -> None:
    """A move asks for no state."""
    from p104d.store import moves

    def bare(text: str) -> str:
        return re.sub(r" AND state IN \([^)]*\)", "", text)

    for name, value in vars(moves).items():
        if isinstance(value, str) and value.startswith("UPDATE jobs"):
            setattr(moves, name, bare(value))


def _no_sweep() -> None:
    """What a dead shim left is nobody's business."""
    from p104d.processes.supervisor import Supervisor

    async def sweep(*_: Any, **__: Any) -> int:
        return 0

    Supervisor.sweep = sweep  # type: ignore[method-assign]


def _no_groups() -> None:
    """As on a host without a writable cgroup v2."""
    from p104d.processes import cgroup

    cgroup.find = lambda _tag: None


def _dies_at_commit() -> None:
    """Once the file ``die`` is there, the next request is the last: SIGKILL just before its commit reaches the file."""
    from interposer import Interposer

    from p104d.daemon.loop import Loop

    step = Loop.step

    def last(self: Loop, request: Any = None) -> Any:
        if request is not None and os.path.exists(os.environ["HOME"] + "/die"):
            os.unlink(os.environ["HOME"] + "/die")
            Interposer().arm("kill:1:queue.db-wal")
        return step(self, request)

    Loop.step = last  # type: ignore[method-assign]


def _small_disk() -> None:
    """The folder of the jobs is a disk of its own, in a mount namespace of this daemon's own."""
    jobs = os.environ["HOME"] + "/state/jobs"
    os.makedirs(jobs, exist_ok=True)
    mount_small(jobs, "256k")


def mount_small(path: str, size: str) -> None:
    """A tmpfs of ``size`` on ``path`` that only this process and its children see. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    none = ctypes.c_char_p(None)
    for result in (
        libc.unshare(_CLONE_NEWNS),
        libc.mount(b"none", b"/", none, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), none),
        libc.mount(b"tmpfs", path.encode(), b"tmpfs", ctypes.c_ulong(0), f"size={size},mode=700".encode()),
    ):
        if result:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)


IN_DAEMON: dict[str, Callable[[], None]] = {
    "no fence": _no_fence,
    "naive requeue": _naive_requeue,
    "forgetful": _forgetful,
    "again after loss": _again_after_loss,
    "act first": _act_first,
    "unguarded": _unguarded,
    "no sweep": _no_sweep,
    "no groups": _no_groups,
    "dies at commit": _dies_at_commit,
    "small disk": _small_disk,
}


def sabotage(names: str) -> None:
    """Break this process, which is to be a daemon. Raises KeyError for a name that nobody knows."""
    in_shims: list[str] = []
    for each in names.split(","):
        name, _, value = each.partition("=")
        if name in IN_DAEMON:
            IN_DAEMON[name]()
        else:
            in_shims.append(IN_SHIMS[name].format(home=os.environ["HOME"], points=value))
    if in_shims:
        _replace_zygote("\n".join(in_shims))


def _replace_zygote(code: str) -> None:
    from interposer import environment

    from p104d.processes import pool

    boot_argv = pool.boot_argv

    def argv(*arguments: Any) -> list[str]:
        python, *options, _code, root = boot_argv(*arguments)
        preload = [f"{name}={value}" for name, value in environment().items()]
        return ["/usr/bin/env", *preload, python, *options, ZYGOTE.format(sabotage=code), root]

    pool.boot_argv = argv
