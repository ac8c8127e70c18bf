"""Looks at models and inputs with the rights of who submits them: each look a child that may be killed at any time.

The daemon itself may not: as root it would read what the submitter may not, and a path on a disk that does not answer
would hold it up. Nothing here raises: a model that cannot be looked at is a value, with words for the submitter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from p104d.daemon.accounts import Account
from p104d.engines.gguf import Part
from p104d.engines.probed_model import ProbedModel
from p104d.processes import as_user
from p104d.processes.launchers import boot_argv

__all__ = ["Probed", "ProbedModel", "Prober"]

_MODULE = "p104d.engines.model_probe"
#: Headers take 0.1 s; a disk that sleeps needs some seconds to turn again.
PATIENCE_SECONDS = 20.0
#: At once, and of one user: each takes some 20 MB and reads a disk that may be slow, or was made to hang by a user.
MOST_AT_ONCE, MOST_OF_ONE = 4, 2
#: Children that SIGKILL does not end (their disk does not answer). With so many of them, or of the user's, nothing more
#: is asked.
MOST_STUCK, MOST_STUCK_OF_ONE = 16, 4
#: Where systemd has the groups of its units: they are there as long as anything in them is.
_UNIT_GROUPS = ("/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/systemd/system.slice")
#: What was killed is dead within milliseconds, or not before its disk answers.
_GOODBYE_SECONDS = 1.0
_STDERR_BYTES = 2000
_NO_WORDS = "it ended without an answer"


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: ``model``, or ``error`` (one line) and ``mend``.

    ``embeddings``: whether the input's first requests ask for embeddings; None: it cannot be read yet.
    ``world_readable``: whether every user may read all of the model.
    """

    model: ProbedModel | None = None
    error: str | None = None
    mend: str | None = None
    embeddings: bool | None = None
    world_readable: bool = False


class _Failed(Exception):
    """Why there is no answer, for a person."""


class Prober:
    """Starts the children, a few at a time.

    ``units_in``: None, or, under systemd, where the system daemon's sandbox hides homes and lets no user be changed, a
    folder of root's own: the children are transient units then, as jobs are, and leave their answers there.
    ``patience_seconds`` is for one look, waiting for a turn not counted.
    """

    def __init__(self, *, units_in: str | None = None, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._units_in = units_in
        self._patience = patience_seconds
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self._turns_of: dict[int, asyncio.Semaphore] = {}
        self._leaving: dict[asyncio.Task[int], int] = {}
        self._late_units: dict[str, int] = {}

    async def probe(self, need_path: str, input_path: str | None, *, uid: int, gid: int, user: str) -> Probed:
        """Look at the model at ``need_path`` and at ``input_path``, both absolute, as ``user``."""
        asked = {"model": need_path, "input": input_path, "others": True}
        try:
            answer = await self._ask(asked, uid=uid, gid=gid, user=user)
            if isinstance(error := answer.get("error"), dict):
                return Probed(error=str(error.get("message")), mend=error.get("mend"))
            return msgspec.convert(answer, Probed)
        except msgspec.ValidationError as error:
            return Probed(error=_one_line(f"{need_path}: the look at the model said nonsense: {error}"))
        except _Failed as failed:
            return Probed(error=_one_line(f"{need_path}: the model cannot be looked at: {failed}"))

    async def readable(self, parts: Sequence[Part], account: Account) -> bool | None:
        """Whether ``account`` can open every part, and each is still the same file. None where that cannot be told."""
        asked = {"readable": [list(part) for part in parts]}
        try:
            answer = await self._ask(asked, uid=account.uid, gid=account.gid, user=account.name)
        except _Failed:
            return None
        found = answer.get("readable")
        return found if isinstance(found, bool) else None

    async def close(self) -> None:
        """Stop waiting for children that were killed. Looks that are under way are their callers' to cancel."""
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=_GOODBYE_SECONDS)
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _ask(self, asked: dict[str, Any], *, uid: int, gid: int, user: str) -> dict[str, Any]:
        """The child's answer. Raises _Failed."""
        async with self._turns_of.setdefault(uid, asyncio.Semaphore(MOST_OF_ONE)), self._turns:
            stuck = self._stuck()
            if len(stuck) >= MOST_STUCK or stuck.count(uid) >= MOST_STUCK_OF_ONE:
                raise _Failed("the disks of earlier ones do not answer")
            drop = user if os.getuid() == 0 and uid != 0 else None
            # systemd would put a variable's value for what begins with a dollar.
            text = json.dumps(asked).replace("$", "\\u0024")
            argv = boot_argv("as_user", "sys.argv[2:]", *as_user.arguments(_MODULE, drop, uid, gid, text))
            output = await self._run(argv, uid)
        try:
            answer = json.loads(output)
        except (ValueError, RecursionError):
            raise _Failed(_NO_WORDS) from None
        if not isinstance(answer, dict):
            raise _Failed(_NO_WORDS)
        return answer

    def _stuck(self) -> list[int]:
        """Whose children were told to end and are still there."""
        self._late_units = {
            unit: uid
            for unit, uid in self._late_units.items()
            if any(os.path.isdir(os.path.join(groups, unit)) for groups in _UNIT_GROUPS)
        }
        return [*self._leaving.values(), *self._late_units.values()]

    async def _run(self, argv: list[str], uid: int) -> bytes:
        """What the program prints. Raises _Failed."""
        try:
            if self._units_in is not None:
                return await self._run_unit(argv, self._units_in, uid)
            # Files in memory, not pipes: nothing is left to be read or closed when it is killed.
            with _memory("answer") as output, _memory("words") as words:
                code = await self._end_of(argv, output, words, uid)
                if code != 0:
                    raise _Failed(_last_line(words) or _NO_WORDS)
                return os.pread(output, as_user.MOST_OUTPUT_BYTES, 0)
        except TimeoutError:
            raise _Failed(f"the disk did not answer within {self._patience:g} s") from None
        except (OSError, ValueError) as error:
            raise _Failed(getattr(error, "strerror", None) or str(error)) from None

    async def _run_unit(self, argv: list[str], parent: str, uid: int) -> bytes:
        """The same outside the daemon's sandbox. Raises _Failed, TimeoutError, OSError."""
        # A folder for each: one that starts when nobody waits any more finds it gone, and ends.
        with tempfile.TemporaryDirectory(prefix="look-", dir=parent, ignore_cleanup_errors=True) as folder:
            path, unit = os.path.join(folder, "answer"), f"p104-{os.path.basename(folder)}.service"
            with _memory("words") as words:
                try:
                    code = await self._end_of(self._unit_argv(argv, unit, path), subprocess.DEVNULL, words, uid)
                except BaseException:
                    self._late_units[unit] = uid
                    raise
                said = _last_line(words)
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                if code == 0:
                    return file.read(as_user.MOST_OUTPUT_BYTES)
                said = _last_line(file.fileno()) or said
        raise _Failed(said or _NO_WORDS)

    def _unit_argv(self, argv: list[str], unit: str, path: str) -> list[str]:
        properties = {
            # So that systemd-run returns when it has ended; its own --wait needs D-Bus, which not every host has.
            "Type": "oneshot",
            "StandardOutput": f"file:{path}",
            "StandardError": "inherit",
            # Where the daemon is not there to end it.
            "TimeoutStartSec": f"{self._patience + 5:.0f}",
            "KillSignal": "SIGKILL",
        }
        return [
            "systemd-run",
            *("--system", "--collect", "--quiet", "--no-ask-password"),
            f"--unit={unit}",
            "--description=p104d looks at a model",
            *(part for name, value in properties.items() for part in ("-p", f"{name}={value}")),
            "--",
            *argv,
        ]

    async def _end_of(self, argv: list[str], output: int, words: int, uid: int) -> int:
        """Its exit code. Raises TimeoutError, OSError."""
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=words,
            cwd="/",
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._patience):
                return await process.wait()
        finally:
            self._leave(process, uid)

    def _leave(self, process: asyncio.subprocess.Process, uid: int) -> None:
        """Kill it, and have it reaped without anybody waiting: one in an uninterruptible sleep does not even die."""
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        task = asyncio.get_running_loop().create_task(process.wait())
        self._leaving[task] = uid
        task.add_done_callback(lambda done: self._leaving.pop(done, None))


@contextlib.contextmanager
def _memory(name: str) -> Iterator[int]:
    """A file in memory, by its descriptor."""
    descriptor = os.memfd_create(f"model-probe-{name}")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _last_line(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, _STDERR_BYTES, max(0, size - _STDERR_BYTES)).decode("utf-8", "replace")
    return _one_line(text.strip().rpartition("\n")[2])


def _one_line(text: str) -> str:
    return " ".join(text.split())
