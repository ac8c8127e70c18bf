"""Pictures, by matplotlib (the extra ``plot``) without a screen: the map of bad bits; what all pictures share."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from p104d.cli.proof import label, outcome
from p104d.cli.text import local, wrap
from p104d.cli.whole_file import replacing
from p104d.core.errors import P104Error, UsageError
from p104d.core.units import GIB, format_size

#: Rows of a map at most: about three dots of the picture each, so that a single bad cell can be seen.
ROWS = 200
_BITS = 64
_PANELS_A_ROW = 4
#: Characters of a line inside a panel.
_LINE = 32
_DOTS_PER_INCH = 120


def require(path: str, option: str = "--map") -> None:
    """Raise, before anybody waits for hours, what would keep a picture from being written to ``path``."""
    if find_spec("matplotlib") is None:
        raise P104Error(f"{option} needs matplotlib, which is not installed", mend="pip install 'p104d[plot]'")
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UsageError(f"{option} {path}: no file can be written there", mend="name a file in a folder of yours")


def draw_map(tests: Sequence[dict[str, Any]], path: str) -> None:
    """Draw the map of each test (with its ``map_cells``), all in the one PNG file ``path``.

    Raises P104Error where it cannot be written.
    """
    columns = min(_PANELS_A_ROW, max(1, len(tests)))
    lines = -(-max(1, len(tests)) // columns)
    picture = new_picture(1 + 4.6 * columns, 6.2 * lines)
    panels = picture.subplots(lines, columns, squeeze=False)
    for place, panel in enumerate(one for line in panels for one in line):
        if place < len(tests):
            _panel(picture, panel, tests[place])
        else:
            panel.set_axis_off()
    write(picture, path)


def new_picture(width: float, height: float) -> Any:
    """An empty picture of so many inches, for no screen."""
    # It tells whoever runs it first that it builds its font cache; nobody asked.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    figure: Any = import_module("matplotlib.figure")
    canvas: Any = import_module("matplotlib.backends.backend_agg")
    picture = figure.Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, layout="constrained")
    canvas.FigureCanvasAgg(picture)
    return picture


def _panel(picture: Any, panel: Any, test: dict[str, Any]) -> None:
    when = local(test.get("ended_at"))
    title = f"{label(test)}: {outcome(test).text}\n{test['depth']} test, {when}"
    # Names are the card's; a dollar sign in one is no formula.
    panel.set_title(title, fontsize=10, parse_math=False)
    panel.set_xlabel("bit of the 64-bit word")
    panel.set_ylabel("test address, GiB")
    panel.set_xticks(range(0, _BITS, 8))
    rows = bad_rows(test)
    size = _size(test) / GIB
    panel.set_xlim(-0.5, _BITS - 0.5)
    panel.set_ylim(size, 0)
    panel.set_facecolor("#f2f2f2")
    if not rows:
        said = "\n".join(wrap(_why_empty(test), _LINE, ""))
        panel.text(_BITS / 2, size / 2, said, ha="center", va="center", fontsize=11, parse_math=False)
        return
    worst = max(max(row.values()) for row in rows.values())
    grid = [[rows.get(row, {}).get(bit, float("nan")) for bit in range(_BITS)] for row in range(ROWS)]
    scale: Any = import_module("matplotlib.colors").LogNorm(vmin=1, vmax=max(10, worst))
    image = panel.imshow(
        grid,
        norm=scale,
        # Both of its ends are dark: a single error is as easy to see as a million.
        cmap="turbo",
        aspect="auto",
        interpolation="nearest",
        origin="upper",
        extent=(-0.5, _BITS - 0.5, size, 0),
    )
    picture.colorbar(image, ax=panel, label="bad words")


def _why_empty(test: dict[str, Any]) -> str:
    if test["state"] == "finished" and test.get("errors") == 0:
        return f"no errors in {format_size(test.get('memory_tested_bytes'))}"
    return f"no map: {test.get('text') or test['state']}"


def _size(test: dict[str, Any]) -> int:
    """Bytes that the vertical axis stands for: what was tested, or at least up to the last bad cell."""
    cells = [cell["cell"] + 1 for cell in test.get("map_cells") or ()]
    reach = max(cells, default=0) * (test.get("map_cell_bytes") or 0)
    return max(test.get("memory_tested_bytes") or 0, reach) or int(test.get("memory_total_bytes") or GIB)


def bad_rows(test: dict[str, Any]) -> dict[int, dict[int, int]]:
    """Row of the picture -> bit -> bad words: cells put together, none left out."""
    cell_bytes, size = test.get("map_cell_bytes") or 0, _size(test)
    rows: dict[int, dict[int, int]] = {}
    for cell in test.get("map_cells") or ():
        # Which of its bad words flipped which bit is not kept: each flipped bit counts all of them.
        row = rows.setdefault(min(ROWS - 1, cell["cell"] * cell_bytes * ROWS // size), {})
        flipped = int(cell["flipped"], 16)
        for bit in range(_BITS):
            if flipped >> bit & 1:
                row[bit] = row.get(bit, 0) + cell["errors"]
    return {number: row for number, row in rows.items() if row}


def write(picture: Any, path: str, kind: str = "png") -> None:
    """Draw it as the file ``path``, whole or not at all."""
    with replacing(path, ".p104-", f".{kind}") as stream:
        picture.savefig(stream, format=kind)
