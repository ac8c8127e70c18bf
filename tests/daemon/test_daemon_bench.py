"""p104ctl bench against a daemon: jobs on simulated cards, a llama-bench that prints what a real one does."""

from __future__ import annotations

from pathlib import Path

import pytest
from daemon_rig import ROOT, Rig

OUTPUT = ROOT / "tests" / "data" / "output" / "llama-bench.json"


@pytest.fixture
def program(rig: Rig) -> Path:
    """Fails on card 1 where the file ``fail`` is; else prints a real run's output."""
    (rig.work / "tiny.gguf").write_bytes(b"GGUF")
    made = rig.work / "llama-bench"
    made.write_text(
        "#!/bin/sh\n"
        f'[ -e {rig.work}/fail ] && [ "$CUDA_VISIBLE_DEVICES" = "$(cat {rig.work}/fail)" ]'
        " && { echo 'error: failed to load model'; exit 1; }\n"
        f"cat {OUTPUT}\n"
    )
    made.chmod(0o755)
    return made


def test_every_card_is_measured_and_on_record(rig: Rig, program: Path) -> None:
    told = rig.json("bench", "tiny.gguf", "--llama-bench", program, "--card", "0", "--card", "2", "--together")
    runs = told["runs"]
    assert [(run["card_index"], run["together"], run["state"]) for run in runs] == [
        (0, False, "succeeded"),
        (2, False, "succeeded"),
        (0, True, "succeeded"),
        (2, True, "succeeded"),
    ]
    for run in runs:
        assert run["prompt_tokens_per_second"] == pytest.approx(36547.2, abs=0.1)
        assert run["generation_tokens_per_second"] == pytest.approx(8240.0, abs=0.1)
        job = rig.show(run["job_id"])
        assert job["cards"] == [run["card"]] and job["labels"]["model"] == "tiny"
    kept = rig.json("history", "--model", "tiny", "--measure", "generation")
    assert {one["card"] for one in kept["summaries"]} == {run["card"] for run in runs}


def test_a_card_that_fails_is_told_with_its_last_line(rig: Rig, program: Path) -> None:
    (rig.work / "fail").write_text(rig.card(1)["uuid"])
    try:
        done = rig.ctl("bench", "tiny.gguf", "--llama-bench", program, "--card", "1", "--card", "3")
    finally:
        (rig.work / "fail").unlink()
    assert done.code == 1, done
    assert done.err.count("\n") == 1
    assert "card 1" in done.err and "exit code 1: error: failed to load model" in done.err
    assert done.out.count("alone") == 2 and "failed" in done.out
