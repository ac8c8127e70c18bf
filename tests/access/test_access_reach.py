"""The tests' own way in for other users: it opens what is needed and nothing else, and leaves the host as it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from access_rig import BOB, need_others
from reach import acting, opened


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A home that nobody else may enter, with a program in it that is reached by links, and a secret."""
    need_others()
    home = tmp_path / "home"
    for folder in ("python/3.11/lib", "checkout", "bin"):
        (home / folder).mkdir(parents=True)
    (home / "python/3.11/lib/program").write_text("program\n")
    (home / "checkout/file").write_text("file\n")
    (home / "python/current").symlink_to("3.11")
    (home / "bin/program").symlink_to(home / "python/current/lib/program")
    (home / "secret").write_text("secret\n")
    for path in (home, *home.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    home.chmod(0o700)
    return home


def told(prefix: list[str], *command: object) -> str:
    """What a command of BOB's says, errors too."""
    as_bob = acting(BOB.uid, BOB.gid)[-5:]
    done = subprocess.run(
        [*prefix, *as_bob, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout


def test_what_is_needed_is_reached_and_nothing_else(private: Path) -> None:
    before = told([], "cat", private / "checkout/file")
    assert "Permission denied" in before
    prefix = opened([str(private / "checkout"), str(private / "bin/program")])
    assert told(prefix, "cat", private / "checkout/file") == "file\n"
    assert told(prefix, "cat", private / "bin/program") == "program\n"
    assert "No such file" in told(prefix, "cat", private / "secret")
    assert told([], "cat", private / "checkout/file") == before and private.stat().st_mode & 0o777 == 0o700


def test_a_private_folder_that_is_needed_itself(private: Path) -> None:
    (private / "checkout").chmod(0o700)
    prefix = opened([str(private / "checkout")])
    assert told(prefix, "cat", private / "checkout/file") == "file\n"
    assert "No such file" in told(prefix, "ls", private / "python")


def test_where_everybody_may_pass_nothing_is_done() -> None:
    assert opened(["/usr/bin", "/bin/sh"]) == []


def test_the_umask_is_left_alone(private: Path) -> None:
    prefix = ["sh", "-c", 'umask 027; exec "$@"', "sh", *opened([str(private / "checkout")])]
    assert told(prefix, "sh", "-c", "umask; cat " + str(private / "checkout/file")) == "0027\nfile\n"
