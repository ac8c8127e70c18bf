"""Kills at every step: of the shim, of the zygote, of the daemon. The folder says what happened; nothing runs twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
from process_rig import Rig, drive, eventually, is_alive

from p104d.processes import cgroup, identity, record
from p104d.processes.attempt import Key, LookKind
from p104d.processes.events import Ended, LaunchFailed, Running

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: A zygote whose shims kill themselves at a named step of the attempt whose id is 1.
SABOTAGED = """
import os, sys
sys.path.append({root!r})
from p104d.processes import holding, zygote
def point(name, at={step!r}):
    if name == at and shim_ids and shim_ids[-1] == 1:
        os.kill(os.getpid(), 9)
shim_ids = []
holding.point = point
read = holding.Holding.read_launch
def remember(self):
    orders, launch = read(self)
    shim_ids.append(launch["id"])
    return orders, launch
holding.Holding.read_launch = remember
zygote.main(int(sys.argv[1]))
"""

UNCLAIMED_STEPS = ("instructed", "locked", "allocated")
CLAIMED_STEPS = ("claimed", "let go", "running", "durable", "ending")
#: The last is the next child's, which is forked once the attempt is over.
WRITTEN_STEPS = ("written", "ended", "forked")


def sabotaged(step: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-X", "utf8", "-c", SABOTAGED.format(root=ROOT, step=step)]


@pytest.mark.parametrize("step", [*UNCLAIMED_STEPS, *CLAIMED_STEPS, *WRITTEN_STEPS])
def test_a_shim_killed_at_any_step(step: str) -> None:
    async def body(rig: Rig) -> None:
        script = f"echo ran >> {rig.folder}/proof; setsid sleep 300 & exec sleep 0.2"
        key = rig.sh(script)
        event = await rig.until((Ended, LaunchFailed), key)  # type: ignore[arg-type]
        look = rig.supervisor.look(key)
        if step in UNCLAIMED_STEPS:
            assert isinstance(event, LaunchFailed)
            assert look.kind is LookKind.REVOKED
            assert not os.path.exists(f"{rig.folder}/proof")
        elif step in CLAIMED_STEPS:
            assert isinstance(event, Ended)
            assert event.look.kind is look.kind is LookKind.DEAD
            assert rig.supervisor.revoke(key) is False
        else:
            assert isinstance(event, Ended)
            assert look.kind is LookKind.ENDED and look.exit is not None
            assert look.exit.exit_code == 0
            # It told of the end before it died: until its death is heard of, it is given the next attempt.
            await eventually(lambda: look.pid not in rig.shims())
        assert await rig.supervisor.sweep(key) == 0
        assert not rig.marked()
        if step == "claimed":  # and the child not let go yet
            assert not os.path.exists(f"{rig.folder}/proof")
        ended, _ = await rig.run("true")  # and the next one is served as ever
        assert ended.exit_code == 0
        # What the dead shim kept ahead, and its cgroup, went with it.
        if rig.supervisor.cgroup_base is not None:
            await eventually(lambda: not [name for name in _groups(rig) if not _shim_lives(name)])

    drive(body, zygote_argv=sabotaged(step))


def _groups(rig: Rig) -> list[str]:
    base = rig.supervisor.cgroup_base
    return cgroup.leftovers(base.path) if base is not None else []


def _shim_lives(group: str) -> bool:
    shim = record.parse_group(group)
    assert shim is not None, group
    return identity.alive(*shim)


#: A zygote whose shims wait for a file at a named step of the attempt.
WAITING = """
import os, sys, time
sys.path.append({root!r})
from p104d.processes import holding, zygote
def point(name):
    if name == {step!r}:
        open("{folder}/there", "w").close()
        while os.path.exists("{folder}/there") and not os.path.exists("{folder}/go"): time.sleep(0.01)
holding.point = point
zygote.main(int(sys.argv[1]))
"""


def waiting(rig: Rig, step: str) -> Rig:
    code = WAITING.format(root=ROOT, folder=rig.folder, step=step)
    return Rig(rig.folder, token=rig.token, zygote_argv=[sys.executable, "-I", "-S", "-X", "utf8", "-c", code])


@pytest.mark.parametrize("step", ["instructed", "allocated", "claimed"])
def test_nothing_is_executed_before_the_claim(step: str) -> None:
    """Its orders read and everything prepared, the child waits."""

    async def body(rig: Rig) -> None:
        await rig.supervisor.close()
        slow = waiting(rig, step)
        await slow.supervisor.start()
        key = slow.sh(f"touch {rig.folder}/proof")
        await eventually(lambda: os.path.exists(f"{rig.folder}/there"))
        assert slow.supervisor.look(key).kind is (LookKind.RUNNING if step == "claimed" else LookKind.UNCLAIMED)
        [shim] = [pid for pid in slow.shims() if slow.supervisor._watched[key].pid == pid]
        [child] = identity.children(shim)
        # Asleep in its read is as far as it may come.
        await eventually(lambda: _waits_in(child, "unix") or os.path.exists(f"{rig.folder}/proof"))
        assert not os.path.exists(f"{rig.folder}/proof")
        with open(f"{rig.folder}/go", "w"):
            pass
        assert (await slow.ended(key)).exit_code == 0
        assert os.path.exists(f"{rig.folder}/proof")
        await slow.supervisor.close()

    drive(body)


def _waits_in(pid: int, what: str) -> bool:
    with open(f"/proc/{pid}/wchan") as file:
        if what in file.read():
            return True
    with open(f"/proc/{pid}/status") as status:  # where the kernel hides wchan
        return "State:\tS" in status.read()


#: A zygote whose shims note the order of their syncs and of what they tell.
NOTING = """
import os, sys
sys.path.append({root!r})
from p104d.processes import holding, line, zygote
def note(text):
    with open("{folder}/noted", "a") as file: file.write(text + "\\n")
fsync, fdatasync, tell = os.fsync, os.fdatasync, line.Line.tell
def on_fsync(descriptor):
    if {broken} and not os.path.exists("{folder}/mended"):
        open("{folder}/mended", "w").close()
        raise OSError(5, "no")
    fsync(descriptor)
    note("folder" if os.path.isdir(f"/proc/self/fd/{{descriptor}}") else "file")
os.fsync = on_fsync
os.fdatasync = lambda descriptor: (fdatasync(descriptor), note("record"))
line.Line.tell = lambda self, message, events: (note(message["event"]), tell(self, message, events))
zygote.main(int(sys.argv[1]))
"""


@pytest.mark.parametrize("argv", [("true",), ("no-such-command",)], ids=["ran", "did not start"])
@pytest.mark.parametrize("broken", [False, True])
def test_claim_and_record_are_durable_before_the_end_is_told(argv: tuple[str, ...], broken: bool) -> None:
    async def body(rig: Rig) -> None:
        await rig.supervisor.close()
        code = NOTING.format(root=ROOT, folder=rig.folder, broken=broken and argv == ("true",))
        noting = Rig(rig.folder, token=rig.token, zygote_argv=[sys.executable, "-I", "-S", "-X", "utf8", "-c", code])
        await noting.supervisor.start()
        await noting.ended(noting.launch(*argv))
        with open(f"{rig.folder}/noted") as file:
            noted = file.read().split()
        # Not before the exec, which would wait for the disk; a disk that refused once is asked again.
        assert noted == [*(["running"] if argv == ("true",) else []), "record", "folder", "ended"]
        await noting.supervisor.close()

    drive(body)


def test_the_claim_of_a_job_that_goes_on_is_durable_before_its_end() -> None:
    async def body(rig: Rig) -> None:
        await rig.supervisor.close()
        code = NOTING.format(root=ROOT, folder=rig.folder, broken=False)
        noting = Rig(rig.folder, token=rig.token, zygote_argv=[sys.executable, "-I", "-S", "-X", "utf8", "-c", code])
        await noting.supervisor.start()
        key = noting.sh(f"while ! grep -q folder {rig.folder}/noted; do sleep 0.02; done")
        assert (await noting.ended(key)).exit_code == 0
        with open(f"{rig.folder}/noted") as file:
            assert file.read().split() == ["running", "folder", "record", "ended"]
        await noting.supervisor.close()

    drive(body)


@pytest.mark.parametrize("cgroups", [True, False], ids=["cgroup", "token"])
def test_a_job_dies_with_its_shim_and_its_children_are_swept(cgroups: bool) -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh("setsid sleep 300 & setsid sleep 300 & echo up; exec sleep 300")
        running = await rig.running(key)
        await eventually(lambda: "up" in rig.log(key))
        look = rig.supervisor.look(key)
        assert (look.kind, look.job_pid) == (LookKind.RUNNING, running.pid)
        assert look.pid is not None
        os.kill(look.pid, signal.SIGKILL)
        event = await rig.until(Ended, key)
        assert event.look.kind is LookKind.DEAD
        await eventually(lambda: not is_alive(running.pid))
        assert len(rig.marked()) == 2
        assert await rig.supervisor.sweep(key) == 0
        assert not rig.marked()

    drive(body, cgroups=cgroups)


def test_sweeping_a_living_attempt_does_nothing() -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh("sleep 300")
        running = await rig.running(key)
        assert await rig.supervisor.sweep(key) == 0
        assert is_alive(running.pid)
        rig.supervisor.kill(key)
        await rig.ended(key)

    drive(body)


@pytest.mark.parametrize("cgroups", [True, False], ids=["cgroup", "token"])
def test_shims_killed_at_random_moments(cgroups: bool) -> None:
    async def body(rig: Rig) -> None:
        for number in range(40):
            key = rig.sh("echo ran >> proof-$N; setsid sleep 300 & sleep 0.01", cwd=rig.folder,
                         env={"PATH": os.environ["PATH"], "N": str(number)})  # fmt: skip
            await asyncio.sleep(number * 0.0007)
            for pid in rig.shims():
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
            event = await rig.until((Ended, LaunchFailed), key)  # type: ignore[arg-type]
            proof = f"{rig.folder}/proof-{number}"
            if isinstance(event, LaunchFailed):
                assert not os.path.exists(proof)
            elif event.look.exit is not None:
                assert event.look.exit.exit_code == 0
            await rig.supervisor.sweep(key)
            assert not rig.marked()
            if os.path.exists(proof):
                with open(proof) as file:
                    assert file.read() in ("", "ran\n")

    drive(body, cgroups=cgroups)


def test_the_zygote_can_be_killed_at_any_time() -> None:
    async def body(rig: Rig) -> None:
        long = rig.sh("sleep 1; exit 9")
        await rig.running(long)
        keys = []
        for number in range(30):
            pid = rig.supervisor._launcher.pid  # type: ignore[attr-defined]
            if pid is not None and number % 3 == 0:
                os.kill(pid, signal.SIGKILL)
            keys.append(rig.sh(f"exit {number}"))
            await asyncio.sleep(0.01)
        for number, key in enumerate(keys):
            assert (await rig.ended(key)).exit_code == number
        assert (await rig.ended(long)).exit_code == 9

    drive(body)


#: A daemon that launches a few jobs, says so, and waits to be killed.
DAEMON = """
import asyncio, json, os, sys
sys.path.insert(0, {tests!r})
from process_rig import Rig
async def main():
    rig = Rig(sys.argv[1], token=sys.argv[2])
    await rig.supervisor.start()
    keys = [rig.sh(script) for script in json.loads(sys.argv[3])]
    for key in keys:
        await rig.running(key)
    launcher = rig.supervisor._launcher
    print(json.dumps([launcher.pid, *(shim.pid for shim in launcher._idle)]), flush=True)
    await asyncio.sleep(300)
asyncio.run(main())
"""


def test_jobs_outlive_a_killed_daemon_and_are_adopted() -> None:
    async def body(rig: Rig) -> None:
        wait = f"while [ ! -e {rig.folder}/go ]; do sleep 0.02; done"
        scripts = [f"{wait}; exit 5", f"{wait}; kill -SEGV $$", "exit 6", "setsid sleep 300 & sleep 300"]
        helpers = await asyncio.to_thread(_run_daemon_and_kill_it, rig, scripts)
        await eventually(lambda: not [pid for pid in helpers if is_alive(pid)])
        await rig.supervisor.start()  # the killed one's socket is taken over
        first, second, third, fourth = (Key("job", number, 1) for number in (1, 2, 3, 4))
        assert rig.supervisor.adopt(first) and rig.supervisor.adopt(second)
        assert not rig.supervisor.adopt(third)
        look = rig.supervisor.look(third)
        assert look.kind is LookKind.ENDED and look.exit is not None and look.exit.exit_code == 6
        assert (await rig.until(Running, first)).pid == rig.supervisor.look(first).job_pid
        assert rig.supervisor.owner_of(rig.supervisor.look(first).job_pid or 0) == first
        with open(f"{rig.folder}/go", "w"):
            pass
        assert (await rig.ended(first)).exit_code == 5
        assert (await rig.ended(second)).signal == signal.SIGSEGV
        assert rig.supervisor.stop(fourth)  # not adopted before: found by its claim
        assert (await rig.ended(fourth)).reason == "stopped"
        assert not rig.marked()
        await eventually(lambda: not [name for name in _groups(rig) if int(name.split("-")[1]) not in rig.shims()])

    async def with_unstarted(rig: Rig) -> None:
        await rig.supervisor.close()
        await body(rig)

    drive(with_unstarted)


def test_adopted_shims_do_not_stay() -> None:
    async def body(rig: Rig) -> None:
        await rig.supervisor.close()
        await asyncio.to_thread(_run_daemon_and_kill_it, rig, [f"while [ ! -e {rig.folder}/go ]; do sleep 0.02; done"])
        await rig.supervisor.start()
        key = Key("job", 1, 1)
        assert rig.supervisor.adopt(key)
        shim = rig.supervisor.look(key).pid
        with open(f"{rig.folder}/go", "w"):
            pass
        await rig.ended(key)
        assert shim is not None
        await eventually(lambda: not is_alive(shim))

    drive(body)


def _run_daemon_and_kill_it(rig: Rig, scripts: list[str]) -> list[int]:
    """Returns the pids of its zygote and idle shims."""
    code = DAEMON.format(tests=os.path.dirname(os.path.abspath(__file__)))
    with subprocess.Popen(
        [sys.executable, "-c", code, rig.folder, rig.token, json.dumps(scripts)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
    ) as daemon:
        assert daemon.stdout is not None
        helpers = [int(pid) for pid in json.loads(daemon.stdout.readline())]
        daemon.kill()
    return helpers


def test_a_suspended_zygote_is_not_waited_for_for_ever() -> None:
    async def body(rig: Rig) -> None:
        await rig.run("true")
        zygote = rig.supervisor._launcher.pid  # type: ignore[attr-defined]
        os.kill(zygote, signal.SIGSTOP)
        try:
            keys = [rig.sh("sleep 0.05; echo ran >> $0") for _ in range(40)]
            told = [await rig.until((Ended, LaunchFailed), key) for key in keys]  # type: ignore[arg-type]
        finally:
            os.kill(zygote, signal.SIGCONT)
        failed = [event for event in told if isinstance(event, LaunchFailed)]
        assert all(rig.supervisor.look(event.key).kind is LookKind.REVOKED for event in failed)
        assert failed

    drive(body, claim_seconds=0.5)
