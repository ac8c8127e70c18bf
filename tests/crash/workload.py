"""Jobs of every kind, each of which writes down that it ran; and the client's own record of what it was promised.

A job's script notes ``start`` before anything else and ``end CODE`` last, one write with O_APPEND each, so that the
order of the lines is the order of the events, and a second run is seen. It takes a lock on each card it was given and
keeps it, with all that it leaves behind, until the last of its processes is gone: two jobs on a card that was promised
to one see each other.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import asking

#: ``$1`` is the rest of a line. One printf is one write.
PROLOGUE = """
note() { printf '%s\\n' "$1 $P104_JOB_ID $P104_ATTEMPT $P104_CARDS" >> "$EFFECTS"; }
leave() { note "end:$1"; exit "$1"; }
note start
fd=3; IFS=,
for card in $P104_CARDS; do
  eval "exec $fd>>\\"$LOCKS/$card\\""; flock $HOW -n $fd || note conflict; fd=$((fd + 1))
done
unset IFS
"""


class Kind(NamedTuple):
    """A kind of job. ``state``, ``code`` and ``reason`` (how it begins) are how it ends where nobody kills its shim;
    ``body`` None: it never comes to run its script. ``long`` jobs end by somebody's hand only."""

    body: str | None
    spec: Mapping[str, Any]
    state: str = "succeeded"
    code: int | None = 0
    reason: str = ""
    long: bool = False


_GIB = 2**30
_FAILED = {"state": "failed"}
KINDS: dict[str, Kind] = {
    "ok": Kind("leave 0", {}),
    "slow": Kind("sleep 0.3; leave 0", {}),
    "code": Kind("leave 7", {}, "failed", 7, "exit code 7"),
    "signal": Kind("note end:segv; kill -SEGV $$", {}, "failed", None, "signal 11"),
    "fork": Kind("sleep 60 & (sleep 60; :) & leave 0", {}),
    "setsid": Kind("setsid sh -c 'sleep 60 & sleep 60' & sleep 0.02; leave 3", {}, "failed", 3, "exit code 3"),
    "daemon": Kind("(setsid sleep 60 >/dev/null 2>&1 &); sleep 0.02; leave 0", {}),
    "gang": Kind("sleep 0.05; leave 0", {"cards": 2}),
    "shared": Kind("sleep 0.2; leave 0", {"vram": "3GiB"}),
    "cpu": Kind("sleep 0.02; leave 0", {"cards": 0}),
    "retried": Kind('[ -e "$EFFECTS.$P104_JOB_ID" ] && leave 0; : > "$EFFECTS.$P104_JOB_ID"; leave 9', {"retries": 3}),
    "exhausted": Kind("leave 4", {"retries": 1}, "failed", 4, "exit code 4"),
    "cancelled": Kind("exec sleep 60", {}, "cancelled", None, long=True),
    "late": Kind("exec sleep 60", {"time_limit": "0.2s"}, "failed", None, "time limit"),
    "again": Kind("sleep 0.1; leave 0", {"idempotent": True}),
    "nothing": Kind(None, {"command": ["/nonexistent/command"]}, "failed", 127, "command not found"),
    "matrix": Kind("leave $CODE", {"matrix": {"code": [0, 5, 6]}, "env": {"CODE": "${matrix.code}"}}),
    "gate": Kind('n=0; while [ ! -e "$LOCKS/../go" ] && [ $((n += 1)) -lt 3000 ]; do sleep 0.02; done; leave 0', {}),
    "fill": Kind('head -c 1000000 /dev/zero > "$LOCKS/../../state/jobs/fill" 2> /dev/null; leave 7', {}, "failed", 7),
    "flood": Kind("head -c 200000 /dev/zero; leave 0", {"cards": 0}),
    "all": Kind("leave 0", {"cards": 4}),
    "red": Kind(None, asking.engine("red")),
    "blue": Kind(None, asking.engine("blue")),
    "asks": Kind(None, asking.engine("slow")),
    "wide": Kind(None, asking.engine("wide", cards=2)),
}
#: Jobs on models.
ENGINE = tuple(kind for kind, made in KINDS.items() if "engine" in made.spec)
#: What a storm is made of: all but those that wait for a test's hand or its surroundings.
ORDINARY = tuple(kind for kind in KINDS if kind not in ("gate", "fill", "all", *ENGINE))
#: What a storm over models is made of: commands that take their cards, too.
MODELS = (*ENGINE, "red", "blue", "ok", "gang", "shared", "cpu", "code", "all", "cancelled")
#: These are submitted together: a job, and one that waits for it.
CHAINS: dict[str, tuple[str, str]] = {"then": ("slow", "ok"), "never": ("code", "ok")}


def document(kind: str, name: str, folder: Path, after: Sequence[str] = ()) -> dict[str, Any]:
    """One document of a submission: a job of ``kind``. ``folder`` holds effects and locks."""
    made = KINDS[kind]
    if kind in ENGINE:
        return {"name": name, "cwd": str(folder), "output": f"{name}.out", **made.spec} | _after(after)
    env = {
        "EFFECTS": str(folder / "effects"),
        "LOCKS": str(folder / "locks"),
        "HOW": "-s" if "vram" in made.spec else "-x",
        **made.spec.get("env", {}),
    }
    spec: dict[str, Any] = {"name": name, "cwd": str(folder), **made.spec, "env": env}
    if made.body is not None:
        spec["command"] = PROLOGUE + made.body
    return spec | _after(after)


def _after(names: Sequence[str]) -> dict[str, Any]:
    return {"after": list(names)} if names else {}


def request(documents: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """The body of a submission."""
    files = [{"file": f"{each['name']}.yaml", "text": json.dumps(each)} for each in documents]
    return {"documents": files, "cwd": str(folder)}


def kind_of(name: str) -> str:
    """The kind of the job that is called so."""
    return name.split("-")[0]


class Maker:
    """Makes submissions, named by kind and number; seeded."""

    def __init__(self, folder: Path, source: random.Random, kinds: Sequence[str] = (*ORDINARY, *CHAINS)) -> None:
        self._folder, self._random, self._kinds = folder, source, list(kinds)
        self._count = 0

    def next(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The documents of one submission: of ``kind``, or of any."""
        chosen = kind or self._random.choice(self._kinds)
        self._count += 1
        if chosen in CHAINS:
            first, second = CHAINS[chosen]
            name = f"{first}-{self._count}"
            return [
                document(first, name, self._folder),
                document(second, f"{second}-{self._count}-after", self._folder, [name]),
            ]
        return [document(chosen, f"{chosen}-{self._count}", self._folder)]


class Ledger:
    """What the client asked and what was acknowledged, written durably before it goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, **entry: Any) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """All entries."""
    with open(path) as file:
        return [json.loads(line) for line in file]
