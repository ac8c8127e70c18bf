"""Jobs that put requests to models, whose servers load nothing and answer at once; and what is known of both later.

Each has an output of its own, so that an answer too many is seen; each server holds a lock on its cards for life, as
commands do, and notes a card on which somebody else is.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import quick_server
from gguf_files import TINY

#: A request of ``slow`` takes so long that there is a middle in which to die.
MODELS: dict[str, dict[str, Any]] = {
    "red": {},
    "blue": {"slow": 0.005},
    "slow": {"slow": 0.05},
    "wide": {"load": 0.02},
}
IDS = [f"r{number}" for number in range(6)]
INPUT = "requests.jsonl"


def furnish(folder: Path, program_in: Path) -> None:
    """Models, an input, and the program that serves them."""
    quick_server.command(program_in)
    for name, how in MODELS.items():
        TINY.write(folder / f"{name}.gguf", general__name=name)
        (folder / f"{name}.gguf.how").write_text(json.dumps(how))
    lines = [json.dumps({"custom_id": each, "prompt": f"about {each}"}) for each in IDS]
    (folder / INPUT).write_text("\n".join(lines) + "\n")


def engine(model: str, **keys: Any) -> dict[str, Any]:
    """The keys of a job that asks ``model``; it needs an ``output`` of its own."""
    return {"engine": "llama.cpp", "model": f"{model}.gguf", "context": 512, "parallel": 2, "input": INPUT, **keys}


def answers(folder: Path) -> dict[str, Counter[str]]:
    """By the name of the job, how often each request has an answer in its output."""
    found: dict[str, Counter[str]] = {}
    for path in folder.glob("*.out"):
        counted = found[path.stem] = Counter()
        for line in path.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):  # a torn line is cut off by the next run
                made = json.loads(line)
                if made["error"] is None:
                    counted[made["custom_id"]] += 1
    return found


def conflicts(folder: Path) -> Iterator[str]:
    """What servers noted of cards that somebody else held."""
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "served").read_text().splitlines():
            if line.startswith("conflict "):
                yield line


def loads(folder: Path) -> int:
    """How many servers were started."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / "served").read_text().count("start ")
    return 0
