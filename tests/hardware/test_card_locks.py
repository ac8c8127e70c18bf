"""One card, one daemon."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from p104d.core.errors import RefusedError
from p104d.hardware.locks import CardLocks

UUID = "GPU-0a61bd0a-50b9-58f7-afbe-98ce6c4a9812"
HOLD = """
import sys
from p104d.hardware.locks import CardLocks
locks = CardLocks(sys.argv[2:])
print(locks.acquire(sys.argv[1]), flush=True)
sys.stdin.read()
"""


def other_daemon(*directories: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    return subprocess.Popen([sys.executable, "-c", HOLD, UUID, *map(str, directories)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)  # fmt: skip


def test_only_one_has_it_until_it_dies(tmp_path: Path) -> None:
    mine = CardLocks([str(tmp_path)])
    with other_daemon(tmp_path) as other:
        assert other.stdout.readline() == "True\n"
        assert not mine.acquire(UUID)
        assert mine.holder(UUID) == other.pid
        assert mine.acquire("GPU-another")
        other.kill()
        other.wait()
        assert mine.holder(UUID) is None
        assert mine.acquire(UUID)
        assert mine.acquire(UUID)
        assert mine.holder(UUID) == os.getpid()
    with other_daemon(tmp_path) as third:
        assert third.stdout.readline() == "False\n"
        third.stdin.close()
    mine.release_all()
    with other_daemon(tmp_path) as fourth:
        assert fourth.stdout.readline() == "True\n"
        fourth.stdin.close()


def test_others_may_open_the_file_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        locks = CardLocks([str(tmp_path)])
        assert locks.acquire(UUID)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / f"p104d-{UUID}.lock").stat().st_mode) == 0o666
    locks.release_all()


def test_two_daemons_that_share_one_folder_of_two_exclude_each_other(tmp_path: Path) -> None:
    system, temporary = tmp_path / "system", tmp_path / "temporary"
    system.mkdir()
    temporary.mkdir()
    with other_daemon(tmp_path / "missing", temporary) as other:
        assert other.stdout.readline() == "True\n"
        assert not CardLocks([str(system), str(temporary)]).acquire(UUID)
        other.stdin.close()


def test_links_and_pipes_in_the_way_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    (tmp_path / f"p104d-{UUID}.lock").symlink_to(target)
    os.mkfifo(tmp_path / "p104d-GPU-pipe.lock")
    locks = CardLocks([str(tmp_path)])
    for uuid in (UUID, "GPU-pipe"):
        with pytest.raises(RefusedError):
            locks.acquire(uuid)
        assert locks.holder(uuid) is None
    assert target.read_text() == "kept"
    with pytest.raises(ValueError, match="no card"):
        locks.acquire("../../etc/passwd")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
def test_another_user_takes_it_in_a_sticky_folder() -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o1777)
    locks = CardLocks([str(folder)])
    try:
        assert locks.acquire(UUID)
        locks.release_all()
        child = os.fork()
        if child == 0:
            code = 3
            try:
                os.setgid(65534)
                os.setuid(65534)
                code = 0 if CardLocks([str(folder)]).acquire(UUID) else 1
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        shutil.rmtree(folder)
