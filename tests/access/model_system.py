"""A system daemon among real users that serves tiny models with a real llama.cpp on the processor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import llama_server
import tiny_model
from access_rig import Answer, System, User
from daemon_rig import eventually
from reach import way_in

#: Runs the servers that are shared; in no group, with no home.
MODEL = User("p104-model", 64_005, ())
#: A server of half a megabyte starts in half a second; on a loaded machine in several.
LOADED_WITHIN = 60.0


class ModelSystem(System):
    """``models`` is added to the section of the configuration; ``config`` goes before it. ``with_user``: the host has
    the user of the servers that are shared."""

    def __init__(self, cards: int = 2, *, models: str = "", config: str = "", with_user: bool = True) -> None:
        super().__init__(cards, config=config, also=(MODEL,) if with_user else ())
        self.server = llama_server.command(self.folder)
        with open(self.folder / "config.toml", "a") as file:
            file.write(f'\n[models]\nllama_server = "{self.server}"\n{models}\n')

    # --- files -----------------------------------------------------------------------------------------------------

    def model(self, name: str, owner: User | None = None, *, mode: int = 0o644, seed: int = 1) -> Path:
        """A model where everybody may look, or in the private home of ``owner``."""
        folder = self.work if owner is None else self.home(owner)
        path = tiny_model.write(folder / f"{name}.gguf", seed=seed, name=name)
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)
        path.chmod(mode)
        return path

    def requests(self, user: User, name: str, count: int = 2, *, tokens: int = 4) -> Path:
        """``NAME.jsonl`` in the private home of ``user``."""
        lines = [
            {"custom_id": f"{name}-{n}", "prompt": f"{name} {n}", "n_predict": tokens, "ignore_eos": True}
            for n in range(count)
        ]
        path = self.home(user) / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        os.chown(path, user.uid, user.gid)
        path.chmod(0o600)
        return path

    def answers(self, user: User, name: str) -> list[dict[str, Any]]:
        """The lines of ``NAME.out`` in the home of ``user``."""
        return [json.loads(line) for line in (self.home(user) / f"{name}.out").read_text().splitlines()]

    # --- jobs ------------------------------------------------------------------------------------------------------

    def post_batch(self, user: User | None, model: object, name: str, *, umask: int = 0o022, **keys: Any) -> Answer:
        """What the daemon says to a job of ``user`` that puts ``NAME.jsonl`` to ``model``."""
        document = {
            "name": name,
            "engine": "llama.cpp",
            "model": str(model),
            "context": 512,
            "input": f"{name}.jsonl",
            "output": f"{name}.out",
            **keys,
        }
        cwd = str(self.home(user) if user is not None else self.work)
        body = {"documents": [{"file": "x", "text": json.dumps(document)}], "cwd": cwd, "umask": umask}
        return self.as_user(user).post("/v1/submit", **body)

    def batch(
        self, user: User, model: object, name: str, count: int = 2, *, tokens: int = 4, umask: int = 0o022, **keys: Any
    ) -> int:
        """Submit a job of ``count`` requests as ``user``; its id."""
        self.requests(user, name, count, tokens=tokens)
        answer = self.post_batch(user, model, name, umask=umask, **keys)
        assert answer.status == 200, answer
        return int(answer.body["jobs"][0]["id"])

    def done(self, *jobs: int) -> None:
        for job in self.wait(*jobs, seconds=LOADED_WITHIN):
            assert job["state"] == "succeeded", (job, self.ctl("logs", job["id"]).out, self.log.read_text())

    def fails(self, job: int) -> str:
        """The reason for which it fails, as its owner reads it."""
        [end] = self.wait(job, seconds=LOADED_WITHIN)
        assert end["state"] == "failed", (end, self.ctl("logs", job).out, self.log.read_text())
        return str(self.show(job)["reason"])

    # --- copies ----------------------------------------------------------------------------------------------------

    def copies(self) -> list[dict[str, Any]]:
        return list(self.json("models")["models"])

    def copy(self, state: str = "ready") -> dict[str, Any]:
        """Wait until there is one copy, and it is ``state``."""

        def found() -> dict[str, Any] | None:
            copies = self.copies()
            return copies[0] if [each["state"] for each in copies] == [state] else None

        return eventually(found, LOADED_WITHIN, what=f"one copy {state}")  # type: ignore[arg-type,return-value]

    def socket_of(self, copy: dict[str, Any]) -> str:
        """Where it listens, in the daemon's own /run."""
        words = Path(f"/proc/{copy['pid']}/cmdline").read_text().split("\0")
        return words[words.index("--host") + 1]

    def loads(self) -> int:
        """How many copies were ever loaded."""
        return self.log.read_text().count("action=load ") + self.log.read_text().count("action=load\n")

    def quiet(self) -> None:
        super().quiet()
        for copy in self.copies():
            self.ctl("models", "unload", f"#{copy['id']}")
        eventually(lambda: not self.copies(), what="no copy left")

    # --- what somebody tries ---------------------------------------------------------------------------------------

    def tries(self, user: User, code: str, *arguments: object) -> str:
        """What a piece of Python says as ``user``, errors too, where the daemon's /run is."""
        assert self.daemon is not None
        inside = [shutil.which("nsenter") or "nsenter", "-m", "-t", str(self.daemon.pid), "--"]
        acting = user.acting(sys.executable, "-I", "-S", "-c", code, *map(str, arguments))[len(way_in()) :]
        done = subprocess.run([*inside, *acting], capture_output=True, text=True, check=False, timeout=LOADED_WITHIN)
        return (done.stdout + done.stderr).strip()


def status_of(pid: int) -> dict[str, list[str]]:
    lines = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.split() for name, value in lines}
