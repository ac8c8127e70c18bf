"""The demo's parts: its jobs are accepted, its programs do real work that p104d can measure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging_support import ROOT

from p104d.api.spec import Context, Document, ParsedDocument, parse_submission
from p104d.engines.batch_input import Request, requests
from p104d.engines.batch_output import line_of
from p104d.engines.measure import OutputParser
from p104d.hardware import rigfile

DEMO = ROOT / "demo"


def jobs() -> dict[str, ParsedDocument]:
    """Every job of the demo, submitted together as the demo does."""
    documents = [Document(path.name, path.read_text()) for path in sorted(DEMO.glob("*.yaml"))]
    return {parsed.spec.name: parsed for parsed in parse_submission(documents, Context(cwd="/tmp", now=1.7e9))}


def test_jobs_are_of_every_kind() -> None:
    found = jobs()
    assert found["gang"].spec.cards == 2
    assert len(found["picture"].jobs) == 3
    assert found["summary"].spec.after == ("ask",)
    assert found["ask"].spec.engine is not None and len(found["ask"].jobs) == 6
    assert found["broken"].spec.retries > 0
    assert sum(parsed.spec.vram_bytes or 0 for name, parsed in found.items() if name.startswith("half")) < 8 * 2**30


def test_programs_named_by_jobs_exist() -> None:
    for name, parsed in jobs().items():
        if parsed.spec.command[:1] == ("python3",):
            assert (DEMO / parsed.spec.command[1]).is_file(), name


def test_rig_takes_the_jobs() -> None:
    rig = rigfile.load(str(DEMO / "rig.toml"))
    assert len(rig.cards) == 4
    largest = max(parsed.spec.vram_bytes or 0 for parsed in jobs().values())
    assert largest <= min(card.memory for card in rig.cards)


def test_picture_is_rendered_and_measured(tmp_path: Path) -> None:
    target = tmp_path / "picture.pgm"
    command = [sys.executable, str(DEMO / "picture.py"), "--seed", "1", "--output", str(target)]
    done = subprocess.run(command, capture_output=True, check=True)
    head, pixels = target.read_bytes().split(b"\n", 1)
    magic, width, height, depth = head.split()
    assert (magic, depth) == (b"P5", b"255")
    assert len(pixels) == int(width) * int(height)
    assert len(set(pixels)) > 10
    parser = OutputParser(["tqdm"])
    parser.feed(done.stdout + done.stderr)
    speeds = {found.name: found.value for found in parser.result()}
    assert speeds["iterations"] == 30
    assert speeds["iterations_per_second"] > 0


def test_questions_are_requests() -> None:
    with open(DEMO / "prompts.jsonl", "rb") as file:
        found = [*requests(file)]
    assert len(found) == 5 and all(isinstance(each, Request) for each in found)
    assert {each.url for each in found if isinstance(each, Request)} > {"/v1/chat/completions"}


def test_language_model_is_tried(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the extra `llama` is not installed")
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    model = tmp_path / "tiny.gguf"
    subprocess.run([sys.executable, str(DEMO / "llama" / "tiny_model.py"), str(model), "7"], check=True)
    assert model.read_bytes()[:4] == b"GGUF"
    attempt = [sys.executable, str(DEMO / "llama" / "llama_try.py"), str(model)]
    assert subprocess.run(attempt, capture_output=True, timeout=120).returncode == 0
    model.write_bytes(b"GGUF" + b"\xff" * 100)
    assert subprocess.run(attempt, capture_output=True, timeout=120).returncode == 1


def test_answers_are_summed_up(tmp_path: Path) -> None:
    timings = {"predicted_n": 16, "predicted_ms": 8.0}
    lines = [
        line_of("1", custom_id="a", line=1, timings=timings),
        line_of("2", custom_id="b", line=2, timings=timings),
        line_of("3", custom_id="c", line=3, error={"code": "http_400", "message": "no"}),
    ]
    answers = tmp_path / "answers.jsonl"
    answers.write_bytes(b"".join(lines))
    done = subprocess.run([sys.executable, str(DEMO / "summary.py"), str(answers)], capture_output=True, check=True)
    assert b"2 answers, 32 tokens, 2000 tokens/s" in done.stdout and b"\n2 answers in all" in done.stdout
