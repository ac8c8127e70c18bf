"""A daemon on a simulated rig that serves tiny real models with a real llama.cpp on the processor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_server
import psutil
import tiny_model
from daemon_processes import command_of
from daemon_rig import CONFIG, Rig, eventually

#: A server of half a megabyte starts in half a second; on a loaded machine in several.
LOADED_WITHIN = 60.0


class ModelRig(Rig):
    """``models`` is added to the section of the configuration."""

    def __init__(self, simulate: int | str, *, models: str = "", config: str = CONFIG, system: bool = False) -> None:
        super().__init__(simulate, config=config, system=system)
        self.server = llama_server.command(self.folder)
        (self.folder / "config.toml").write_text(f'{config}\n[models]\nllama_server = "{self.server}"\n{models}\n')

    def model(self, name: str, seed: int = 1) -> Path:
        """A model of its own."""
        return tiny_model.write(self.work / f"{name}.gguf", seed=seed, name=name)

    def requests(self, name: str, count: int, *, tokens: int = 4, **body: Any) -> str:
        """A file of plain requests; its name."""
        lines = [
            {"custom_id": f"{name}-{n}", "prompt": f"{name} {n}", "n_predict": tokens, "ignore_eos": True, **body}
            for n in range(count)
        ]
        (self.work / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return f"{name}.jsonl"

    def document(self, model: str, name: str, **keys: Any) -> dict[str, Any]:
        """A job that puts ``NAME.jsonl`` to ``MODEL.gguf``."""
        return {
            "name": name,
            "engine": "llama.cpp",
            "model": f"{model}.gguf",
            "context": 512,
            "input": f"{name}.jsonl",
            "output": f"{name}.out",
            **keys,
        }

    def batch(self, model: str, name: str, count: int = 3, *, tokens: int = 4, **keys: Any) -> int:
        """Submit a job of ``count`` requests; its id."""
        self.requests(name, count, tokens=tokens)
        [job] = self.submit(self.document(model, name, **keys))
        return job

    def answers(self, name: str) -> list[dict[str, Any]]:
        """The lines of a job's output."""
        raw = (self.work / f"{name}.out").read_bytes()
        return [json.loads(line) for line in raw.split(b"\n") if line.strip()]

    def answered(self, name: str) -> list[str]:
        """The ids that have an answer, each line's, in order."""
        return sorted(each["custom_id"] for each in self.answers(name) if each["error"] is None)

    def copies(self) -> list[dict[str, Any]]:
        return list(self.json("models")["models"])

    def copy(self, state: str = "ready", *, count: int = 1) -> list[dict[str, Any]]:
        """Wait until exactly ``count`` copies are there, all of them ``state``."""

        def found() -> list[dict[str, Any]] | None:
            copies = self.copies()
            good = len(copies) == count and all(each["state"] == state for each in copies)
            return copies if good else None

        return eventually(found, LOADED_WITHIN, what=f"{count} copies {state}") or []

    def loads(self) -> int:
        """How many copies were ever loaded."""
        return self.log.read_text().count("action=load\n")

    def server_of(self, copy: dict[str, Any]) -> psutil.Process:
        return psutil.Process(copy["pid"])


def no_server_left(rig: ModelRig) -> Callable[[], bool]:
    """Whether no server of the rig is alive."""
    mark = str(rig.folder)
    return lambda: not any("--alias" in command_of(p) for p in rig.processes() if p.pid != os.getpid() and mark)
