"""A daemon on a simulated rig whose model servers load nothing, answer at once, and do wrong what a test tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import quick_server
from daemon_rig import CONFIG
from gguf_files import TINY
from model_rig import ModelRig


class QuickRig(ModelRig):
    """``models`` is added to the section of the configuration."""

    def __init__(self, simulate: int | str, *, models: str = "", config: str = CONFIG) -> None:
        super().__init__(simulate, config=config, models=models)
        quick_server.command(self.folder)

    def model(self, name: str, seed: int = 1, **how: Any) -> Path:
        """A model whose server does as ``how`` says."""
        path = TINY.write(self.work / f"{name}.gguf", general__name=f"{name} {seed}")
        self.how(name, **how)
        return path

    def how(self, name: str, **how: Any) -> None:
        """What servers of ``name`` do from now on."""
        (self.work / f"{name}.gguf.how").write_text(json.dumps(how))

    def served(self, what: str) -> list[list[str]]:
        """What the servers noted of ``what``, the rest of each line."""
        try:
            lines = (self.work / "served").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.split(" ")[1:] for line in lines if line.startswith(what + " ")]
