"""What ``p104ctl bench`` does: llama-bench as an ordinary job on one card after another, then on all at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from p104d.api.client import Client
from p104d.cli.common import note
from p104d.cli.main import Interrupted
from p104d.cli.records import amount, record
from p104d.cli.rig import card_index, card_name, figure, that_fit
from p104d.cli.sending import envelope, yaml_text
from p104d.cli.text import Cell, Column, state, table
from p104d.cli.waiting import ENDED, Watch, describe_end
from p104d.core.errors import P104Error, RefusedError, UsageError

PROMPT, GENERATION = "prompt_tokens_per_second", "generation_tokens_per_second"
#: A card that is one of these takes no jobs: waiting for it would be waiting for a person.
_OUT = frozenset({"missing", "suspect", "draining", "drained", "aliased", "faulty", "failed"})
#: How long a job may wait before it is said what for.
_WHY_SECONDS = 2.0
#: An end that its program tells of is within its last lines.
_TAIL_LINES = 20
#: What a terminal too narrow is not shown, the least missed first.
_DROPPED = ("JOB", "TOKENS/WH", "WATTS")
#: A program built beside its libraries may need this to find them.
_LIBRARIES = "LD_LIBRARY_PATH"


class Bench(NamedTuple):
    """What is run: llama-bench and the model by absolute paths; ``prompt`` and ``generate`` are tokens a test,
    ``repeat`` how often each test is made."""

    program: str
    model: str
    prompt: int
    generate: int
    repeat: int

    def document(self, card: dict[str, Any], together: bool) -> dict[str, str]:
        """The job of one card. It fails if llama-bench never appears on the card: a program that was built without
        CUDA measures the processor, and that must not go on record as the card's speed."""
        words = [self.program, "-m", self.model, "-o", "json", "-p", self.prompt, "-n", self.generate]
        stem = model_name(self.model)
        labels = {"model": stem, "bench": "1"} | ({"together": "1"} if together else {})
        job = {
            "name": f"bench-{stem}",
            "command": [str(word) for word in (*words, "-r", self.repeat)],
            "only": [card["uuid"]],
            "gpu_required": True,
            "labels": labels,
            "measure": ["llama.cpp"],
        }
        return {"file": "bench", "text": yaml_text(job)}


def model_name(path: str) -> str:
    """The file's name without its ending and part number, as p104d calls the model that any job loaded: the bench goes
    on record beside those. Without what a job's name may not hold."""
    stem = re.sub(r"(-\d{5}-of-\d{5})?(\.gguf)?$", "", os.path.basename(path), count=1, flags=re.IGNORECASE)
    return "".join(char for char in stem if char.isprintable())[:100].strip() or "model"


def find_program(given: str | None) -> str:
    """llama-bench's absolute path. Raises RefusedError."""
    from shutil import which

    found = which(given or "llama-bench")
    if found is None:
        what = f"{given} is no program" if given else "llama-bench is not on your PATH"
        raise RefusedError(what, mend="build llama.cpp with CUDA, then name it with --llama-bench PATH")
    return os.path.abspath(found)


def find_model(path: str) -> str:
    """The model's absolute path. Raises UsageError for one that cannot be read."""
    try:
        with open(path, "rb"):
            return os.path.abspath(path)
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}", mend="name a GGUF file") from error


def able(cards: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cards that take jobs; of each other it is told. Raises RefusedError where none does."""
    found = []
    for card in cards:
        out = next((card[key] for key in ("state", "verdict") if card.get(key) in _OUT), None)
        if out is None:
            found.append(card)
        else:
            note(f"card {card_index(card)} ({card_name(card)}) is left out: {out}")
    if not found:
        raise RefusedError("no card takes jobs", mend="p104ctl status says why")
    return found


class Runs:
    """The jobs of one bench. Ctrl-C cancels those that have not ended, and is exit code 130."""

    def __init__(self, asked: Client, bench: Bench) -> None:
        self._asked, self._bench, self._watch = asked, bench, Watch(asked)
        self._open: list[int] = []

    def all(self, cards: Sequence[dict[str, Any]], together: bool) -> list[dict[str, Any]]:
        """One card after another, whatever becomes of any; then, if ``together``, all at once."""
        try:
            found = [run for card in cards for run in self._run([card], together=False)]
            return found + (self._run(cards, together=True) if together else [])
        except KeyboardInterrupt:
            raise Interrupted(self._cancel()) from None

    def _run(self, cards: Sequence[dict[str, Any]], together: bool) -> list[dict[str, Any]]:
        documents = [self._bench.document(card, together) for card in cards]
        kept = [_LIBRARIES] if os.environ.get(_LIBRARIES) else []
        submitted = self._asked.post("/v1/submit", envelope(documents, (), kept))
        ids = [int(job["id"]) for job in submitted["jobs"]]
        self._open += ids
        ended = self._watch.wait(ids, timeout=_WHY_SECONDS)
        if not all(job["state"] in ENDED for job in ended):
            self._say_why(ids)
            ended = self._watch.wait(ids)
        self._open = []
        return [self._told(card, job, together) for card, job in zip(cards, ended, strict=True)]

    def _say_why(self, ids: Sequence[int]) -> None:
        for job in self._watch.patiently(lambda: self._asked.post("/v1/jobs/show", {"ids": list(ids)}))["jobs"]:
            if job.get("waiting_because"):
                note(f"job {job['id']}: {job['waiting_because']}")

    def _cancel(self) -> str:
        """Cancel what has not ended; what to tell of it."""
        cancelled = []
        for job in self._open:
            try:
                self._asked.post("/v1/jobs/cancel", {"ids": [job]})
                cancelled.append(str(job))
            except RefusedError:
                continue  # it has ended
            except P104Error as error:
                return f"interrupted; job {job} cannot be cancelled: {error.line()}"
        if not cancelled:
            return "interrupted"
        return f"interrupted; cancelled job{'s' if len(cancelled) > 1 else ''} {', '.join(cancelled)}"

    # --- what came of a job ----------------------------------------------------------------------------------------

    def _told(self, card: dict[str, Any], ended: dict[str, Any], together: bool) -> dict[str, Any]:
        """A run as ``--json`` prints it; of one that failed, why."""
        number = ended["id"]
        shown = self._watch.patiently(lambda: self._asked.post("/v1/jobs/show", {"ids": [number]}))["jobs"][0]
        found = {one["name"]: float(one["value"]) for one in shown.get("measurements") or ()}
        joules = found.get("joules_per_token")
        run = {
            "card": card["uuid"],
            "card_index": card.get("index"),
            "card_name": card_name(card),
            "together": together,
            "job_id": number,
            "state": ended["state"],
            PROMPT: found.get(PROMPT),
            GENERATION: found.get(GENERATION),
            "mean_power_watts": found.get("mean_power_watts"),
            "tokens_per_watt_hour": 3600 / joules if joules else None,
            "reference": None,
            "error": None,
        }
        if ended["state"] != "succeeded":
            run["error"] = ": ".join(part for part in (describe_end(ended), self._last_line(number)) if part)
        elif run[PROMPT] is None and run[GENERATION] is None:
            run["error"] = f"job {number} printed no speeds; see p104ctl logs {number}"
        else:
            run["reference"] = self._reference(number)
        return run

    def _last_line(self, job: int) -> str:
        """The last that it printed; nothing where it printed nothing, or never ran."""
        try:
            with self._asked.stream(f"/v1/jobs/{job}/log", {"tail": _TAIL_LINES}) as answer:
                text = b"".join(answer.pieces()).decode("utf-8", "replace")
        except P104Error:
            return ""
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:500]

    def _reference(self, job: int) -> Any:
        """The speed on record that its generation, else its prompt, is held against."""
        query = {"job": job, "show": "results", "limit": 100}
        results = self._watch.patiently(lambda: self._asked.get("/v1/history", query)).get("results") or []
        known = {one["measure"]: one["reference"] for one in results if one.get("reference")}
        return known.get(GENERATION) or known.get(PROMPT)


def failed(runs: Iterable[dict[str, Any]]) -> list[str]:
    """Why runs came to nothing, a line each."""
    return [f"card {card_index({'index': run['card_index']})}: {run['error']}" for run in runs if run["error"]]


def bench_table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """One line a run. Speeds are tokens a second, those on record the generation's."""
    columns = [
        Column("#", right=True),
        Column("CARD", give=True),
        Column("RUN"),
        Column("JOB", right=True),
        Column("PROMPT/S", right=True),
        Column("GENERATION/S", right=True),
        Column("WATTS", right=True),
        Column("TOKENS/WH", right=True),
        Column("ON RECORD"),
    ]
    rows: list[list[Cell | str]] = [
        [
            card_index({"index": run["card_index"]}),
            run["card_name"],
            "together" if run["together"] else "alone",
            str(run["job_id"]),
            _speed(run, PROMPT),
            _speed(run, GENERATION),
            figure(run["mean_power_watts"], ""),
            "-" if run["tokens_per_watt_hour"] is None else amount(run["tokens_per_watt_hour"], ""),
            state(run["state"]) if run["state"] != "succeeded" else record(run),
        ]
        for run in runs
    ]
    # Energy by the token is known only where the tokens were counted, which not every llama-bench prints.
    if all(run["tokens_per_watt_hour"] is None for run in runs):
        rows = [
            [field for column, field in zip(columns, row, strict=True) if column.heading != "TOKENS/WH"] for row in rows
        ]
        columns = [column for column in columns if column.heading != "TOKENS/WH"]
    kept = that_fit(columns, rows, _DROPPED)
    page = table(kept, [[row[columns.index(column)] for column in kept] for row in rows])
    return [*page, *_sum(runs)]


def _speed(run: dict[str, Any], measure: str) -> str:
    return "-" if run[measure] is None else amount(run[measure], "")


def _sum(runs: Sequence[dict[str, Any]]) -> list[str]:
    """All cards at once against each alone, where both are known of every card."""
    alone, both = ([run[GENERATION] for run in runs if run["together"] is which] for which in (False, True))
    if not both or any(value is None for value in (*alone, *both)) or not sum(alone):
        return []
    share = 100 * sum(both) / sum(alone)
    return [f"together {amount(sum(both), '')} tokens/s on {len(both)} cards, {share:.0f} % of what each does alone"]
