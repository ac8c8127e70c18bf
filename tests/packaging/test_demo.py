"""The demo's parts: its jobs are accepted, its programs do real work that p104d can measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging_support import ROOT

from p104d.api.spec import Context, Document, ParsedDocument, parse_submission
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
    assert found["summary"].spec.after == ("inference",)
    assert found["broken"].spec.retries > 0
    assert sum(parsed.spec.vram_bytes or 0 for name, parsed in found.items() if name.startswith("half")) < 8 * 2**30


def test_programs_named_by_jobs_exist() -> None:
    for name, parsed in jobs().items():
        if parsed.spec.command[0] == "python3":
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


def test_language_model_answers_and_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the extra `llama` is not installed")
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    model, answers = tmp_path / "tiny.gguf", tmp_path / "answers.jsonl"
    subprocess.run([sys.executable, str(DEMO / "tiny_gguf.py"), str(model)], check=True)
    assert model.read_bytes()[:4] == b"GGUF"
    command = [sys.executable, str(DEMO / "llama_run.py"), "--model", str(model), "--output", str(answers)]
    command += ["--input", str(DEMO / "prompts.jsonl"), "--tokens", "16"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)

    asked = [json.loads(line)["custom_id"] for line in (DEMO / "prompts.jsonl").read_bytes().split(b"\n") if line]
    lines = [json.loads(line) for line in answers.read_bytes().split(b"\n") if line]
    assert [line["custom_id"] for line in lines] == asked
    assert all(line["timings"]["predicted_n"] == 16 for line in lines)

    parser = OutputParser(["llama.cpp"])
    parser.feed(done.stdout + done.stderr)
    found = {one.name: one.value for one in parser.result()}
    assert found["generation_tokens"] >= 16 * (len(asked) - 1)
    assert found["generation_tokens_per_second"] > 0

    summary = subprocess.run([sys.executable, str(DEMO / "summary.py"), str(answers)], capture_output=True, check=True)
    assert f"{len(asked)} requests, {16 * len(asked)} tokens".encode() in summary.stdout
