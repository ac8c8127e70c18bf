"""``make bench``: measure, and print the table of budgets."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict

from bench import (
    rows_bulk,
    rows_cli,
    rows_dispatch,
    rows_drain,
    rows_idle,
    rows_million,
    rows_placement,
    rows_telemetry,
)
from bench.setting import Measure, Setting
from bench.table import Row, render
from p104d.core.errors import P104Error

ROWS: dict[str, Measure] = {
    "dispatch": rows_dispatch.measure,
    "cli": rows_cli.measure,
    "bulk": rows_bulk.measure,
    "drain": rows_drain.measure,
    "million": rows_million.measure,
    "idle": rows_idle.measure,
    "telemetry": rows_telemetry.measure_store,
    "looking": rows_telemetry.measure_looking,
    "placement": rows_placement.measure,
}


def machine() -> str:
    """What it was measured on."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, load before: {load}"
    )


def main() -> int:
    """Run the rows asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the measurements, to see that it works")
    parser.add_argument("--strict", action="store_true", help="end with 1 where a budget is not met")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    args = parser.parse_args()
    setting = Setting(quick=args.quick)
    where = machine()
    rows: list[Row] = []
    for name in args.rows:
        print(f"bench: {name} ...", file=sys.stderr, flush=True)
        try:
            rows += ROWS[name](setting)
        except (P104Error, OSError, RuntimeError, subprocess.SubprocessError) as error:
            # One row that cannot be measured does not cost the others theirs.
            rows.append(Row(f"{name}: not measured", f"{type(error).__name__}: {error}", met=False))
    if args.json:
        print(json.dumps({"machine": where, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(f"{where}{', QUICK: figures not to be quoted' if args.quick else ''}\n\n{render(rows)}")
    return 1 if args.strict and any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
