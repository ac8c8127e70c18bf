"""The system's daemon: jobs run as who submitted them, and nobody sees or ends another's. Needs root."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest
from daemon_rig import CONFIG, ROOT, Result, Rig, eventually
from reach import acting, need_reach, way_in

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a system daemon is root's")

NOBODY = pwd.getpwnam("nobody")
#: Somebody else who is nobody in particular: every Debian has it, and it is no admin.
OTHER = pwd.getpwnam("games") if "games" in {entry.pw_name for entry in pwd.getpwall()} else pwd.getpwuid(1)


def reachable(path: str) -> bool:
    """Whether ``nobody`` gets there."""
    return subprocess.run(["test", "-r", path], user=NOBODY.pw_uid, group=NOBODY.pw_gid, check=False).returncode == 0


def need_others() -> None:
    """Skip where another user can neither read this checkout nor run its Python, and no way in can be made."""
    need_reach(acting(NOBODY.pw_uid, NOBODY.pw_gid), str(ROOT / "p104d" / "cli" / "main.py"), sys.executable)


def own_run() -> list[str]:
    """A prefix under which /run is the daemon's alone, so that a service on this host is not met."""
    unshare = shutil.which("unshare")
    prefix = [unshare or "unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh"]
    if unshare is None or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespace to be had here")
    return [*way_in(), *prefix]


class System(Rig):
    """A system daemon in a folder that everybody may pass through."""

    def prepared(self, prefix: list[str]) -> System:
        self.prefix = prefix
        self.folder.chmod(0o755)
        self.work.chmod(0o777)
        return self

    def open_socket(self) -> System:
        """What group p104 is for, on a host that may not have it."""
        mode = stat.S_IMODE(self.socket.stat().st_mode)
        try:
            group = grp.getgrnam("p104").gr_gid
            assert (mode, self.socket.stat().st_gid) == (0o660, group)
        except KeyError:
            assert mode == 0o600
        self.socket.chmod(0o666)
        return self

    def by(self, user: pwd.struct_passwd, *arguments: object, **options: object) -> Result:
        """p104ctl as another user."""
        return self.finished(*arguments, prefix=acting(user.pw_uid, user.pw_gid), **options)

    def submitted_by(self, user: pwd.struct_passwd, *arguments: object) -> int:
        done = self.by(user, "run", "--detach", *arguments)
        assert done.code == 0, done
        return int(done.out)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    need_others()
    prefix = own_run()
    rig = System(2, config=CONFIG, system=True).prepared(prefix)
    try:
        rig.start()
        yield rig.open_socket()
    finally:
        rig.close()


@pytest.fixture
def shared_system(system: System) -> Iterator[System]:
    yield system
    system.quiet()


def test_a_job_runs_as_its_submitter(shared_system: System) -> None:
    job = shared_system.submitted_by(
        NOBODY, "--", "sh", "-c", "id -u; id -g; id -G; echo $USER $HOME; touch mine; umask"
    )
    assert shared_system.ends(job) == "succeeded", shared_system.show(job)
    lines = shared_system.output(job).splitlines()
    assert lines[0] == str(NOBODY.pw_uid) and lines[1] == str(NOBODY.pw_gid)
    assert "0" not in lines[2].split()
    assert lines[3] == f"nobody {NOBODY.pw_dir}"
    assert (shared_system.work / "mine").stat().st_uid == NOBODY.pw_uid
    assert shared_system.show(job)["user"] == "nobody"


def test_roots_own_jobs_are_refused_by_default(shared_system: System) -> None:
    assert "allow_root_jobs" in shared_system.refused("run", "--", "true", code=4)
    assert "allow_root_jobs" in shared_system.refused("submit", "-", stdin="command: id\n", code=4)


def test_others_may_not_look_or_touch(shared_system: System) -> None:
    job = shared_system.submitted_by(
        NOBODY, "--env", "SECRET=hidden", "--label", "k=v", "--", "sh", "-c", "echo $SECRET; exec sleep 60"
    )
    shared_system.reads(job, "hidden")
    for arguments in (
        ["cancel", job],
        ["hold", job],
        ["retry", job],
        ["priority", job, -1],
        ["logs", job],
        ["logs", "-f", job],
    ):
        refused = shared_system.by(OTHER, *arguments)
        assert refused.code == 4 and refused.out == "" and refused.err.count("\n") == 1, (arguments, refused)
    assert shared_system.state(job) == "running"
    # Everybody sees that it is there and where it runs; not what it is.
    shown = shared_system.by(OTHER, "show", "--json", job)
    assert shown.code == 0 and "hidden" not in shown.out and "sleep" not in shown.out
    told = shown.json
    assert (told["state"], told["user"], told["spec"], told["labels"]) == ("running", "nobody", None, None)
    assert told["cards"]
    listed = shared_system.by(OTHER, "list", "--json")
    assert "hidden" not in listed.out and job in [one["id"] for one in listed.json["jobs"]]
    assert shared_system.by(OTHER, "list", "--json", "--label", "k=v").json["jobs"] == []
    assert shared_system.by(OTHER, "wait", "--timeout", "0s", job).code == 1
    assert shared_system.by(OTHER, "export", "x.db").code == 4
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        # Readings name nobody's work: they are for everybody.
        told = shared_system.by(OTHER, "export", "--telemetry", f"{folder}/x.db")
        assert told.code == 0 and os.stat(f"{folder}/x.db").st_uid == OTHER.pw_uid, told
    # Its owner and root see and end it.
    owner = shared_system.by(NOBODY, "show", "--json", job).json
    assert owner["spec"]["env"] == {"SECRET": "hidden"} and owner["labels"] == {"k": "v"}
    assert shared_system.by(NOBODY, "logs", job).out == "hidden\n"
    assert shared_system.by(NOBODY, "cancel", job).code == 0
    assert shared_system.ends(job) == "cancelled"


def test_the_rig_itself_is_for_admins(shared_system: System) -> None:
    for arguments in (["drain", 0], ["undrain", 0], ["pause"], ["resume"]):
        refused = shared_system.by(OTHER, *arguments)
        assert refused.code == 4 and "p104-admin" in refused.err, arguments
    for arguments in (
        ["run", "--detach", "--priority", 1, "--", "true"],
        ["run", "--detach", "--priority", 1000, "--", "true"],
    ):
        assert "p104-admin" in shared_system.by(OTHER, *arguments).err
    assert not shared_system.status()["daemon"]["paused"]
    assert shared_system.by(OTHER, "status").code == shared_system.by(OTHER, "cards").code == 0


def test_a_schedule_belongs_to_its_user(shared_system: System) -> None:
    (shared_system.work / "nightly.yaml").write_text("command: 'true'\nschedule: '0 3 * * *'\n")
    assert shared_system.by(NOBODY, "submit", "nightly.yaml").out.startswith("schedule ")
    [schedule] = shared_system.json("schedules")["schedules"]
    assert schedule["user"] == "nobody"
    assert shared_system.by(OTHER, "schedules", "cancel", schedule["id"]).code == 4
    assert shared_system.by(NOBODY, "schedules", "cancel", schedule["id"]).code == 0


def test_output_is_kept_where_only_root_looks(shared_system: System) -> None:
    job = shared_system.submitted_by(NOBODY, "--", "echo", "x")
    assert shared_system.ends(job) == "succeeded"
    for path in (shared_system.store, shared_system.store / "jobs"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700 and path.stat().st_uid == 0
    assert not reachable(str(shared_system.store / "queue.db"))


def test_a_notification_runs_as_its_user_too(shared_system: System) -> None:
    file = shared_system.work / "told"
    (shared_system.work / "n.yaml").write_text(
        f"command: exit 1\nnotify: {{on: [failed], command: 'id -u > {file}.new && mv {file}.new {file}'}}\n"
    )
    assert shared_system.by(NOBODY, "submit", "n.yaml").code == 0
    eventually(file.exists)
    assert file.read_text() == f"{NOBODY.pw_uid}\n" and file.stat().st_uid == NOBODY.pw_uid


def test_a_folder_the_submitter_may_not_enter(shared_system: System) -> None:
    private = shared_system.work / "private"
    private.mkdir(mode=0o700)
    job = shared_system.submitted_by(NOBODY, "--cwd", private, "--", "pwd")
    assert shared_system.ends(job) == "failed"
    assert "private" in shared_system.show(job)["reason"]


def test_roots_jobs_where_they_are_allowed() -> None:
    prefix = own_run()
    rig = System(1, config="allow_root_jobs = true\n" + CONFIG, system=True).prepared(prefix)
    try:
        rig.start()
        job = rig.sh("id -u", priority=1000)
        assert rig.ends(job) == "succeeded" and rig.output(job) == "0\n"
    finally:
        rig.close()


def test_another_users_own_daemon_serves_that_user_alone() -> None:
    need_others()
    rig = System(1).prepared([])
    try:
        rig.start()
        rig.socket.chmod(0o666)
        assert "serves" in (refused := rig.by(NOBODY, "status")).err and refused.code == 4
    finally:
        rig.close()
