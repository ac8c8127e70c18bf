"""Help, man pages, completion: all documented, all from the same texts; and what a call loads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_daemon import job, rig, status

from p104d.cli import man
from p104d.cli.describe import describe_program, describe_verbs
from p104d.cli.local_checks import local_checks
from p104d.cli.verbs import VERBS

ALL = describe_verbs()


def test_every_verb_is_a_file_and_every_file_a_verb():
    folder = Path(sys.modules["p104d.cli.verbs"].__file__ or "").parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(VERBS)


@pytest.mark.parametrize("verb", ALL, ids=lambda verb: verb.name)
def test_every_verb_and_option_is_documented(verb):
    assert verb.short == VERBS[verb.name] and verb.short.endswith(".") and len(verb.short) <= 75
    assert len(verb.help) > 20 and verb.usage.startswith("[OPTIONS]")
    for option in verb.options:
        assert len(option.help) > 5 and option.help.endswith("."), option


def test_verbs_with_something_to_read_have_json():
    without = {verb.name for verb in ALL if not any("--json" in option.names for option in verb.options)}
    assert without == {"logs", "top", "completion"}


def test_help_lists_all_verbs_and_loads_none(spawn):
    code = "import sys; from p104d.cli.main import main; main(['--help']); print(*sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    text, _, modules = out.rstrip().rpartition("\n")
    assert all(f"  {verb} " in text for verb in VERBS)
    assert not [name for name in modules.split() if name.startswith("p104d.cli.verbs.")]
    assert "p104d.api.client" not in modules


def modules(code: str, *arguments: str) -> set[str]:
    """What an interpreter with nothing of the tests in it has loaded after ``code``."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; {code}; print('MODULES', *sys.modules)"
    command = [sys.executable, "-I", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.partition("MODULES")[2].split())


@pytest.mark.parametrize("arguments", [["status", "--json"], ["status"], ["list"], ["cancel", "1"]])
def test_a_call_loads_nothing_heavy(daemon, arguments):
    daemon.answers["GET", "/v1/status"] = status()
    daemon.answers["GET", "/v1/jobs"] = {"jobs": [job(1)]}
    daemon.answers["POST", "/v1/jobs/cancel"] = {"jobs": [job(1)]}
    loaded = modules("from p104d.cli.main import main; main(sys.argv[1:])", "--socket", daemon.path, *arguments)
    heavy = {"rich", "msgspec", "yaml", "asyncio", "ssl", "http", "http.client", "urllib.request", "email", "aiohttp"}
    heavy |= {"pathlib", "subprocess", "tempfile", "shutil", "logging", "ctypes", "importlib.metadata", "difflib"}
    assert not (heavy & loaded) - modules("import click")
    assert {"p104d.cli.verbs." + arguments[0], "p104d.api.client"} <= loaded
    assert len({name for name in loaded if name.startswith("p104d.cli.verbs.")}) == 1


def test_man_pages_of_all_verbs(tmp_path):
    assert man.main([str(tmp_path / "man1")]) == 0 and man.main([]) == 2
    written = {path.name for path in (tmp_path / "man1").iterdir()}
    assert written == {"p104ctl.1"} | {f"p104ctl-{verb}.1" for verb in VERBS}
    for verb in ALL:
        page = (tmp_path / "man1" / f"p104ctl-{verb.name}.1").read_text()
        for option in verb.options:
            assert all(man.escape(name) in page for name in option.names)
    assert all(
        man.escape(option.names[-1]) in (tmp_path / "man1/p104ctl.1").read_text()
        for option in describe_program().options
    )


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_man_pages_are_sound_troff():
    for page in [man.program_page(), *map(man.verb_page, ALL)]:
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, text=True, capture_output=True, check=True
        )
        assert done.stderr == ""


def test_troff_escapes():
    assert man.escape("a-b\\c 'd' .e") == "a\\-b\\ec \\(aqd\\(aq .e"
    assert man.escape(".so /etc/passwd").startswith("\\&.")


def complete(daemon, words: str, monkeypatch) -> list[str]:
    environment = {**os.environ, "P104_SOCKET": daemon.path, "_P104CTL_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    command = [sys.executable, "-m", "p104d.cli.main"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.split()]


def test_completion_of_verbs_options_jobs_and_cards(daemon, monkeypatch):
    daemon.answers["GET", "/v1/jobs"] = {"jobs": [job(12), job(13), job(2)]}
    daemon.answers["GET", "/v1/cards"] = {"cards": rig()}
    assert complete(daemon, "p104ctl ca", monkeypatch) == ["cancel", "cards"]
    assert complete(daemon, "p104ctl show 1", monkeypatch) == ["12", "13"]
    assert complete(daemon, "p104ctl drain ", monkeypatch) == ["0", "1", "2", "3"]
    assert complete(daemon, "p104ctl submit --k", monkeypatch) == ["--keep-env"]
    assert complete(daemon, "p104ctl schedules h", monkeypatch) == ["hold"]


def test_completion_is_silent_without_a_daemon(daemon, monkeypatch):
    daemon.answers["GET", "/v1/jobs"] = {"jobs": None}
    assert complete(daemon, "p104ctl show 1", monkeypatch) == []
    daemon.path = "/nonexistent"
    assert complete(daemon, "p104ctl show 1", monkeypatch) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(ctl, shell):
    script = ctl("completion", shell).out
    assert "_P104CTL_COMPLETE" in script and "p104ctl" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, capture_output=True)


def host(root: Path, *, card: bool = False, driver: bool = False, nouveau: bool = False, devices: int = 0) -> str:
    pci = root / "sys/bus/pci/devices"
    for address, vendor, kind in (("0000:00:02.0", "0x8086", "0x030000"), ("0000:01:00.0", "0x10de", "0x030200")):
        if vendor == "0x8086" or card:
            (pci / address).mkdir(parents=True)
            (pci / address / "vendor").write_text(vendor + "\n")
            (pci / address / "class").write_text(kind + "\n")
    if driver:
        (root / "proc/driver/nvidia").mkdir(parents=True)
        (root / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01\n")
    if nouveau:
        (root / "sys/module/nouveau").mkdir(parents=True)
    (root / "dev").mkdir()
    for name in ["nvidiactl", *(f"nvidia{index}" for index in range(devices))][: devices and devices + 1]:
        (root / "dev" / name).touch()
    return str(root)


def checks(root: str) -> dict[str, dict]:
    return {
        check["text"].split("/")[-1].split(":")[0] if check["name"] == "device" else check["name"]: check
        for check in local_checks("/nonexistent", {}, root)
    }


def test_doctor_without_a_daemon_nor_cards_finds_nothing_broken(tmp_path):
    found = checks(host(tmp_path))
    assert found["cards"]["ok"] is None and found["driver"]["ok"] is None and found["nvidiactl"]["ok"] is None
    assert found["socket"]["ok"] is None and "p104d --simulate" in found["socket"]["mend"]


def test_doctor_with_cards_but_no_driver(tmp_path):
    found = checks(host(tmp_path, card=True, nouveau=True))
    assert found["cards"]["ok"] is True and "0000:01:00.0" in found["cards"]["text"]
    assert found["driver"]["ok"] is False and "nouveau" in found["driver"]["mend"]
    assert found["nvidiactl"]["ok"] is False and found["nvidiactl"]["mend"]


def test_doctor_with_all_in_place(tmp_path):
    found = checks(host(tmp_path, card=True, driver=True, devices=2))
    assert found["driver"]["ok"] is True and "535" in found["driver"]["text"] and found["driver"]["mend"] is None
    assert found["nvidiactl"]["ok"] and found["nvidia0"]["ok"] and found["nvidia1"]["ok"]


def test_doctor_sees_missing_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = checks(host(tmp_path, card=True, driver=True, devices=1))
    assert found["nvidia0"]["ok"] is False and "adduser" in found["nvidia0"]["mend"]


def test_doctor_without_a_daemon_ends_with_three(ctl):
    result = ctl("--socket", "/nonexistent", "doctor")
    assert result.code == 3 and "socket" in result.out and result.err.count("\n") == 1
