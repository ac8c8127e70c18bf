"""The whole of a job ends: at its own end, when stopped, at its time limit; with cgroups and without."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from process_rig import PATH, Rig, drive, eventually, is_alive

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BOTH = pytest.mark.parametrize("cgroups", [True, False], ids=["cgroup", "subreaper"])

#: Forks twice and leaves its session, so that no process group, session or parent leads to it.
DAEMONIZE = """
import os, sys, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if 'noenv' in sys.argv: os.execve(sys.executable, ['x', '-S', '-c', 'import time; time.sleep(300)'], {})
        open(sys.argv[1], 'w').write(str(os.getpid()))
        time.sleep(300)
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[1]): time.sleep(0.005)
if 'stay' in sys.argv: time.sleep(300)
"""


def daemonize(rig: Rig, *words: str) -> tuple[str, ...]:
    return ("/usr/bin/env", "python3", "-S", "-c", DAEMONIZE, f"{rig.folder}/pid", *words)


def recorded(rig: Rig) -> int:
    with open(f"{rig.folder}/pid") as file:
        return int(file.read() or 0)


@BOTH
def test_what_a_job_leaves_behind_is_killed_before_its_end_is_told(cgroups: bool) -> None:
    async def body(rig: Rig) -> None:
        ended, _ = await rig.run(*daemonize(rig))
        assert ended.exit_code == 0
        assert not is_alive(recorded(rig))
        assert ended.left_behind == 0

    drive(body, cgroups=cgroups)


#: Saves its work when told to stop, slower than the shell above it dies.
SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(0.5); print('saved', flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, save)
open(sys.argv[1], 'w').write('1')
time.sleep(300)
"""


@BOTH
def test_what_a_shell_ran_has_the_grace_too(cgroups: bool) -> None:
    async def body(rig: Rig) -> None:
        ready = f"{rig.folder}/pid"
        key = rig.launch("/bin/sh", "-c", '/usr/bin/env python3 -S -c "$1" "$2"; echo after', "sh", SAVES, ready)
        await eventually(lambda: os.path.exists(ready))
        assert rig.supervisor.stop(key)
        ended = await rig.ended(key)
        assert ended.reason == "stopped" and ended.wall_seconds < 5
        assert "saved" in rig.log(key)

    drive(body, cgroups=cgroups)


@BOTH
def test_the_grace_of_what_is_left_is_bounded_and_can_be_cut_short(cgroups: bool) -> None:
    async def body(rig: Rig) -> None:
        for patience, grace in ((0.3, 0.3), (0.0, 60.0)):
            ready = f"{rig.folder}/ready{grace}"
            deaf = f"trap '' TERM; : > {ready}; while :; do sleep 0.05; done"
            key = rig.launch("/bin/sh", "-c", f'sh -c "{deaf}" & wait', grace_seconds=grace)
            await eventually(lambda path=ready: os.path.exists(path))
            assert rig.supervisor.stop(key)
            if not patience:
                assert rig.supervisor.kill(key)
            ended = await rig.ended(key)
            assert ended.reason == "stopped" and ended.left_behind == 0 and patience <= ended.wall_seconds < 20

    drive(body, cgroups=cgroups)


@BOTH
def test_stop_ends_children_that_left_the_session(cgroups: bool) -> None:
    async def body(rig: Rig) -> None:
        key = rig.launch(*daemonize(rig, "stay"), grace_seconds=0.2)
        await eventually(lambda: os.path.exists(f"{rig.folder}/pid") and recorded(rig))
        assert rig.supervisor.stop(key)
        ended = await rig.ended(key)
        assert (ended.signal, ended.reason) == (signal.SIGKILL, "stopped")
        assert not is_alive(recorded(rig))

    drive(body, cgroups=cgroups)


def test_stop_lets_a_job_end_in_its_own_way() -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")
        await eventually(lambda: "up" in rig.log(key))
        rig.supervisor.stop(key)
        ended = await rig.ended(key)
        assert (ended.exit_code, ended.reason) == (7, "stopped")
        assert rig.log(key).endswith("bye\n")

    drive(body)


def test_stop_reaches_the_whole_tree_and_what_is_stopped() -> None:
    async def body(rig: Rig) -> None:
        script = "(trap 'echo child; exit' TERM; echo up; while :; do sleep 0.05; done) & kill -STOP $$; wait"
        key = rig.sh(script, grace_seconds=20)
        await eventually(lambda: "up" in rig.log(key))
        begun = time.monotonic()
        rig.supervisor.stop(key)
        ended = await rig.ended(key)
        assert ended.signal == signal.SIGTERM
        assert time.monotonic() - begun < 10

    drive(body)


@BOTH
def test_the_time_limit_ends_a_job_that_ignores_sigterm(cgroups: bool) -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh("trap '' TERM; while :; do sleep 0.05; done", time_limit_seconds=0.3, grace_seconds=0.3)
        ended = await rig.ended(key)
        assert (ended.signal, ended.reason) == (signal.SIGKILL, "time limit")
        assert 0.55 < ended.wall_seconds < 10

    drive(body, cgroups=cgroups)


def test_a_job_within_its_time_limit_is_left_alone() -> None:
    async def body(rig: Rig) -> None:
        ended, _ = await rig.run("/bin/sh", "-c", "sleep 0.2; exit 3", time_limit_seconds=20)
        assert (ended.exit_code, ended.reason) == (3, None)

    drive(body)


def test_kill_does_not_wait_for_the_grace() -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh("trap '' TERM; echo up; while :; do sleep 0.05; done", grace_seconds=300)
        await eventually(lambda: rig.log(key))
        rig.supervisor.stop(key)
        rig.supervisor.kill(key)
        ended = await rig.ended(key)
        assert (ended.signal, ended.reason) == (signal.SIGKILL, "stopped")
        assert ended.wall_seconds < 20

    drive(body)


def test_stop_right_after_launch_is_not_lost_and_hits_no_later_attempt() -> None:
    async def body(rig: Rig) -> None:
        for _ in range(10):
            key = rig.launch("sleep", "300", grace_seconds=5)
            assert await _stop_when_possible(rig, key)
            assert (await rig.ended(key)).reason == "stopped"
            assert rig.supervisor.stop(key) is False  # over: nobody is there to be stopped
            ended, _ = await rig.run("true")
            assert (ended.exit_code, ended.reason) == (0, None)

    drive(body)


async def _stop_when_possible(rig: Rig, key: object) -> bool:
    return bool(await eventually(lambda: rig.supervisor.stop(key)))  # type: ignore[arg-type]


@BOTH
def test_a_fork_bomb_loses(cgroups: bool) -> None:
    # Each process forks and ends at once, so that the pid to kill is always another one; bounded by time, for the
    # sake of the machine if this ever fails.
    bomb = (
        "import os, time\n"
        "end = time.monotonic() + 60\n"
        "for i in range(8):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        while time.monotonic() < end:\n"
        "            if os.fork(): os._exit(0)\n"
        "print('lit', flush=True)\n"
        "time.sleep(60)\n"
    )

    async def body(rig: Rig) -> None:
        key = rig.launch(sys.executable, "-S", "-c", bomb, grace_seconds=0.1)
        await eventually(lambda: "lit" in rig.log(key))
        rig.supervisor.kill(key)
        ended = await rig.ended(key)
        assert (ended.signal, ended.left_behind) == (signal.SIGKILL, 0)

    drive(body, cgroups=cgroups)


def test_a_strangers_hold_on_the_output_does_not_delay_the_end() -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh(f"echo $$; while [ ! -e {rig.folder}/go ]; do sleep 0.02; done; echo last; exit 5")
        pid = int(await eventually(lambda: rig.log(key).strip()))
        held = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY)
        try:
            with open(f"{rig.folder}/go", "w"):
                pass
            begun = time.monotonic()
            assert (await rig.ended(key)).exit_code == 5
            assert time.monotonic() - begun < 5
            assert rig.log(key) == f"{pid}\nlast\n"
        finally:
            os.close(held)

    drive(body)


#: A zygote whose shims believe, that a process could not be killed.
STUBBORN = """
import sys
sys.path.append({root!r})
from p104d.processes import shim, tree, zygote
end = tree.Tree.end
tree.Tree.end = lambda self, signals: end(self, signals) + 1
zygote.main(int(sys.argv[1]))
"""


def test_a_shim_with_children_that_cannot_be_killed_runs_nothing_more() -> None:
    async def body(rig: Rig) -> None:
        await rig.supervisor.close()
        code = STUBBORN.format(root=ROOT, folder=rig.folder)
        stubborn = Rig(rig.folder, token=rig.token, zygote_argv=[sys.executable, "-I", "-S", "-c", code])
        await stubborn.supervisor.start()
        key = stubborn.sh("exit 3")
        shim = (await stubborn.running(key)) and stubborn.shims()
        ended = await stubborn.ended(key)
        assert (ended.exit_code, ended.left_behind) == (3, 1)
        again, _ = await stubborn.run("true")
        assert again.exit_code == 0
        await eventually(lambda: not is_alive(shim[0]))
        await stubborn.supervisor.close()

    drive(body)


def test_launching_what_is_under_way_changes_nothing() -> None:
    async def body(rig: Rig) -> None:
        spec = rig.spec("/bin/sh", "-c", f"echo ran >> {rig.folder}/proof; sleep 0.2; exit 6")
        rig.supervisor.launch(spec)
        rig.supervisor.launch(spec)
        await rig.running(spec.key)
        rig.supervisor.launch(spec)
        assert rig.supervisor.adopt(spec.key)
        assert (await rig.ended(spec.key)).exit_code == 6
        assert len(rig.events) == 2
        with open(f"{rig.folder}/proof") as proof:
            assert proof.read() == "ran\n"

    drive(body)


def test_owner_of_tells_our_processes_from_strangers() -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh("sleep 300 & echo $!; wait", env={"PATH": PATH})
        running = await rig.running(key)
        child = int(await eventually(lambda: rig.log(key).strip()))
        assert rig.supervisor.owner_of(running.pid) == key
        assert rig.supervisor.owner_of(child) == key
        assert rig.supervisor.owner_of(os.getpid()) is None
        assert rig.supervisor.owner_of(1) is None
        assert rig.supervisor.owner_of(2**22 + 1) is None
        rig.supervisor.kill(key)
        await rig.ended(key)

    for cgroups in (True, False):
        drive(body, cgroups=cgroups)
