"""Moments at which a promise is easily broken, made certain: each is told to its end and gives its evidence."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from typing import NamedTuple

from crash_rig import CrashRig, eventually, process
from evidence import Evidence, read_effects
from interposer import read_trace
from points import Story

from p104d.processes import attempt


def _story(rig: CrashRig, *sabotage: str) -> Story:
    return Story(rig, "", ",".join(filter(None, sabotage)) or None)


def _started(story: Story) -> int:
    return len([each for each in read_effects(story.customer.folder / "effects") if each.what == "start"])


def _go(story: Story) -> None:
    (story.customer.folder / "go").touch()


def _die(story: Story) -> None:
    assert story.rig.daemon is not None
    story.rig.daemon.kill()
    story.again()


def slow_shim(rig: CrashRig, broken: str) -> Evidence:
    """The daemon dies while a shim is about to claim; the next one takes the attempt back; the shim goes on."""
    story = _story(rig, "slow", broken)
    there = rig.folder / "there"
    story.submit("ok")
    eventually(lambda: there.exists() and there.read_text(), rig.tail)
    _die(story)
    # What became of the job is settled before the shim moves on.
    story.wait(lambda: story.customer.ended(1) or story.customer.names() == {}, "the first job ends")
    (rig.folder / "go").touch()
    eventually(lambda: process(int(there.read_text())) is None, "the slow shim does not end")
    return story.end()


def restart_under_a_job(rig: CrashRig, broken: str) -> Evidence:
    """The daemon dies and comes back while a job runs."""
    story = _story(rig, broken)
    story.submit("gate")
    eventually(lambda: _started(story), rig.tail)
    _die(story)
    story.up()
    _go(story)
    return story.end()


def dead_shim(rig: CrashRig, broken: str, kind: str = "gate") -> Evidence:
    """A shim dies under its job."""
    story = _story(rig, "no groups", broken)
    [job] = story.submit(kind)
    eventually(lambda: _started(story), rig.tail)
    story.wait(lambda: story.customer.states().get(job) == "running", "the job runs")
    note = attempt.look(attempt.folder_of(str(rig.store / "jobs"), attempt.Key("job", job, 1)))
    assert note.pid is not None and note.start is not None
    story.customer.ledger.note(what="killed", pid=note.pid, start=note.start)
    with contextlib.suppress(ProcessLookupError):
        os.kill(note.pid, signal.SIGKILL)
    _go(story)
    return story.end()


def dead_shim_of_a_long_job(rig: CrashRig, broken: str) -> Evidence:
    """A shim dies under a job that goes on for long."""
    return dead_shim(rig, broken, "cancelled")


def killed_at_the_commit(rig: CrashRig, broken: str) -> Evidence:
    """The daemon dies just before a submission is durable."""
    story = _story(rig, "dies at commit", broken)
    story.until(lambda: rig.ready(cards=True))
    (rig.folder / "die").touch()
    story.submit("ok")  # by the next daemon: nobody acknowledged the first time
    assert rig.starts == 2, rig.tail()
    return story.end()


def held_while_running(rig: CrashRig, broken: str) -> Evidence:
    """A running job is held and released: the one is refused, and the other means nothing."""
    story = _story(rig, broken)
    [job] = story.submit("gate")
    eventually(lambda: _started(story), rig.tail)
    story.wait(lambda: story.customer.states().get(job) == "running", "the job runs")
    if story.customer.do("hold", job) and story.customer.do("release", job):
        eventually(lambda: _started(story) > 1, "a job that was held and released does not run")
    _go(story)
    return story.end()


def full_disk(rig: CrashRig, broken: str) -> Evidence:
    """A job fills the disk that its record is to be written to."""
    story = _story(rig, "small disk", broken)
    story.submit("fill")
    return story.end()


def double_fork(rig: CrashRig, broken: str) -> Evidence:
    """A job leaves a daemon of its own behind, where no cgroup holds it."""
    story = _story(rig, "no groups", broken)
    story.submit("daemon")
    story.submit("setsid")
    return story.end()


class Fate(NamedTuple):
    """What became of a shim that was to die at its point ``armed``, and how many points it met."""

    armed: int
    met: int

    @property
    def died(self) -> bool:
        """A point is written down before the kill at it, so that one that was met is the last of a dead shim's."""
        return self.met == self.armed


def mortal_shims(rig: CrashRig, points: int, jobs: int) -> tuple[Evidence, list[Fate]]:
    """``jobs`` jobs of which the Nth, counted round and round up to ``points``, has its shim die at its Nth point."""
    story = _story(rig, f"mortal shims={points}")
    for number in range(jobs):
        story.submit(("ok", "again", "daemon")[number // points % 3])
    story.wait(lambda: not story.customer.goes(), "all end")
    fates = []
    with open(rig.folder / "mortal") as file:
        for line in file:
            pid, start, job, armed = map(int, line.split())
            fates.append(Fate(armed, len(read_trace(str(rig.folder / f"points-{job}")))))
            if fates[-1].died:  # those that had fewer points lived, and are not excused
                story.customer.ledger.note(what="killed", pid=pid, start=start)
    return story.end(), fates


def relapses(rig: CrashRig, stride: int, fresh_every: int = 8) -> tuple[Evidence, int]:
    """Daemons that die at one point after the other of their own start and recovery, while jobs run, end and wait.

    The evidence, and how many died so.
    """
    story = Story(rig, "")
    story.up()
    assert rig.daemon is not None
    rig.daemon.kill()
    died = 0
    for number in itertools.count(1, stride):
        if died % fresh_every == 0:
            _leave_work_behind(story, died // fresh_every)
        rig.start(f"kill:{number}")
        if rig.ready():
            break
        assert rig.daemon is not None
        rig.daemon.wait()
        died += 1
    assert rig.daemon is not None
    rig.daemon.kill()  # it got as far as its next point after it was ready, or further
    _go(story)
    story.again()
    return story.end(), died


def _leave_work_behind(story: Story, turn: int) -> None:
    """A daemon that lives, takes a few jobs, and dies of nothing but SIGKILL: some run, some end while there is no
    daemon, and every other time the last is not even claimed."""
    story.again()
    story.up()
    before = _started(story)
    # Two cards are taken for good; on the others jobs come and go.
    for kind in ("gate" if turn < 2 else "cpu", "slow", "again", "ok"):
        story.submit(kind)
    if turn % 2:
        eventually(lambda: _started(story) > before, story.rig.tail)
    assert story.rig.daemon is not None
    story.rig.daemon.kill()
