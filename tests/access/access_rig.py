"""A real system daemon among real users: accounts that exist only in its mount namespace, and agents that act as them.

The accounts are root's to give: /etc/passwd and /etc/group of the daemon and of its jobs are files of the test's own,
mounted over the host's in a private namespace, in which /run is private too. Nothing of the host is changed.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from daemon_rig import CONFIG, ROOT, Result, Rig
from reach import acting, need_reach, way_in

P104, ADMIN, EXTRA = 64_100, 64_101, 64_102
AGENT = Path(__file__).with_name("agent.py")
#: What tests need to be stopped by soon, and never reach by accident.
TIGHT = """
queue_limit = 5000
queue_limit_per_user = 4000
"""


#: A starter that ignores signals, as nohup does and many a supervisor, and is the first that memory is taken from.
ODD_STARTER = [
    "sh", "-c", "trap '' HUP INT QUIT TERM USR1 USR2 TSTP; echo 300 >/proc/self/oom_score_adj; exec \"$@\"", "sh",
]  # fmt: skip


class User(NamedTuple):
    """An account of the daemon's world."""

    name: str
    uid: int
    groups: tuple[int, ...] = (P104,)

    @property
    def gid(self) -> int:
        return self.uid

    def acting(self, *command: str) -> list[str]:
        """``command`` as that user."""
        return [*acting(self.uid, self.gid, self.groups), *command]


ALICE = User("p104-alice", 64_001, (P104, EXTRA))
BOB = User("p104-bob", 64_002)
CAROL = User("p104-carol", 64_003, (P104, ADMIN))
#: Has an account, and is not in group p104.
MALLORY = User("p104-mallory", 64_004, ())
USERS = (ALICE, BOB, CAROL, MALLORY)
#: In group p104, as far as the kernel knows, and without an account.
GHOST = User("ghost", 64_099)


class Answer(NamedTuple):
    """An HTTP answer: status 0 where none came; the rest as it was sent."""

    status: int
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def refused(self) -> bool:
        """Refused in our own words: an error with an exit code, nothing else in it."""
        return self.status >= 400 and set(self.body) == {"error"} and bool(self.body["error"]["message"])


class Agent:
    """A process of a user's, which talks to the daemon's socket for a test."""

    def __init__(self, rig: System, user: User | None) -> None:
        command = [sys.executable, "-I", "-S", str(AGENT), str(rig.socket)]
        self._process = subprocess.Popen(
            command if user is None else user.acting(*command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env={"PATH": "/usr/bin:/bin"},
            text=True,
        )

    def do(self, **order: Any) -> dict[str, Any]:
        """One order to the agent (see agent.py), and what it says."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the agent is gone: {self._process.wait()}"
        return dict(json.loads(line))

    def send(self, raw: bytes, seconds: float = 10.0) -> Answer:
        """Raw bytes on a connection of their own, and what comes back until the daemon closes."""
        said = self.do(do="send", raw=base64.b64encode(raw).decode(), seconds=seconds)
        if "error" in said:
            return Answer(0, said["error"])
        return parsed(base64.b64decode(said["raw"]))

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; ``body`` is bytes or becomes JSON."""
        return self.send(request(method, path, body, **headers))

    def post(self, path: str, **body: Any) -> Answer:
        return self.ask("POST", path, body)

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


def request(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """The bytes of one request after which the daemon closes."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: p104d", "Connection: close", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def parsed(raw: bytes) -> Answer:
    """An answer taken apart; a chunked body is left as it came."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    words = head.split()
    return Answer(int(words[1]) if len(words) > 1 else 0, rest.decode("utf-8", "replace"))


class System(Rig):
    """A system daemon with accounts of its own, in a folder that everybody may pass through."""

    def __init__(self, cards: int = 2, *, config: str = "", also: Sequence[User] = ()) -> None:
        super().__init__(cards, config=TIGHT + config + CONFIG, system=True)
        self._agents: dict[User | None, Agent] = {}
        self._closing = ExitStack()
        self.folder.chmod(0o755)
        self.work.chmod(0o1777)
        etc = self.folder / "etc"
        etc.mkdir()
        for name, lines in (("passwd", passwd_lines(also)), ("group", group_lines(also))):
            (etc / name).write_text(Path(f"/etc/{name}").read_text().rstrip("\n") + "\n" + "\n".join(lines) + "\n")
            (etc / name).chmod(0o644)
        for user in USERS:
            self.home(user).mkdir(parents=True)
            os.chown(self.home(user), user.uid, user.gid)
            self.home(user).chmod(0o700)
        self.prefix = [*way_in(), *namespace(etc), *ODD_STARTER]
        session_keyring(new=True)

    def home(self, user: User) -> Path:
        return self.folder / "home" / user.name

    def as_user(self, user: User | None) -> Agent:
        """An agent of that user; None: of root."""
        if user not in self._agents:
            self._agents[user] = agent = Agent(self, user)
            self._closing.callback(agent.close)
        return self._agents[user]

    def by(self, user: User, *arguments: object, **options: Any) -> Result:
        """p104ctl as that user."""
        return self.finished(*arguments, prefix=user.acting(), **options)

    def submitted_by(self, user: User, *arguments: object, **options: Any) -> int:
        done = self.by(user, "run", "--detach", *arguments, **options)
        assert done.code == 0, done
        return int(done.out)

    def ran(self, user: User, *arguments: object, **options: Any) -> str:
        """The output of a job of that user, which must succeed."""
        job = self.submitted_by(user, *arguments, **options)
        assert self.ends(job) == "succeeded", (self.show(job), self.ctl("logs", job))
        return self.output(job)

    def close(self) -> None:
        self._closing.close()
        super().close()


def passwd_lines(also: Sequence[User] = ()) -> list[str]:
    return [f"{user.name}:x:{user.uid}:{user.gid}::/nonexistent/{user.name}:/bin/sh" for user in (*USERS, *also)]


def group_lines(also: Sequence[User] = ()) -> list[str]:
    named = {"p104": P104, "p104-admin": ADMIN, "p104-extra": EXTRA}
    own = [f"{user.name}:x:{user.gid}:" for user in (*USERS, *also)]
    shared = [
        f"{name}:x:{gid}:{','.join(user.name for user in USERS if gid in user.groups)}" for name, gid in named.items()
    ]
    return own + shared


def namespace(etc: Path) -> list[str]:
    """A prefix under which /run is the daemon's alone and the accounts are ours. Skips where that cannot be."""
    unshare = shutil.which("unshare")
    script = (
        'mount -t tmpfs -o mode=755 tmpfs /run && mount --bind "$0/passwd" /etc/passwd '
        '&& mount --bind "$0/group" /etc/group && exec "$@"'
    )
    prefix = [unshare or "unshare", "-m", "sh", "-c", script, str(etc)]
    if unshare is None or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespace to be had here")
    return prefix


def need_others() -> None:
    """Skip where nobody else can be had: not root, or others can neither read this checkout nor run its Python."""
    if os.getuid() != 0:
        pytest.skip("only root can become other users")
    need_reach(BOB.acting(), str(ROOT / "p104d" / "cli" / "main.py"), sys.executable, str(AGENT))


def session_keyring(*, new: bool = False) -> int | None:
    """The id of this process's session keyring, which its children share; ``new``: after taking one, as a login gives.
    None where there are none."""
    number = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine)
    if number is None:
        return None
    libc = ctypes.CDLL(None)
    # keyctl(2): KEYCTL_JOIN_SESSION_KEYRING, or KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING
    found = libc.syscall(number, 1, None) if new else libc.syscall(number, 0, -3, 0)
    return None if found == -1 else int(found)


def connection(rig: System) -> socket.socket:
    """A connection of root's."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(10)
    made.connect(str(rig.socket))
    return made
