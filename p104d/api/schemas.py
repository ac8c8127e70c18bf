"""Writes p104d/schemas/*.json from the wire's types: ``python -m p104d.api.schemas``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import msgspec

from p104d.api import forecast, history, models, power, proof
from p104d.api import messages as m
from p104d.api.spec import job_schema

FOLDER = Path(__file__).resolve().parent.parent / "schemas"

#: The documented schemas, by the name under which ``p104ctl schema`` prints them.
SCHEMAS: dict[str, type[msgspec.Struct]] = {
    "status": m.Status,
    "cards": m.Cards,
    "submit": m.Submitted,
    "list": m.ListedJobs,
    "show": m.Job,
    "explain": m.Explained,
    "wait": m.WaitedJobs,
    "verbs": m.MovedJobs,
    "schedules": m.Schedules,
    "doctor": m.Checks,
    "pause": m.Paused,
    "verify": proof.Verified,
    "history": history.HistoryAnswer,
    "series": history.SeriesAnswer,
    "report": history.Report,
    "bench": history.Bench,
    "power": power.PowerCards,
    "models": models.Models,
    "residents": models.Residents,
    "plan": forecast.Forecast,
    "error": m.ErrorAnswer,
}


def schemas() -> dict[str, dict[str, Any]]:
    """Every schema by name, as it is shipped."""
    made = {name: _described(name, msgspec.json.schema(kind)) for name, kind in SCHEMAS.items()}
    return made | {"job": job_schema()}


def _described(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"p104ctl {name} --json"}
    return head | {key: _clean(value) for key, value in schema.items()}


def _clean(value: Any, key: str = "") -> Any:
    """Descriptions as ``inspect.cleandoc`` has them: releases of msgspec differ in how they indent a docstring."""
    if isinstance(value, dict):
        return {name: _clean(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_clean(each) for each in value]
    return inspect.cleandoc(value) if key == "description" and isinstance(value, str) else value


def text(schema: dict[str, Any]) -> str:
    """A schema as its file holds it."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def write(folder: Path = FOLDER) -> None:
    """Write one file a schema."""
    folder.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        (folder / f"{name}.json").write_text(text(schema))


if __name__ == "__main__":
    write()
