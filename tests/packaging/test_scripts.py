"""make, its scripts, and what they say when something is missing."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from packaging_support import ROOT, code, document

SCRIPTS = sorted([*ROOT.glob("tools/*.sh"), ROOT / ".ci" / "run"])


def executable(path: Path, text: str) -> Path:
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def run(*command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script of the checkout."""
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    shell = "bash" if "bash" in script.read_text().splitlines()[0] else "sh"
    assert subprocess.run([shell, "-n", str(script)], check=False).returncode == 0


def targets() -> set[str]:
    """The targets that `make help` lists."""
    return set(re.findall(r"echo '(?:sudo )?make (\w+)", document("Makefile").split("help:\n")[1].split("\n\n")[0]))


def test_targets_of_the_documents_exist(environment: dict[str, str]) -> None:
    phony = set(re.search(r"\.PHONY:(.*)", document("Makefile"))[1].split())  # type: ignore[index]
    assert targets() | {"help", "lint", "ptx-check"} == phony
    for name in ("README.md", "CONTRIBUTING.md", "docs/install.md"):
        text = document(name)
        called = re.findall(r"^(?:sudo )?make (\w+)", text, re.MULTILINE)
        called += [word for span in code(text) for word in re.findall(r"^(?:sudo )?make (\w+)", span)]
        assert set(called) <= phony, name


@pytest.mark.parametrize("target", sorted(targets()))
def test_targets_can_be_planned(target: str, environment: dict[str, str]) -> None:
    planned = run("make", "--dry-run", "--no-print-directory", target, env=environment)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout


def fake_python(folder: Path, *, version_ok: bool, venv_ok: bool) -> Path:
    """A Python that says what is asked of it: old, or without the venv module."""
    return executable(
        folder / "python",
        f"""#!/bin/sh
case "$*" in
*version_info*) exit {0 if version_ok else 1} ;;
*ensurepip*) exit {0 if venv_ok else 1} ;;
-V) echo Python 3.9.2 ;;
esac
""",
    )


@pytest.mark.parametrize(
    ("version_ok", "venv_ok", "says"),
    [
        (False, True, "is Python 3.9.2, p104d needs Python 3.11 or newer"),
        (True, False, "no venv module; on Debian: sudo apt install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_one_clear_line(
    tmp_path: Path, environment: dict[str, str], version_ok: bool, venv_ok: bool, says: str
) -> None:
    python = fake_python(tmp_path, version_ok=version_ok, venv_ok=venv_ok)
    done = run("tools/venv.sh", str(tmp_path / "venv"), "test", env={**environment, "PYTHON": str(python)})
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "venv").exists()


def test_no_python_is_one_clear_line(tmp_path: Path, environment: dict[str, str]) -> None:
    done = run("tools/venv.sh", str(tmp_path / "venv"), "test", env={**environment, "PYTHON": "python-of-dreams"})
    assert done.returncode == 1
    assert re.fullmatch(r"p104d: no python-of-dreams here; .*apt install python3.*\n", done.stderr)


def test_stamps_are_renewed_only_with_pyproject(environment: dict[str, str]) -> None:
    rule = re.search(r"^\$\(VENV\)/\.stamp-%: (.*)$", document("Makefile"), re.MULTILINE)
    assert rule
    assert "pyproject.toml" in rule[1]


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A DESTDIR where the package part is done already: this Python stands in for /opt/p104d's."""
    destination = tmp_path / "staged"
    executable(destination / "opt/p104d/bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    return destination


def install(destination: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Install the files below ``destination``."""
    return run("tools/install.sh", "files", env={**env, "DESTDIR": str(destination)})


def files(folder: Path) -> set[str]:
    """Every file and link below ``folder``."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


INSTALLED = {
    "usr/local/bin/p104d",
    "usr/local/bin/p104ctl",
    "etc/systemd/system/p104d.service",
    "etc/sysusers.d/p104d.conf",
    "etc/tmpfiles.d/p104d.conf",
    "etc/p104d/config.toml",
    "usr/local/share/man/man1/p104ctl.1",
    "usr/local/share/man/man1/p104ctl-submit.1",
    "usr/local/share/bash-completion/completions/p104ctl",
}


def test_install_puts_everything_in_its_place(staged: Path, environment: dict[str, str]) -> None:
    done = install(staged, environment)
    assert done.returncode == 0, done.stderr
    assert files(staged) >= INSTALLED
    assert os.readlink(staged / "usr/local/bin/p104ctl") == "/opt/p104d/bin/p104ctl"
    assert stat.S_IMODE((staged / "etc/p104d/config.toml").stat().st_mode) == 0o640
    assert "complete" in (staged / "usr/local/share/bash-completion/completions/p104ctl").read_text()
    assert (staged / "etc/systemd/system/p104d.service").read_text() == document("systemd/p104d.service")
    assert str(staged) not in (staged / "usr/local/share/man/man1/p104ctl.1").read_text()


def test_install_again_keeps_the_configuration(staged: Path, environment: dict[str, str]) -> None:
    install(staged, environment)
    (staged / "etc/p104d/config.toml").write_text("cpu_jobs = 3\n")
    done = install(staged, environment)
    assert done.returncode == 0, done.stderr
    assert (staged / "etc/p104d/config.toml").read_text() == "cpu_jobs = 3\n"
    assert f"kept      {staged}/etc/p104d/config.toml" in done.stdout


def test_uninstall_leaves_configuration_and_state(staged: Path, environment: dict[str, str]) -> None:
    install(staged, environment)
    (staged / "var/lib/p104d").mkdir(parents=True)
    (staged / "var/lib/p104d/queue.db").write_text("kept")
    done = run("tools/uninstall.sh", env={**environment, "DESTDIR": str(staged)})
    assert done.returncode == 0, done.stderr
    assert files(staged) == {"etc/p104d/config.toml", "var/lib/p104d/queue.db"}


def test_destination_has_to_be_absolute(environment: dict[str, str]) -> None:
    done = run("tools/install.sh", "files", env={**environment, "DESTDIR": "somewhere"})
    assert done.returncode == 1
    assert "absolute" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may install")
def test_install_needs_root(environment: dict[str, str]) -> None:
    for script in ("tools/install.sh", "tools/uninstall.sh"):
        done = run(script, env=environment)
        assert done.returncode == 1
        assert f"sudo make {script[6:-3]}" in done.stderr


def test_ci_runs_the_command_of_the_readme() -> None:
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make --no-print-directory check")
    assert "make check" in document("CONTRIBUTING.md")
    # pytest's closing line is the last one: the tests are the last thing that `check` does.
    assert re.search(r"^check: lint ptx-check test$", document("Makefile"), re.MULTILINE)
