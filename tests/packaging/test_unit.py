"""The systemd unit, by systemd's own judgement; skipped where systemd's tools are not installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging_support import ROOT

from p104d.daemon.config import ModelsConfig
from p104d.daemon.server_launch import KIND
from p104d.processes.attempt import Key
from p104d.processes.launchers import unit_of

UNIT = ROOT / "systemd" / "p104d.service"
#: systemd's exposure levels times ten: 3.0 is what PostgreSQL and Slurm ship, or better.
THRESHOLD = 30

with_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def settings() -> dict[str, list[str]]:
    """The unit's settings, each with its values in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@with_systemd
def test_exposure_is_below_the_threshold() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={THRESHOLD}", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr


@with_systemd
def test_verify_has_nothing_to_say(tmp_path: Path) -> None:
    # The command is where `make install` puts it; here something that exists stands in for it.
    text = UNIT.read_text().replace("/opt/p104d/bin/p104d --system", "/bin/true")
    copy = tmp_path / "p104d.service"
    copy.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_jobs_survive_a_stop() -> None:
    unit = settings()
    assert unit["KillMode"] == ["process"]
    assert unit["Delegate"] == ["yes"]
    assert unit["RuntimeDirectoryPreserve"] == ["yes"]
    assert unit["OOMPolicy"] == ["continue"]


def test_the_loop_feeds_a_watchdog() -> None:
    unit = settings()
    assert unit["Type"] == ["notify"]
    assert re.fullmatch(r"\d+s", unit["WatchdogSec"][0])


def test_cards_stay_visible() -> None:
    unit = settings()
    assert "PrivateDevices" not in unit
    assert {"char-195 rw", "char-nvidia* rw", "/dev/kmsg r"} <= set(unit["DeviceAllow"])


def test_other_users_processes_stay_visible() -> None:
    unit = settings()
    assert not {"ProtectProc", "ProcSubset", "PrivateUsers", "ProtectControlGroups"} & set(unit)
    assert {"CAP_KILL", "CAP_SYS_PTRACE"} <= set(unit["CapabilityBoundingSet"][0].split())


def test_folders_are_the_ones_the_daemon_uses() -> None:
    from p104d.daemon.paths import places

    where = places(system=True, state=None, socket=None, config=None, simulated=False)
    unit = settings()
    assert str(where.state) == f"/var/lib/{unit['StateDirectory'][0]}"
    assert str(where.runtime) == f"/run/{unit['RuntimeDirectory'][0]}"


def test_uninstall_names_the_units_of_jobs_and_model_servers() -> None:
    pattern = re.search(r"systemctl stop '(.*)'", (ROOT / "tools" / "uninstall.sh").read_text())
    assert pattern
    for kind in ("job", KIND):
        assert re.fullmatch(pattern[1].replace("*", ".*"), unit_of(Key(kind, 12, 1)))


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_sysusers_makes_the_groups_and_the_user_of_models(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(ROOT / "systemd" / "p104d.sysusers.conf")],
        check=True,
        capture_output=True,
    )
    groups = [line.split(":")[0] for line in (tmp_path / "etc" / "group").read_text().splitlines()]
    assert sorted(groups) == ["p104", "p104-admin", "p104-model"]
    [user] = (tmp_path / "etc" / "passwd").read_text().splitlines()
    name, _, _, _, _, home, shell = user.split(":")
    assert (name, home) == ("p104-model", "/") and shell.endswith("nologin")


def test_user_of_models_is_the_configurations_own() -> None:
    """The same name, too, where systemd is not there to make it."""
    line = f"u {ModelsConfig().user} - "
    assert any(each.startswith(line) for each in (ROOT / "systemd" / "p104d.sysusers.conf").read_text().splitlines())
    assert re.search(rf"useradd --system .* {ModelsConfig().user}$", (ROOT / "tools" / "install.sh").read_text(), re.M)


def test_groups_are_those_the_code_asks_for() -> None:
    from p104d.api.access import ADMIN_GROUP

    lines = (ROOT / "systemd" / "p104d.sysusers.conf").read_text().splitlines()
    assert f"g {ADMIN_GROUP} -" in lines


def test_tmpfiles_and_unit_agree() -> None:
    lines = (ROOT / "systemd" / "p104d.tmpfiles.conf").read_text().splitlines()
    unit = settings()
    assert f"d /run/p104d {unit['RuntimeDirectoryMode'][0]} root root -" in lines
    assert f"d /var/lib/p104d {unit['StateDirectoryMode'][0]} root root -" in lines
