"""A job's log: capped, rotated, followed, and never in the job's way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from process_rig import Rig, drive, eventually

from p104d.processes import logs
from p104d.processes.attempt import Key, LookKind
from p104d.processes.output import Log

MIB = 2**20


@contextmanager
def open_log(limit: int, rate: int) -> Iterator[tuple[Log, str]]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        log = Log(descriptor, limit, rate)
        try:
            yield log, folder
        finally:
            log.close()
            os.close(descriptor)


def test_the_newest_half_is_kept_when_the_log_rotates() -> None:
    with open_log(limit=20_000, rate=10**9) as (log, folder):
        for number in range(1000):
            log.write(b"%07d\n" % number * 10)
        whole = logs.read(folder)
        assert 10_000 <= len(whole) <= 20_000
        assert whole.endswith(b"0000999\n")
        assert (log.written, log.dropped) == (80_000, 0)
        numbers = [int(line) for line in whole.splitlines()]
        assert numbers == sorted(numbers) and numbers[-1] - numbers[0] == len(set(numbers)) - 1
        assert {os.stat(f"{folder}/{name}").st_mode & 0o777 for name in ("log", "log.1")} == {0o600}


def test_output_beyond_the_rate_is_dropped_counted_and_noted_but_for_its_end() -> None:
    with open_log(limit=200_000, rate=1) as (log, folder):
        for number in range(100):
            log.write(b"%03d " % number * 10_000)
        assert 0 < log.written <= MIB  # the burst
        log.close()
        whole = logs.read(folder)
        assert log.written + log.dropped == 4_000_000
        assert b"bytes of output were not kept here]" in whole
        assert whole.endswith(b"099 " * 1000)


def test_a_symlink_in_the_logs_place_is_not_followed() -> None:
    with open_log(limit=20_000, rate=10**9) as (log, folder):
        os.symlink(f"{folder}/elsewhere", f"{folder}/log")
        log.write(b"secret")
        assert not os.path.exists(f"{folder}/elsewhere")
        assert log.dropped == 6


def test_a_job_that_floods_its_log_neither_fills_the_disk_nor_waits() -> None:
    async def body(rig: Rig) -> None:
        script = "timeout 2 yes p104d-floods-its-log; echo; echo the end; exit 4"
        key = rig.sh(script, log_limit_bytes=4 * MIB, log_rate_bytes=MIB)
        other = rig.launch("true")
        assert (await rig.ended(other)).exit_code == 0  # beside it, others go on
        ended = await rig.ended(key)
        folder = rig.supervisor.folder(key)
        assert ended.exit_code == 4
        assert (
            sum(os.stat(f"{folder}/{name}").st_size for name in ("log", "log.1") if _there(folder, name)) <= 4.2 * MIB
        )
        assert ended.log_bytes <= 8 * MIB
        assert ended.dropped_bytes > 50 * MIB  # it was not slowed down to the disk's pace
        text = logs.read(folder)
        assert b"bytes of output were not kept here]" in text
        assert text.endswith(b"the end\n")

    drive(body)


def test_what_is_still_in_the_pipe_at_the_end_is_kept() -> None:
    async def body(rig: Rig) -> None:
        for _ in range(10):
            ended, log = await rig.run("head", "-c", "65536", "/dev/zero")
            assert (ended.exit_code, ended.log_bytes, len(log)) == (0, 65536, 65536)

    drive(body)


def _there(folder: str, name: str) -> bool:
    return os.path.exists(f"{folder}/{name}")


@contextmanager
def tiny_disk() -> Iterator[str]:
    """A file system of 256 KiB, where this may mount one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=64", "tmpfs", folder], check=False)
        if mounted.returncode:
            pytest.skip("needs the right to mount a tmpfs")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_costs_log_lines_but_not_the_exit_code() -> None:
    with tiny_disk() as disk:

        async def body(rig: Rig) -> None:
            key = rig.sh("head -c 2000000 /dev/zero; exit 23")
            ended = await rig.ended(key)
            assert ended.exit_code == 23
            assert ended.dropped_bytes > 1_700_000
            _assert_full(disk)
            assert rig.supervisor.look(key).kind is LookKind.ENDED

        drive(body, roots={"job": disk})


def test_a_disk_filled_while_a_job_runs_does_not_cost_its_exit_code() -> None:
    with tiny_disk() as disk:

        async def body(rig: Rig) -> None:
            key = rig.sh(f"while [ ! -e {rig.folder}/go ]; do sleep 0.02; done; echo last; exit 24")
            await rig.running(key)
            _fill(disk)
            _assert_full(disk)
            with open(f"{rig.folder}/go", "w"):
                pass
            ended = await rig.ended(key)
            assert (ended.exit_code, ended.dropped_bytes) == (24, 5)

        drive(body, roots={"job": disk})


def _fill(disk: str) -> None:
    with pytest.raises(OSError), open(f"{disk}/filler", "wb", buffering=0) as filler:
        while filler.write(bytes(1024)):
            pass


def _assert_full(disk: str) -> None:
    assert os.statvfs(disk).f_bavail == 0


def test_nothing_starts_on_a_full_disk_and_that_is_told() -> None:
    with tiny_disk() as disk:
        folder = f"{disk}/0/1-1"
        os.makedirs(folder)
        _fill(disk)

        async def body(rig: Rig) -> None:
            from p104d.processes.events import LaunchFailed

            key = rig.sh(f"echo ran > {rig.folder}/proof")
            await rig.until(LaunchFailed, key)
            assert not os.path.exists(f"{rig.folder}/proof")

        drive(body, roots={"job": disk})


def test_read_takes_any_part() -> None:
    with open_log(limit=20_000, rate=10**9) as (log, folder):
        assert logs.read(folder) == b"" and logs.size(folder) == 0
        text = b"".join(b"%07d\n" % number for number in range(1500))
        log.write(text)
        assert _there(folder, "log.1")
        whole = logs.read(folder)
        assert text.endswith(whole) and logs.size(folder) == len(whole)
        for offset, limit in ((0, 10), (5, 3), (9_990, 100), (len(whole) - 3, 10), (len(whole) + 9, 10), (0, 0)):
            assert logs.read(folder, offset=offset, limit=limit) == whole[offset : offset + limit]
        assert logs.read(folder, tail=25) == whole[-25:]
        assert logs.read(folder, tail=10**9) == whole
        assert logs.tail_lines(folder, 2) == b"0001498\n0001499\n"
        assert logs.tail_lines(folder, 0) == b""
        assert logs.tail_lines(folder, 10**6) == whole


async def _collect(folder: str, **options: int) -> bytes:
    return b"".join([piece async for piece in logs.follow(folder, **options)])


def test_following_shows_everything_in_order_across_rotations_and_ends_with_the_job() -> None:
    async def body(rig: Rig) -> None:
        script = "i=0; while [ $i -lt 4000 ]; do echo line-$i; i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.01; done"
        spec = rig.spec("/bin/sh", "-c", script, log_limit_bytes=16_384)
        following = asyncio.create_task(_collect(rig.supervisor.folder(spec.key)))
        rig.supervisor.launch(spec)
        text = await asyncio.wait_for(following, 30)
        ended = await rig.ended(spec.key)
        assert ended.exit_code == 0
        numbers = [int(line.split(b"-")[1]) for line in text.splitlines()]
        assert numbers[-1] == 3999
        assert numbers == sorted(set(numbers))
        assert len(numbers) > 3900  # a follower on a loaded machine may miss a file that was replaced twice

    drive(body)


def test_a_line_is_seen_soon_after_it_was_printed() -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh(f"echo first; while [ ! -e {rig.folder}/go ]; do sleep 0.02; done; echo second")
        await rig.running(key)
        pieces = logs.follow(rig.supervisor.folder(key))
        assert await asyncio.wait_for(anext(pieces), 10) == b"first\n"
        with open(f"{rig.folder}/go", "w"):
            pass
        begun = time.monotonic()
        assert await asyncio.wait_for(anext(pieces), 10) == b"second\n"
        assert time.monotonic() - begun < 5
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(pieces), 10)

    drive(body)


def test_following_from_a_tail_or_an_offset() -> None:
    async def body(rig: Rig) -> None:
        key = rig.launch("printf", "0123456789")
        await rig.ended(key)
        folder = rig.supervisor.folder(key)
        assert await _collect(folder, tail=3) == b"789"
        assert await _collect(folder, offset=4) == b"456789"
        assert await _collect(folder) == b"0123456789"

    drive(body)


def test_following_ends_when_the_shim_was_killed_or_the_folder_is_gone() -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh("echo up; exec sleep 300")
        folder = rig.supervisor.folder(key)
        following = asyncio.create_task(_collect(folder))
        await eventually(lambda: rig.log(key))
        pid = rig.supervisor.look(key).pid
        assert pid is not None
        os.kill(pid, 9)
        assert await asyncio.wait_for(following, 10) == b"up\n"
        await rig.supervisor.sweep(key)
        rig.supervisor.remove_folder(key)
        assert await asyncio.wait_for(_collect(folder), 10) == b""
        rig.supervisor.remove_folder(Key("job", 999, 1))  # not there: nothing to do

    drive(body)


def test_followers_take_few_of_the_hosts_watches() -> None:
    """Those beyond see all the same what comes, by the timer, and each lets go of what it has."""

    def instances() -> int:
        held = 0
        for entry in os.scandir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                held += "inotify" in os.readlink(entry.path)
        return held

    async def body(rig: Rig) -> None:
        before = instances()
        for _ in range(2):
            key = rig.sh(f"echo first; while [ ! -e {rig.folder}/go ]; do sleep 0.02; done; echo last")
            await rig.running(key)
            folder = rig.supervisor.folder(key)
            followers = [logs.follow(folder) for _ in range(40)]
            assert {await anext(each) for each in followers} == {b"first\n"}
            waiting = [asyncio.ensure_future(anext(each)) for each in followers]
            await eventually(lambda: instances() - before >= logs._MOST_WATCHES)
            assert instances() - before == logs._MOST_WATCHES
            open(f"{rig.folder}/go", "w").close()
            assert set(await asyncio.gather(*waiting)) == {b"last\n"}
            for each in followers:
                await each.aclose()
            assert instances() == before
            await rig.ended(key)
            os.unlink(f"{rig.folder}/go")

    drive(body)
