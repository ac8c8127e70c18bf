"""Sum up files of answers: what the job ``summary`` runs after the jobs ``ask``."""

from __future__ import annotations

import json
import sys


def main(paths: list[str]) -> None:
    """Print for each file its answers, tokens and the mean speed of generation, then how many answers there are."""
    total = 0
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            answers = [line for line in map(json.loads, lines) if line["error"] is None]
        tokens = sum(answer["timings"]["predicted_n"] for answer in answers)
        seconds = sum(answer["timings"]["predicted_ms"] for answer in answers) / 1000
        speed = f"{tokens / seconds:.0f} tokens/s each" if seconds else "no time"
        print(f"{path}: {len(answers)} answers, {tokens} tokens, {speed}")
        total += len(answers)
    print(f"{total} answers in all")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: summary.py ANSWERS.jsonl...")
    main(sys.argv[1:])
