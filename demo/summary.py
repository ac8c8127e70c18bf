"""Sum up answers.jsonl: what the job ``summary`` runs after the job ``inference``."""

from __future__ import annotations

import json
import sys


def main(path: str) -> None:
    """Print requests, tokens and the mean speed of generation."""
    with open(path, encoding="utf-8") as lines:
        timings = [json.loads(line)["timings"] for line in lines]
    tokens = sum(timing["predicted_n"] for timing in timings)
    seconds = sum(timing["predicted_ms"] for timing in timings) / 1000
    print(f"{len(timings)} requests, {tokens} tokens generated in {seconds:.2f} s: {tokens / seconds:.0f} tokens/s")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: summary.py ANSWERS.jsonl")
    main(sys.argv[1])
