"""The child that an idle shim keeps forked: replaced when it dies, in nobody's way, gone with its shim."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from process_rig import Rig, drive, eventually, is_alive

from p104d.processes import cgroup, identity

BOTH = pytest.mark.parametrize("cgroups", [True, False], ids=["cgroup", "none"])


@pytest.fixture(autouse=True)
def _one_shim_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p104d.processes.pool._QUIET_SECONDS", 0.1)


async def waiting(rig: Rig) -> tuple[int, int]:
    """(The only shim, its child), once both wait. Both are looked for together: a shim that was the only one a moment
    ago may be dying."""

    def both() -> tuple[int, int] | None:
        shims = rig.shims()
        children = _blocked(identity.children(shims[0])) if len(shims) == 1 else []
        return (shims[0], children[0]) if children else None

    found: tuple[int, int] = await eventually(both)
    return found


def _blocked(children: list[int]) -> list[int]:
    return children if len(children) == 1 and len(_descriptors(children[0])) == 5 else []


def _descriptors(pid: int) -> dict[int, str]:
    """Empty for a process that is not there any more."""
    try:
        return {int(name): os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    except OSError:
        return {}


@BOTH
def test_the_child_that_waits_becomes_the_job(cgroups: bool) -> None:
    async def body(rig: Rig) -> None:
        await rig.run("true")
        for _ in range(3):
            shim, child = await waiting(rig)
            key = rig.launch("sleep", "300")
            assert (await rig.running(key)).pid == child
            assert rig.supervisor.look(key).pid == shim
            assert rig.supervisor.owner_of(child) == key
            rig.supervisor.kill(key)
            await rig.ended(key)
            assert not is_alive(child)
            assert rig.supervisor.owner_of((await waiting(rig))[1]) is None

    drive(body, cgroups=cgroups)


@BOTH
def test_a_child_that_died_is_replaced_or_done_without(cgroups: bool) -> None:
    async def body(rig: Rig) -> None:
        for _ in range(5):  # whether its shim saw it or not; soon after its birth, when it is not replaced at once
            _, child = await waiting(rig)
            os.kill(child, signal.SIGKILL)
            await eventually(lambda: not is_alive(child))  # noqa: B023 - awaited here
            ended, log = await rig.run("echo", "hello")
            assert (ended.exit_code, ended.signal, log) == (0, None, "hello\n")
        shim, child = await waiting(rig)
        born = identity.start_time(child)
        assert born is not None
        ticks = os.sysconf("SC_CLK_TCK")
        await eventually(lambda: _uptime_ticks() > born + 1.2 * ticks)  # grown up: its shim replaces it by itself
        os.kill(child, signal.SIGKILL)
        assert (await waiting(rig))[0] == shim
        await eventually(lambda: not is_alive(child))
        if rig.supervisor.cgroup_base is not None:
            base = rig.supervisor.cgroup_base.path
            await eventually(lambda: len(cgroup.leftovers(base)) == 1)

    drive(body, cgroups=cgroups)


def _uptime_ticks() -> float:
    with open("/proc/uptime") as file:
        return float(file.read().split()[0]) * os.sysconf("SC_CLK_TCK")


def test_a_waiting_child_holds_nothing_of_its_shims() -> None:
    async def body(rig: Rig) -> None:
        await rig.run("true")
        shim, child = await waiting(rig)
        held = _descriptors(child)
        assert held[0] == "/dev/null" and held[1] == held[2] and held[1].startswith("pipe:")
        # Its orders and its report besides; the other ends, the line to the daemon and the signals are the shim's own.
        others = {target for number, target in held.items() if number > 2}
        assert sorted(target.partition(":")[0] for target in others) == ["pipe", "socket"]
        assert not {target for target in others if target.startswith("socket:")} & set(_descriptors(shim).values())
        assert os.getsid(child) == child

    drive(body)


@BOTH
def test_an_idle_shim_takes_its_child_along(cgroups: bool) -> None:
    async def body(rig: Rig) -> None:
        await rig.run("true")
        shim, child = await waiting(rig)
        os.kill(shim, signal.SIGKILL)
        await eventually(lambda: not is_alive(child))
        base = rig.supervisor.cgroup_base
        if base is not None:
            await eventually(lambda: not [name for name in cgroup.leftovers(base.path) if f"-{shim}-" in name])
        shim, child = await waiting(rig)
        await rig.supervisor.close()
        await eventually(lambda: not is_alive(child) and not is_alive(shim))
        assert base is None or not os.path.exists(base.path)  # and nothing is left for the next daemon

    drive(body, cgroups=cgroups)


#: A zygote whose second shim comes when the first one's attempt has long ended.
LATE = """
import sys, time
sys.path.append({root!r})
from p104d.processes import zygote
forks, fork = [], zygote.Zygote._fork
def late(self, groups):
    forks.append(groups)
    if len(forks) == 2: time.sleep(0.5)
    fork(self, groups)
zygote.Zygote._fork = late
zygote.main(int(sys.argv[1]))
"""


def test_a_shim_that_comes_late_does_not_stay() -> None:
    async def body(rig: Rig) -> None:
        await rig.run("true")
        assert len(rig.shims()) == 1
        await eventually(lambda: len(rig.shims()) == 2)
        await eventually(lambda: len(rig.shims()) == 1, 5)

    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    drive(body, zygote_argv=[sys.executable, "-I", "-S", "-X", "utf8", "-c", LATE.format(root=root)])


def test_a_shim_born_late_leaves_no_folder_of_groups_behind() -> None:
    """The daemon has closed, and taken the folder of the groups along, when the shim makes its first group."""
    code = WAITING_TO_FORK.format(root=os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

    async def body(rig: Rig) -> None:
        base = rig.supervisor.cgroup_base
        if base is None:
            pytest.skip("no cgroup v2 is writable here")
        [shim] = await eventually(rig.shims)
        await eventually(lambda: _is_stopped(shim))
        try:
            await rig.supervisor.close()
            assert not os.path.exists(base.path)
        finally:
            os.kill(shim, signal.SIGCONT)
        await eventually(lambda: not is_alive(shim))
        assert not os.path.exists(base.path)

    drive(body, zygote_argv=[sys.executable, "-I", "-S", "-X", "utf8", "-c", code])


def _is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as status:
        return "State:\tT" in status.read()


#: A zygote whose shims stop just before they make a group.
WAITING_TO_FORK = """
import os, signal, sys
sys.path.append({root!r})
from p104d.processes import ahead, zygote
prepare = ahead.Ahead.prepare
def stopped(self):
    os.kill(os.getpid(), signal.SIGSTOP)
    prepare(self)
ahead.Ahead.prepare = stopped
zygote.main(int(sys.argv[1]))
"""


def test_a_start_removes_the_groups_of_dead_shims() -> None:
    async def body(rig: Rig) -> None:
        base = rig.supervisor.cgroup_base
        if base is None:
            pytest.skip("no cgroup v2 is writable here")
        long = rig.launch("sleep", "300")
        await rig.running(long)
        dead = os.path.join(base.path, f"shim-{os.getpid()}-1-1")  # no process of that pid began then
        os.mkdir(dead)
        again = Rig(rig.folder, token=rig.token)
        await again.supervisor.start()
        assert not os.path.exists(dead)
        assert rig.supervisor.look(long).group in [f"{base.path}/{name}" for name in cgroup.leftovers(base.path)]
        await again.supervisor.close()
        rig.supervisor.kill(long)
        await rig.ended(long)

    drive(body)


def test_a_long_environment_reaches_the_job() -> None:
    async def body(rig: Rig) -> None:
        env = {f"V{number}": "x" * 60_000 for number in range(20)}  # more than any buffer on the way
        ended, log = await rig.run("/bin/sh", "-c", "echo ${#V0} ${#V19}", env=env)
        assert (ended.exit_code, log) == (0, "60000 60000\n")

    drive(body)
