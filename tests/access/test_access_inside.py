"""A job against what supervises it, against other users' jobs, and against the files it is given."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from access_rig import ALICE, BOB, System
from daemon_rig import eventually

#: Reaches for everything around a job, as the job; prints what it got as JSON. Arguments: the state folder, a victim's
#: pid (another user's job), the daemon's pid, the folder of the runtime files.
REACH = r"""
import ctypes, glob, json, os, signal, socket, sys
state, victim, daemon, runtime = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
shim, got = os.getppid(), []
def tried(name, act, *arguments):
    try:
        found = act(*arguments)
        got.append([name, repr(found)[:80]])
    except (OSError, ValueError):
        pass
def read(path):
    with open(path, "rb") as file:
        return file.read(100) or None
def reading(path):
    found = read(path)
    if found is None: raise ValueError
    return found
def sent(path, data):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(data, path)
def attach(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0) != 0: raise OSError
    libc.ptrace(17, pid, 0, 0)
for pid, who in ((shim, "shim"), (daemon, "daemon"), (victim, "victim")):
    for name in ("environ", "mem", "fd/0", "maps", "auxv", "io", "syscall", "stack"):
        tried(f"read {who} {name}", reading, f"/proc/{pid}/{name}")
    tried(f"fds of {who}", os.listdir, f"/proc/{pid}/fd")
    tried(f"root of {who}", os.listdir, f"/proc/{pid}/root/")
    tried(f"cwd of {who}", os.listdir, f"/proc/{pid}/cwd/")
    tried(f"ptrace {who}", attach, pid)
    tried(f"oom of {who}", lambda: open(f"/proc/{pid}/oom_score_adj", "w").write("1000"))
    def steal(pid=pid):
        descriptor = os.pidfd_open(pid)
        found = ctypes.CDLL(None, use_errno=True).syscall(438, descriptor, 1, 0)
        if found < 0: raise OSError
    tried(f"pidfd_getfd of {who}", steal)
    for number in (signal.SIGSTOP, signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL):
        tried(f"kill {who} {number}", os.kill, pid, number)
tried("list state", os.listdir, state)
tried("list jobs", os.listdir, state + "/jobs")
for path in ("queue.db", "telemetry.db", "daemon.lock", "jobs/0/1-1/launch.json", "jobs/0/1-1/exit", "jobs/0/1-1/log"):
    tried("read " + path, reading, os.path.join(state, path))
    tried("write " + path, os.open, os.path.join(state, path), os.O_WRONLY)
    tried("remove " + path, os.unlink, os.path.join(state, path))
mine = state + "/jobs/0/" + os.environ["P104_JOB_ID"] + "-1"
for name in ("exit", "claim", "log", "log.1", "launch.json"):
    tried("own " + name, os.open, mine + "/" + name, os.O_RDWR | os.O_CREAT)
    tried("rename own " + name, os.rename, mine + "/" + name, "/tmp/x")
tried("symlink", os.symlink, "/etc/passwd", mine + "/log.1")
for path in [runtime + "/shims/events", *glob.glob(runtime + "/**", recursive=True)]:
    if os.path.exists(path) and not os.path.isdir(path):
        tried("datagram to " + path, sent, path, b'{"event": "ended", "key": ["job", 1, 1]}')
        tried("replace " + path, os.unlink, path)
tried("make in runtime", os.open, runtime + "/x", os.O_WRONLY | os.O_CREAT)
group = open("/proc/self/cgroup").read().split(":")[-1].strip()
for base in glob.glob("/sys/fs/cgroup") + glob.glob("/sys/fs/cgroup/unified"):
    for name in ("cgroup.procs", "cgroup.kill", "pids.max", "memory.max"):
        tried("cgroup " + name, os.open, base + group + "/" + name, os.O_WRONLY)
        tried("outer cgroup " + name, os.open, base + "/" + name, os.O_WRONLY)
    tried("cgroup made", os.mkdir, base + group + "/mine")
tried("its standard output again", os.open, "/proc/%d/fd/1" % shim, os.O_WRONLY)
tried("become root", os.setuid, 0)
tried("become root's group", os.setgid, 0)
tried("more groups", os.setgroups, [0])
print("GOT " + json.dumps(got))
"""


def test_a_job_reaches_nobody(system: System) -> None:
    victim = system.submitted_by(ALICE, "--", "sh", "-c", "echo $$; exec sleep 60")
    system.reads(victim, "\n")
    pid = system.output(victim).split()[0]
    daemon = str(system.status()["daemon"]["pid"])
    told = system.ran(
        BOB, "--", sys.executable, "-I", "-S", "-c", REACH, str(system.store), pid, daemon, "/run/p104d-simulated"
    )
    [line] = [line for line in told.splitlines() if line.startswith("GOT ")]
    assert json.loads(line[4:]) == []
    assert system.state(victim) == "running"


def test_that_reach_is_real(system: System) -> None:
    """The same at a job of one's own gets what it tries: that it gets nothing elsewhere means something."""
    victim = system.submitted_by(BOB, "--", "sh", "-c", "echo $$; exec sleep 60")
    system.reads(victim, "\n")
    pid = system.output(victim).split()[0]
    told = system.ran(BOB, "--", sys.executable, "-I", "-S", "-c", REACH, str(system.home(BOB)), pid, "1", "/nowhere")
    [line] = [line for line in told.splitlines() if line.startswith("GOT ")]
    got = {name for name, _ in json.loads(line[4:])}
    assert {"kill victim 15", "read victim environ", "fds of victim", "list state"} <= got
    assert not {name for name in got if "shim" in name or "daemon" in name}
    assert system.ends(victim) == "failed"


def test_an_end_is_not_forged_by_a_datagram(system: System) -> None:
    """Even root's word on that socket is only a reason to look into the folder."""
    job = system.submitted_by(ALICE, "--", "sleep", "60")
    system.until(job, "running")
    forged = {"event": "ended", "key": ["job", job, 1], "exit_code": 0, "last": False}
    nonsense = [
        b"",
        b"\xff",
        b"[" * 4000,
        b"{}",
        b"[1]",
        b'{"key": 3, "event": []}',
        b'{"key": [[], {}, 1], "event": 1}',
    ]
    script = (
        "import socket, sys, ast\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "for data in ast.literal_eval(sys.stdin.read()): s.sendto(data, '/run/p104d-simulated/shims/events')\n"
    )
    pid = system.status()["daemon"]["pid"]
    enter = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", sys.executable, "-I", "-S", "-c", script]
    data = repr([json.dumps(forged).encode(), *nonsense])
    done = subprocess.run(enter, input=data, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    system.ran(BOB, "--", "true")  # by then the daemon has read them all
    assert system.state(job) == "running"
    assert "Traceback" not in system.log.read_text() and "RecursionError" not in system.log.read_text()


def test_a_pipe_given_away_keeps_no_job_open(system: System) -> None:
    """The log's pipe in the hands of a process that is no child of the job's: it ends with the job all the same."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    path = str(folder / "s")
    keeper = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        keeper.bind(path)
        os.chmod(path, 0o777)
        keeper.listen()
        script = (
            "import socket\nwith socket.socket(socket.AF_UNIX) as s:\n"
            f"    s.connect({path!r})\n    socket.send_fds(s, [b'x'], [1])\n    s.recv(1)\nprint('last words')"
        )
        job = system.submitted_by(BOB, "--", sys.executable, "-I", "-S", "-c", script)
        keeper.settimeout(20)
        line, _ = keeper.accept()
        with line:
            _, [pipe], _, _ = socket.recv_fds(line, 1, 1)
            line.sendall(b"x")
        try:
            assert system.ends(job) == "succeeded"
            assert system.output(job) == "last words\n"
            with pytest.raises(BrokenPipeError):
                os.write(pipe, b"never read\n")
        finally:
            os.close(pipe)
        assert system.output(job) == "last words\n"
    finally:
        keeper.close()
        Path(path).unlink(missing_ok=True)
        folder.rmdir()


def test_cwd_is_entered_as_the_submitter(system: System) -> None:
    roots = system.folder / "roots"
    roots.mkdir(mode=0o700, exist_ok=True)
    (roots / "inner").mkdir(exist_ok=True)
    link = system.work / "way"
    link.unlink(missing_ok=True)
    link.symlink_to(roots)
    for cwd in (roots, roots / "inner", link, link / "inner", system.home(ALICE), f"/proc/{os.getpid()}/cwd"):
        job = system.submitted_by(BOB, "--cwd", cwd, "--", "pwd")
        assert system.ends(job) == "failed", cwd
        assert "cwd cannot be entered" in system.show(job)["reason"], cwd


def test_a_cwd_that_is_swapped_leads_nowhere_either(system: System) -> None:
    """Between submission and start: what counts is what the submitter may enter then."""
    private = system.folder / "private-later"
    private.mkdir(mode=0o700, exist_ok=True)
    folder = system.home(BOB) / "swapped"
    folder.mkdir()
    os.chown(folder, BOB.uid, BOB.gid)
    system.json("pause")
    job = system.submitted_by(BOB, "--cwd", folder, "--", "touch", "here")
    folder.rmdir()
    folder.symlink_to(private)
    system.json("resume")
    assert system.ends(job) == "failed" and list(private.iterdir()) == []


@pytest.mark.parametrize("kind", ["symlink", "fifo", "hardlink"])
def test_files_a_job_writes_are_its_submitters_business(system: System, kind: str) -> None:
    """Nothing is opened for a job before it is its submitter: what the submitter may not write is not written."""
    victim = system.folder / f"victim-{kind}"
    victim.write_text("kept")
    victim.chmod(0o600)
    target = system.work / f"out-{kind}"
    if kind == "symlink":
        target.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(target, 0o600)
    else:
        os.link(victim, target)
    job = system.submitted_by(BOB, "--time-limit", "10s", "--", "sh", "-c", f"echo x > {target}")
    assert system.ends(job) == "failed"
    assert victim.read_text() == "kept"


def test_a_command_is_looked_up_as_the_submitter(system: System) -> None:
    """On a PATH of the job's own, through folders that only root may enter."""
    private = system.folder / "tools"
    private.mkdir(mode=0o700, exist_ok=True)
    tool = private / "tool"
    tool.write_text("#!/bin/sh\necho ran\n")
    tool.chmod(0o755)
    for command in (["tool"], [str(tool)], [f"/proc/{os.getpid()}/root{tool}"]):
        job = system.submitted_by(BOB, "--env", f"PATH={private}:/usr/bin:/bin", "--", *command)
        assert system.ends(job) == "failed" and "ran" not in system.output(job), command


@pytest.mark.parametrize("name", ["P104_JOB_ID", "P104_TOKEN", "P104_X", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"])
def test_what_p104d_tells_a_job_cannot_be_said_by_another(system: System, name: str) -> None:
    agent = system.as_user(BOB)
    for text in (
        f"env: {{{name}: '1'}}",
        f'env: {{"{name}": "1"}}',
        f"env: {{'{name}': '${{matrix.a}}'}}\nmatrix: {{a: [1]}}",
    ):
        document = {"file": "x", "text": f"command: 'true'\n{text}\n"}
        assert agent.ask("POST", "/v1/submit", {"documents": [document], "cwd": "/"}).status == 409, text
    plain = {"file": "x", "text": "command: 'true'\n"}
    kept = {"documents": [plain], "cwd": "/", "keep_env": {name: "1"}}
    assert agent.ask("POST", "/v1/submit", kept).status == 409
    option = {"documents": [plain], "cwd": "/", "set": [f"env.{name}=1"]}
    assert agent.ask("POST", "/v1/submit", option).status == 409
    # A name is not substituted: this is a variable of an odd name, and of no other.
    odd = "env: {'${matrix.a}': x}\nmatrix: {a: [" + name + "]}\ncommand: env"
    answer = agent.ask("POST", "/v1/submit", {"documents": [{"file": "x", "text": odd}], "cwd": "/"})
    if answer.status == 200:
        job = answer.body["jobs"][0]["id"]
        assert system.ends(job) == "succeeded" and f"{name}=x" not in system.output(job).splitlines()


def test_a_library_of_the_jobs_own_is_loaded_by_nobody_but_the_job(system: System) -> None:
    """LD_PRELOAD and the like are the submitter's business: they reach the job's process, after it became one."""
    told = system.home(BOB) / "who"
    code = system.home(BOB) / "sitecustomize.py"
    code.write_text(f"import os\nopen({str(told)!r}, 'a').write(str(os.getuid()) + chr(10))\n")
    code.chmod(0o644)
    system.ran(
        BOB,
        "--env",
        f"PYTHONPATH={system.home(BOB)}",
        "--env",
        "LD_PRELOAD=/nonexistent",
        "--",
        sys.executable,
        "-c",
        "",
    )
    assert set(told.read_text().split()) == {str(BOB.uid)}


def test_notifications_are_sent_a_few_at_a_time(system: System) -> None:
    """Cancelling many jobs at once starts not many processes at once, and nobody's wait for somebody else's."""
    folder = system.home(BOB) / "told"
    folder.mkdir()
    os.chown(folder, BOB.uid, BOB.gid)
    script = (
        f"cd {folder} && touch on-$$ && ls | grep -c ^on- > c-$P104_JOB_ID; "
        "sleep 0.1; rm on-$$; touch done-$P104_JOB_ID"
    )
    system.json("pause")
    text = json.dumps(
        {"command": "true", "matrix": {"n": list(range(60))}, "notify": {"on": ["cancelled"], "command": script}}
    )
    body = {"documents": [{"file": "x", "text": text}], "cwd": "/"}
    jobs = [job["id"] for job in system.as_user(BOB).ask("POST", "/v1/submit", body).body["jobs"]]
    assert system.as_user(BOB).post("/v1/jobs/cancel", ids=jobs).status == 200
    mine = system.home(ALICE) / "told"
    text = json.dumps(
        {"command": "true", "notify": {"on": ["cancelled"], "command": f"ls {folder} 2>&1 | true; touch {mine}"}}
    )
    body = {"documents": [{"file": "x", "text": text}], "cwd": "/"}
    [job] = system.as_user(ALICE).ask("POST", "/v1/submit", body).body["jobs"]
    assert system.as_user(ALICE).post("/v1/jobs/cancel", ids=[job["id"]]).status == 200
    eventually(mine.exists)
    early = len(list(folder.glob("done-*")))
    eventually(lambda: len(list(folder.glob("done-*"))) == 60)
    at_once = max(int((folder / f"c-{job}").read_text()) for job in jobs)
    assert early < 40, "a neighbour's notification waited for all of them"
    assert at_once <= 8
    system.json("resume")
