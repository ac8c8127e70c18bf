"""p104ctl bench: which jobs it submits, in which order, and what it makes of their ends."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_daemon import UUIDS, FakeDaemon, Reply, card, job, refusal
from fake_records import reference, result

from p104d.api import history as wire
from p104d.cli import benching

BOUND = 20.0
SPEEDS = [
    {"name": "prompt_tokens_per_second", "value": 402.1, "unit": "tokens/s"},
    {"name": "generation_tokens_per_second", "value": 18.6, "unit": "tokens/s"},
    {"name": "mean_power_watts", "value": 148.2, "unit": "W"},
    {"name": "joules_per_token", "value": 7.2, "unit": "J/token"},
]


class Queue:
    """Jobs numbered from 12 on that end as they are told to: by default all succeed at once."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.submitted: list[dict[str, Any]] = []
        self.ends: dict[int, str] = {}
        self.measured: dict[int, list[dict[str, Any]]] = {}
        self.waited: list[list[int]] = []
        daemon.answers["GET", "/v1/cards"] = {"cards": [card(0), card(1), card(2, state="drained")]}
        daemon.answers["POST", "/v1/submit"] = self.submit
        daemon.answers["POST", "/v1/jobs/wait"] = self.wait
        daemon.answers["POST", "/v1/jobs/show"] = self.show
        daemon.answers["GET", "/v1/history"] = self.history

    def submit(self, request: Any) -> Any:
        first = 12 + len(self.submitted)
        self.submitted += [json.loads(one["text"]) for one in request.body["documents"]]
        return {"jobs": [{"id": number, "name": "b"} for number in range(first, 12 + len(self.submitted))]}

    def wait(self, request: Any) -> Any:
        self.waited.append(request.body["ids"])
        ends = [(number, self.ends.get(number, "succeeded")) for number in request.body["ids"]]
        codes = {"succeeded": 0, "failed": 1}
        reasons = {"failed": "exit code 1"}
        return {
            "jobs": [
                {"id": number, "state": end, "exit_code": codes.get(end), "reason": reasons.get(end)}
                for number, end in ends
            ]
        }

    def show(self, request: Any) -> Any:
        return {"jobs": [job(n, measurements=self.measured.get(n, SPEEDS)) for n in request.body["ids"]]}

    def history(self, request: Any) -> Any:
        number = int(request.query["job"][0])
        prompt = result(number, measure="prompt_tokens_per_second", reference=reference(50.0))
        return {"tests": [], "results": [prompt, result(number, reference=reference())], "summaries": None}


@pytest.fixture
def queue(daemon: FakeDaemon) -> Queue:
    return Queue(daemon)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "Qwen2 7B.gguf").write_bytes(b"GGUF")
    program = tmp_path / "bin" / "llama-bench"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_card_after_another(daemon, ctl, queue, files):
    done = ctl("bench", "Qwen2 7B.gguf", "--repeat", "2", "--prompt", "64", "--generate", "32")
    assert done.code == 0 and done.err == "p104ctl: card 2 (P104-100) is left out: drained\n"
    program, model = str(files / "bin" / "llama-bench"), str(files / "Qwen2 7B.gguf")
    assert queue.submitted == [
        {
            "name": "bench-Qwen2 7B",
            "command": [program, "-m", model, "-o", "json", "-p", "64", "-n", "32", "-r", "2"],
            "only": [UUIDS[index]],
            "gpu_required": True,
            "labels": {"model": "Qwen2 7B", "bench": "1"},
            "measure": ["llama.cpp"],
        }
        for index in (0, 1)
    ]
    # The second is submitted once the first has ended, not before.
    assert [r.path for r in daemon.requests if r.path in ("/v1/submit", "/v1/jobs/wait")] == [
        "/v1/submit",
        "/v1/jobs/wait",
    ] * 2
    assert queue.waited == [[12], [13]]
    assert daemon.asked("/v1/submit")[0].body["keep_env"] == {}
    heading, *rows = done.out.splitlines()
    assert " ".join(heading.split()) == "# CARD RUN JOB PROMPT/S GENERATION/S WATTS TOKENS/WH ON RECORD"
    assert [row.split() for row in rows[:2]] == [
        f"{index} P104-100 alone {number} 402.1 18.6 148 500 99 % of 18.75".split()
        for index, number in ((0, 12), (1, 13))
    ]


def test_together_after_each_alone(daemon, ctl, queue, files, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/llama")
    done = ctl("bench", "Qwen2 7B.gguf", "--together")
    assert done.code == 0 and queue.waited == [[12], [13], [14, 15]]
    assert [one["labels"].get("together") for one in queue.submitted] == [None, None, "1", "1"]
    assert "together 37.2 tokens/s on 2 cards, 100 % of what each does alone" in done.out
    assert {one.body["keep_env"]["LD_LIBRARY_PATH"] for one in daemon.asked("/v1/submit")} == {"/opt/llama"}


def test_what_nobody_measured_is_no_column(ctl, queue, files):
    queue.measured = {12: SPEEDS[:2], 13: SPEEDS[:3]}
    heading, first, second = ctl("bench", "Qwen2 7B.gguf").out.splitlines()[:3]
    assert "TOKENS/WH" not in heading and "WATTS" in heading
    assert first.split()[6] == "-" and second.split()[6] == "148"


def test_only_the_cards_named_and_json_as_its_schema(ctl, queue, files):
    done = ctl("bench", "Qwen2 7B.gguf", "--card", "1", "--json")
    assert done.code == 0 and done.err == ""
    told = msgspec.json.decode(done.out, type=wire.Bench, strict=True)
    assert json.loads(done.out) == msgspec.to_builtins(told)
    [run] = told.runs
    assert (run.card, run.card_index, run.job_id, run.together) == (UUIDS[1], 1, 12, False)
    assert (run.generation_tokens_per_second, run.tokens_per_watt_hour, run.error) == (18.6, 500.0, None)
    assert run.reference is not None and run.reference.percent == 99.2
    assert ctl("bench", "Qwen2 7B.gguf", "--card", "7").code == 5


def test_a_failing_card_does_not_stop_the_others(daemon, ctl, queue, files):
    queue.ends[12] = "failed"
    daemon.answers["GET", "/v1/jobs/12/log"] = Reply(pieces=[b"loading\nerror: out of ", b"memory\n\n"])
    done = ctl("bench", "Qwen2 7B.gguf")
    assert done.code == 1 and queue.waited == [[12], [13]]
    assert done.err.splitlines()[-1] == "p104ctl: card 0: job 12 failed: exit code 1: error: out of memory"
    assert "failed" in done.out and "402.1" in done.out
    told = json.loads(ctl("bench", "Qwen2 7B.gguf", "--json").out)
    assert [run["error"] for run in told["runs"]] == [None, None]


def test_a_job_that_never_ran_or_printed_nothing_is_told(daemon, ctl, queue, files):
    queue.ends[12] = "cancelled"
    queue.measured[13] = SPEEDS[2:]
    daemon.answers["GET", "/v1/jobs/12/log"] = refusal(404, 5, "job 12 has not run")
    done = ctl("bench", "Qwen2 7B.gguf")
    assert done.code == 1
    assert done.err.splitlines()[-2:] == [
        "p104ctl: card 0: job 12 cancelled",
        "p104ctl: card 1: job 13 printed no speeds; see p104ctl logs 13",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.gguf"], 2, "none.gguf: no such file or directory"),
        (["Qwen2 7B.gguf", "--llama-bench", "bin"], 4, "bin is no program; build llama.cpp"),
        (["Qwen2 7B.gguf", "--prompt", "0", "--generate", "0"], 2, "nothing to measure"),
        (["Qwen2 7B.gguf", "--card", "2"], 4, "no card takes jobs"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(ctl, queue, files, arguments, code, said):
    done = ctl("bench", *arguments)
    assert done.code == code and said in done.err and queue.submitted == []


def test_without_llama_bench_the_mend_is_told(daemon, ctl, queue, files, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    done = ctl("bench", "Qwen2 7B.gguf")
    assert done.code == 4 and done.err.count("\n") == 1 and "--llama-bench PATH" in done.err
    assert daemon.requests == []


def test_a_waiting_job_says_what_for_and_ctrl_c_cancels_it(daemon, spawn, queue, files):
    told = threading.Event()

    def wait(request: Any) -> Any:
        late = request.body["timeout_seconds"] is None and not told.wait(BOUND)
        return {"jobs": [{"id": 12, "state": "lost" if late else "queued", "exit_code": None, "reason": None}]}

    daemon.answers["POST", "/v1/jobs/wait"] = wait
    daemon.answers["POST", "/v1/jobs/show"] = {"jobs": [job(12, waiting_because="card 0: job 3 is on it")]}
    daemon.answers["POST", "/v1/jobs/cancel"] = {"jobs": [job(12, "cancelled")]}
    process = spawn("bench", "Qwen2 7B.gguf", "--card", "0")
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == b"p104ctl: job 12: card 0: job 3 is on it\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=BOUND)
    finally:
        told.set()
    assert (process.returncode, out) == (130, b"")
    assert err == b"p104ctl: interrupted; cancelled job 12\n"
    assert [request.body for request in daemon.asked("/v1/jobs/cancel")] == [{"ids": [12]}]


def test_names_hold_what_a_job_may_be_called():
    assert benching.model_name("/m/a-b.gguf") == "a-b" and benching.model_name("/m/\x1b.gguf") == "model"
    assert benching.model_name("/m/a.b-00001-of-00002.gguf") == "a.b" and benching.model_name("/m/Q8.GGUF") == "Q8"
    assert len(benching.model_name("/" + "x" * 300)) == 100
