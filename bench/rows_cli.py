"""One call of p104ctl."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from bench.rig import executable
from bench.setting import Setting
from bench.stats import interleaved, median, timed
from bench.table import Ratios, Row, milliseconds

LIMIT = 1.5


def call(command: Sequence[str], env: Mapping[str, str]) -> Callable[[], float]:
    """Measures one run of ``command``."""

    def once() -> float:
        return timed(lambda: subprocess.run(command, env=dict(env), check=True, stdout=subprocess.DEVNULL))

    return once


def measure(setting: Setting) -> list[Row]:
    """``p104ctl status`` and ``p104ctl list --json`` beside what any Python command with click costs."""
    with setting.rig() as rig:
        rig.wait(rig.submit_text(rig.matrix(["true"], 20)))
        p104ctl = executable("p104ctl", "p104d.cli.main")
        acts = {
            "import click": call([sys.executable, "-c", "import click"], rig.env),
            "status": call([*p104ctl, "status"], rig.env),
            "list --json": call([*p104ctl, "list", "--json"], rig.env),
        }
        taken = interleaved(acts, setting.rounds(40))
    medians = {name: median(values) for name, values in taken.items()}
    floor = medians.pop("import click")
    rows = []
    for name, ours in medians.items():
        ratios = Ratios(ours)
        ratios.against("import click", floor, LIMIT)
        what = f"p104ctl {name}"
        peers = f"python -c 'import click' {milliseconds(floor)}"
        rows.append(Row(what, milliseconds(ours), peers, ratios.text, f"<= {LIMIT}x", ratios.met))
    return rows
