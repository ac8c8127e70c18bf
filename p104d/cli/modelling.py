"""What ``p104ctl models MODEL.gguf`` does: has the file's header read, and draws what it needs and where it fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from p104d.cli.terminal import terminal_width
from p104d.cli.text import Cell, Column, clean, paint, table, wrap
from p104d.core.errors import BY_EXIT_CODE, P104Error
from p104d.core.units import GIB

#: Reading a header takes a fraction of a second; a network's disk that does not answer is not waited for.
_SECONDS = 60.0
#: Isolated: nothing of the folder that p104ctl was called in is imported.
_READER = "import sys; sys.path.insert(0, sys.argv.pop(1)); from p104d.engines.model_memory_report import main; main()"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The report on the model at ``path``. Raises P104Error.

    The reader is a process of its own: it is of the engines' room, which p104ctl imports nothing of, and is given up
    where a disk does not answer.
    """
    command = [sys.executable, "-I", "-S", "-c", _READER, _ROOT, path, json.dumps(asked)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise P104Error(f"{path}: could not be read within a minute", mend="check its disk or network") from error
    except ValueError as error:
        # Ended before it could answer: killed, out of memory. Its last line says more than we can.
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise P104Error(f"{path}: the reader of models failed: {said[-1]}", mend="please report it") from error
    if "error" in answer:
        told = answer["error"]
        raise BY_EXIT_CODE.get(told["exit_code"], P104Error)(told["message"], mend=told["mend"])
    answer["model"]["path"] = os.path.abspath(path)
    return answer


def page(answer: dict[str, Any]) -> list[str]:
    """The report for people."""
    lines = [*_heading(answer["model"]), "", *_sums(answer), "", *_where(answer), ""]
    lines += _fits(answer)
    room = terminal_width() or 120
    for note in answer["model"]["notes"]:
        lines += wrap(f"estimate only: {note}", room, "  ")
    return lines


def _heading(model: Mapping[str, Any]) -> list[str]:
    facts = [
        model["architecture"],
        f"{model['parameters'] / 1e9:.2f} billion parameters",
        model["file_type"],
        f"{model['layers']} layers",
        f"trained to {model['context']} tokens" if model["context"] else None,
        f"{model['parts']} files" if model["parts"] > 1 else None,
    ]
    name = clean(model["name"] or os.path.basename(model["path"]))
    return [paint(name, "bold"), *wrap(", ".join(fact for fact in facts if fact), terminal_width() or 120, "")]


def _sums(answer: Mapping[str, Any]) -> list[str]:
    """The sum, and where it is shared among cards each card's part."""
    placed = answer["placement"]["cards"] if answer["placement"] else []
    cards = placed if len(placed) > 1 else [answer["sum"]]
    names = {
        "weights": "weights",
        "kv": "keys and values",
        "compute": "computing",
        "overhead": "CUDA",
        "total": "total",
    }
    columns = [Column("GIB", give=True, least=6)]
    columns += [Column("ALL" if len(cards) == 1 else f"CARD {place}", right=True) for place in range(1, len(cards) + 1)]
    rows: list[list[Cell | str]] = [
        [text, *(_gib(card[f"{key}_bytes"], "bold" if key == "total" else None) for card in cards)]
        for key, text in names.items()
    ]
    if len(cards) > 1:
        rows.append(["layers", *(str(card["layers"]) for card in cards)])
    return table(columns, rows)


def _gib(size: int | None, colour: str | None = None) -> Cell:
    return Cell("-" if size is None else f"{size / GIB:.2f}", colour)


def _where(answer: Mapping[str, Any]) -> list[str]:
    asked, placed = answer["asked"], answer["placement"]
    request = f"{asked['context']} tokens"
    if asked["parallel"] > 1:
        request = f"{asked['parallel']} requests of {request} each"
    cards = f"cards of {asked['card_bytes'] / GIB:.1f} GiB"
    if placed is None:
        text = f"{request}, {asked['kv_cache']} cache: does not fit on {cards}"
    else:
        count = len(placed["cards"])
        on = f"one of the {cards}" if count == 1 else f"{count} {cards}"
        text = f"{request}, {asked['kv_cache']} cache: fits on {on}"
        if count > 1:
            text += f", split by layers {','.join(map(str, placed['tensor_split']))}"
    room = terminal_width() or 120
    said = [paint(line, "green" if placed else "red") for line in wrap(text, room, "  ")]
    if answer["suggestion"]:
        said += wrap(f"-> {answer['suggestion']}", room, "   ")
    return said


def _fits(answer: Mapping[str, Any]) -> list[str]:
    """A row a context, a column for so many cards: what the fullest card needs, marked where it does not fit."""
    fits: Sequence[Mapping[str, Any]] = answer["fits"]
    columns = [Column("CONTEXT", right=True)]
    columns += [Column(f"{one['cards']} CARD{'S' * (one['cards'] > 1)}", right=True) for one in fits]
    rows: list[list[Cell | str]] = []
    for row in zip(*(one["contexts"] for one in fits), strict=True):
        rows.append([str(row[0]["context"]), *(_fit(one) for one in row)])
    largest: list[Cell | str] = ["largest", *(str(one["largest_context"] or "none") for one in fits)]
    return [*table(columns, [*rows, largest]), *wrap(_legend(fits), terminal_width() or 120, "")]


def _fit(one: Mapping[str, Any]) -> Cell:
    """The size, then a mark that does not rest on colour alone."""
    size = "-" if one["card_bytes"] is None else f"{one['card_bytes'] / GIB:.2f}"
    mark, colour = ("", "green") if one["fits"] else (one["fits_with_kv_cache"] or "no", "yellow")
    return Cell(f"{size} {mark:<4}", colour if mark != "no" else "red")


def _legend(fits: Sequence[Mapping[str, Any]]) -> str:
    shown = [one for each in fits for one in each["contexts"] if not one["fits"]]
    caches = sorted({one["fits_with_kv_cache"] for one in shown if one["fits_with_kv_cache"]})
    marks = ["no: does not fit"] if any(not one["fits_with_kv_cache"] for one in shown) else []
    return "; ".join(["GiB on the fullest card", *(f"{one}: fits with that cache" for one in caches), *marks])
