"""The batch runner against a server that fails in every way there is."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from batch_place import Ended, Place, wait_for_lines
from fake_server import ALIVE, CUT, DIE, HANG, RESET, FakeServer, always, answer, error, reply

from p104d.engines.measure import OutputParser


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


def figures(out: str) -> dict[str, float]:
    parser = OutputParser(["llama.cpp"])
    parser.feed(out.encode())
    return {each.name: each.value for each in parser.result()}


def fails_first(times: int, action: str | bytes) -> Any:
    """A script: each request but the question for life fails so often."""
    return lambda prompt, nth: action if nth <= times and prompt != ALIVE else answer(prompt)


# --- a batch without trouble ---


def test_every_request_has_its_answer(place: Place) -> None:
    place.prompts(30)
    together = threading.Barrier(4)

    def script(prompt: str, _nth: int) -> bytes:
        if prompt in ("p0", "p1", "p2", "p3"):
            together.wait(30)
        return answer(f"to {prompt}")

    with FakeServer(place.socket, script) as server:
        done = place.run()
    assert (done.code, done.err) == (0, "")
    for line in place.answers():
        name = line["custom_id"]
        assert line["response"]["status_code"] == 200 and line["response"]["request_id"]
        assert line["response"]["body"]["content"] == f"to {name}"
        assert line["timings"] == line["response"]["body"]["timings"]
        assert (line["error"], line["attempts"], f"p{line['line'] - 1}") == (None, 1, name)
        assert line["seconds"] >= 0 and line["id"].startswith("batch_req_")
    assert sorted(place.good()) == sorted(f"p{i}" for i in range(30))
    assert server.most == server.connections == 4, "four at a time, and connections are kept"
    assert set(server.seen.values()) == {1}


def test_the_totals_are_the_jobs_measurements(place: Place) -> None:
    place.prompts(10)
    with FakeServer(place.socket, always(answer(tokens=4))):
        done = place.run()
    assert figures(done.out) == {
        "prompt_tokens_per_second": 100.0,
        "generation_tokens_per_second": 40.0,
        "prompt_tokens": 30,
        "generation_tokens": 40,
        "items": 10,
    }
    parser = OutputParser(["llama.cpp"])
    parser.feed(done.out.encode())
    progress = parser.progress()
    assert progress is not None and progress.fraction == 1.0 and progress.seconds_left == 0


def test_progress_while_it_runs(place: Place) -> None:
    place.prompts(8)
    place.orders |= {"parallel": 1, "report_seconds": 0.001}
    hold = threading.Event()

    def script(prompt: str, _nth: int) -> bytes:
        if prompt == "p4":
            hold.wait(60)
        return answer()

    with FakeServer(place.socket, script):
        runner = place.start()
        assert runner.stdout is not None
        said = ""
        while "4/8" not in said:
            said += runner.stdout.readline()
        parser = OutputParser(["tqdm", "llama.cpp"])
        parser.feed(said.encode())
        progress = parser.progress()
        hold.set()
        assert place.end(runner).code == 0
    assert progress is not None and progress.fraction == 0.5 and progress.seconds_left is not None


def test_both_forms_reach_their_endpoints(place: Place) -> None:
    place.write(
        [
            {
                "custom_id": "chat",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"messages": [], "model": "x"},
            },
            {"custom_id": "text", "url": "/v1/completions", "body": {"prompt": "a", "stream": True}},
            {"custom_id": "told", "body": {"input": "b"}},
            {"prompt": "c", "n_predict": 7, "stream": True},
            {"custom_id": 9, "prompt": [1, 2]},
        ]
    )
    with FakeServer(place.socket, always(answer())) as server:
        assert place.run().code == 0
    sent = {url + str(body.get("prompt", "")): body for url, body in server.bodies}
    assert sent["/v1/chat/completions"] == {"messages": [], "model": "tiny", "stream": False}
    assert sent["/v1/completionsa"] == {"prompt": "a", "model": "tiny", "stream": False}
    assert sent["/v1/embeddings"] == {"input": "b", "model": "tiny", "stream": False}
    assert sent["/completionc"] == {"prompt": "c", "n_predict": 7, "stream": False}
    assert sorted(place.good()) == ["4", "9", "chat", "text", "told"]


def test_no_requests_are_no_failure(place: Place) -> None:
    place.write([b"\xef\xbb\xbf\r\n", b"  \n", b"\n"])
    done = place.run()
    assert done.code == 0 and "has no requests" in done.out and place.output.exists()


def test_answers_of_every_framing_are_read(place: Place) -> None:
    body = json.dumps({"content": "yes"}).encode()
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % 5 + body[:5]
    chunked += b"\r\n%X;x=y\r\n" % (len(body) - 5) + body[5:] + b"\r\n0\r\n\r\n"
    framings = [
        reply(200, body, "Connection: close"),
        reply(200, body),
        b"HTTP/1.0 200 OK\r\n\r\n" + body,
        chunked,
        b"HTTP/1.1 100 Continue\r\n\r\n" + reply(200, body),
    ]
    place.prompts(len(framings) * 4)
    with FakeServer(place.socket, lambda prompt, _nth: framings[int(prompt[1:]) % len(framings)]):
        done = place.run()
    assert done.code == 0, done.err
    assert {line["response"]["body"]["content"] for line in place.answers()} == {"yes"}
    assert {line["attempts"] for line in place.answers()} == {1}


def test_what_json_cannot_say_does_not_get_into_the_output(place: Place) -> None:
    place.prompts(1)
    odd = b'{"content": "\\ud800 \xff", "logprob": NaN, "big": 1e999, "low": -Infinity}'
    with FakeServer(place.socket, always(reply(200, odd))):
        assert place.run().code == 0
    body = place.answers()[0]["response"]["body"]
    assert body == {"content": "\ud800 \ufffd", "logprob": None, "big": None, "low": None}


# --- lines ---

GOOD = {"prompt": "fine"}
JUNK: list[tuple[str, bytes]] = [
    ("not JSON", b"hello\n"),
    ("not JSON", b'{"prompt": "a"\n'),
    ("not JSON", b'{"prompt": "a\x00b"}\n'),
    ("not JSON", b'{"prompt": "a", "temperature": NaN}\n'),
    ("not JSON", b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}\n"),
    ("not UTF-8", b'{"prompt": "\xff"}\n'),
    ("not an object", b'["prompt"]\n'),
    ("nested too deeply", b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
    ('neither a "body" nor a "prompt"', b"{}\n"),
    ('neither a "body" nor a "prompt"', b'{"prompt": null}\n'),
    ("belong into a", b'{"messages": []}\n'),
    ('"body" is not an object', b'{"body": []}\n'),
    ('"url" is none of', b'{"url": "/v1/images", "body": {}}\n'),
    ('"url" is none of', b'{"url": ["/v1/embeddings"], "body": {}}\n'),
    ('there is no "url"', b'{"body": {}}\n'),
    ('not "POST"', b'{"method": "GET", "body": {"prompt": "a"}}\n'),
    ('"custom_id" is not a text', b'{"custom_id": "", "prompt": "a"}\n'),
    ('"custom_id" is not a text', b'{"custom_id": [1], "prompt": "a"}\n'),
    ('"custom_id" is not a text', b'{"custom_id": true, "prompt": "a"}\n'),
    ('"custom_id" is not a text', b'{"custom_id": "' + b"x" * 1025 + b'", "prompt": "a"}\n'),
    ("longer than 16 MiB", b'{"prompt": "' + b"a" * 16 * 1024 * 1024 + b'"}\n'),
]


def test_a_junk_line_costs_itself_alone(place: Place) -> None:
    """And says why; the lines around it are answered. A rerun says nothing twice."""
    lines: list[Any] = [b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n", b"\r\n"]
    for _why, raw in JUNK:
        lines += [raw, GOOD]
    lines.append(json.dumps(GOOD))  # without a line end
    place.write(lines)
    with FakeServer(place.socket, always(answer())):
        done = place.run()
        first = place.output.read_bytes()
        again = place.run()
    assert done.code == again.code == 1
    assert done.out.splitlines()[-1].startswith(f"{len(JUNK)} of {2 * len(JUNK) + 2} requests failed")
    assert len(place.good()) == len(JUNK) + 2
    assert place.output.read_bytes() == first
    told = {line["line"]: line["error"]["message"] for line in place.answers() if line["error"]}
    for position, (why, raw) in enumerate(JUNK):
        assert why in told[3 + 2 * position], raw[:60]
    assert all(line["error"]["code"] == "bad_line" for line in place.answers() if line["error"])


def test_a_junk_line_takes_nobodys_id(place: Place) -> None:
    """The first line's number is the second's own id."""
    place.write([b"junk\n", {"custom_id": "1", "prompt": "a"}])
    with FakeServer(place.socket, always(answer())):
        assert place.run().code == 1
    assert place.good() == ["1"] and place.bad() == {None: "bad_line"}


@pytest.mark.parametrize(
    "lines",
    [
        [{"custom_id": "a", "prompt": "1"}, b"\n", {"custom_id": "a", "prompt": "2"}],
        [{"custom_id": 3, "prompt": "1"}, b"junk\n", {"prompt": "2"}],
    ],
)
def test_ids_must_differ(place: Place, lines: list[Any]) -> None:
    place.write(lines)
    with FakeServer(place.socket, always(answer())) as server:
        done = place.run()
    assert done.code == 2 and "lines 1 and 3 have the same custom_id" in done.err
    assert not server.seen and not place.output.read_bytes()


# --- places that cannot be ---


def mend(place: Place) -> str:
    """The one line that a refused batch says."""
    done = place.run()
    assert done.code == 2 and done.out == "", done
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    return done.err


def test_an_input_that_cannot_be_read(place: Place) -> None:
    assert "does not exist" in mend(place)
    place.input.mkdir()
    assert "is not a file" in mend(place)
    place.input.rmdir()
    os.mkfifo(place.input)
    assert "is not a file" in mend(place)
    place.input.unlink()
    place.input.symlink_to(place.input)
    assert "cannot be read" in mend(place)


def test_an_input_of_somebody_else(place: Place) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    place.prompts(1)
    place.input.chmod(0)
    assert "cannot be read (Permission denied)" in mend(place)


def test_an_output_that_cannot_be(place: Place) -> None:
    place.prompts(1)
    place.output.mkdir()
    assert "is a folder" in mend(place)
    place.output.rmdir()
    os.mkfifo(place.output)
    assert "is not a file" in mend(place)
    place.output.unlink()
    place.output.symlink_to(place.output)
    assert "cannot be opened" in mend(place)
    place.output.unlink()
    os.link(place.input, place.output)
    assert "is the input" in mend(place)
    place.orders["output"] = str(place.folder / "none" / "out")
    assert "does not exist" in mend(place)
    place.orders["output"] = "/dev/null"
    assert "is not a file" in mend(place)


def test_an_input_that_changes_under_way(place: Place) -> None:
    """The ids were looked at before; others appear now."""
    place.write({"custom_id": f"{i:06}", "prompt": "x" * 4000} for i in range(300))

    def script(_prompt: str, _nth: int) -> bytes:
        place.write({"custom_id": f"z{i:05}", "prompt": "x" * 4000} for i in range(300))
        return answer()

    with FakeServer(place.socket, script):
        done = place.run()
    assert done.code == 2 and "was changed while it was read" in done.err
    assert place.good(), "what was answered is kept"


def test_an_input_that_gets_shorter_under_way(place: Place) -> None:
    """What is not there any more was not answered: that is no success."""
    lines = [{"custom_id": f"{i:06}", "prompt": "x" * 4000} for i in range(300)]
    place.write(lines)

    def script(_prompt: str, _nth: int) -> bytes:
        os.truncate(place.folder / "in.jsonl", sum(len(json.dumps(line)) + 1 for line in lines[:200]))
        return answer()

    with FakeServer(place.socket, script):
        done = place.run()
    assert done.code == 2 and "was changed while it was read" in done.err, done
    assert 0 < len(place.good()) <= 200


# --- a server in trouble ---


def test_a_server_that_ends_connections_without_a_word(place: Place) -> None:
    """As one may at any time between two requests: that is no failure of theirs."""
    place.prompts(12)
    place.orders["retries"] = 0
    silent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    with FakeServer(place.socket, always(silent)) as server:
        done = place.run()
    assert (done.code, done.err) == (0, "")
    assert len(place.good()) == 12 and server.seen.total() == 12


@pytest.mark.parametrize("action", [error(500), error(429), RESET, CUT, b"", b"hello\r\n\r\n", reply(200, b"no JSON")])
def test_a_failure_is_tried_again(place: Place, action: str | bytes) -> None:
    place.prompts(3)
    with FakeServer(place.socket, fails_first(2, action)):
        done = place.run()
    assert (done.code, done.err) == (0, "")
    assert sorted(place.good()) == ["p0", "p1", "p2"]
    # A connection that was used before may close once at no cost.
    assert {line["attempts"] for line in place.answers()} <= ({2, 3} if action in (b"", RESET) else {3})


@pytest.mark.parametrize(
    ("action", "code", "status"),
    [(error(500, "out of it"), "http_500", 500), (CUT, "connection", None), (reply(200, b"["), "bad_answer", 200)],
)
def test_one_request_that_fails_for_good(place: Place, action: str | bytes, code: str, status: int | None) -> None:
    place.prompts(6)
    with FakeServer(place.socket, lambda prompt, _nth: action if prompt == "p2" else answer()) as server:
        done = place.run()
    assert done.code == 1 and done.out.splitlines()[-1].startswith("1 of 6 requests failed")
    assert place.bad() == {"p2": code} and len(place.good()) == 5
    line = next(each for each in place.answers() if each["error"])
    assert line["attempts"] == server.seen["p2"] == 3
    assert (line["response"] or {}).get("status_code") == status
    assert "line 3 ('p2') failed" in done.err


@pytest.mark.parametrize("status", [400, 404, 413, 501])
def test_a_refusal_is_not_tried_again(place: Place, status: int) -> None:
    said = "request (2002 tokens) exceeds the available context size (256 tokens), try increasing it"
    place.prompts(3)
    with FakeServer(place.socket, lambda prompt, _nth: error(status, said) if prompt == "p1" else answer()) as server:
        assert place.run().code == 1
    line = next(each for each in place.answers() if each["error"])
    assert line["error"] == {"code": f"http_{status}", "message": said}
    assert line["response"]["status_code"] == status and line["response"]["body"]["error"]["message"] == said
    assert server.seen["p1"] == 1


def test_errors_are_asked_again_on_a_rerun_and_the_newest_line_counts(place: Place) -> None:
    place.prompts(3)
    with FakeServer(place.socket, lambda prompt, _nth: error(400) if prompt == "p1" else answer()):
        assert place.run().code == 1
    with FakeServer(place.socket, always(answer("now"))) as server:
        assert place.run().code == 0
        assert dict(server.seen) == {"p1": 1}
        assert place.run().code == 0
    lines = [line for line in place.answers() if line["custom_id"] == "p1"]
    assert [line["error"] is None for line in lines] == [False, True]


def test_an_answer_to_other_words_does_not_count(place: Place) -> None:
    """The ids are line numbers, and a line was put in front of them."""
    place.write([{"prompt": "a"}, {"prompt": "b"}])
    with FakeServer(place.socket, lambda prompt, _nth: answer(f"to {prompt}")) as server:
        assert place.run().code == 0
        place.write([{"prompt": "new"}, {"prompt": "b"}])
        assert place.run().code == 0
        assert dict(server.seen) == {"a": 1, "b": 1, "new": 1}
    newest = {line["custom_id"]: line["response"]["body"]["content"] for line in place.answers()}
    assert newest == {"1": "to new", "2": "to b"}


def test_a_server_that_loads_is_waited_for(place: Place) -> None:
    place.prompts(2)
    place.orders["retries"] = 0
    with FakeServer(place.socket, fails_first(1, error(503, "Loading model"))):
        done = place.run()
    assert done.code == 0 and {line["attempts"] for line in place.answers()} == {1}


def test_a_server_that_loads_for_ever(place: Place) -> None:
    place.prompts(2)
    place.orders["loading_wait_seconds"] = 0.3
    with FakeServer(place.socket, lambda _prompt, _nth: error(503, "Loading model")):
        done = place.run()
    assert done.code == 75 and "has been loading" in done.err and place.answers() == []


def test_a_server_that_is_not_there(place: Place) -> None:
    place.prompts(2)
    place.orders["server_wait_seconds"] = 0.2
    began = time.monotonic()
    done = place.run()
    assert done.code == 75 and "is gone" in done.err
    assert time.monotonic() - began >= 0.2


def test_a_server_that_dies(place: Place) -> None:
    place.prompts(10)
    place.orders |= {"server_wait_seconds": 0.2, "parallel": 2}
    with FakeServer(place.socket, lambda prompt, _nth: DIE if prompt == "p5" else answer()):
        assert place.run().code == 75
    kept = place.good()
    assert 0 < len(kept) < 10 and not place.bad()
    with FakeServer(place.socket, always(answer())) as server:
        assert place.run().code == 0
        assert not set(server.seen) & set(kept), "nothing is asked twice"
    assert sorted(place.good()) == sorted(f"p{i}" for i in range(10))


def test_a_server_that_comes_back(place: Place) -> None:
    place.prompts(10)
    server = FakeServer(place.socket, lambda prompt, nth: DIE if prompt == "p5" and nth == 1 else answer())
    with server:
        runner = place.start()
        while server._listener is not None:
            assert runner.poll() is None
            time.sleep(0.01)
        server.start()
        assert place.end(runner).code == 0
    assert sorted(place.good()) == sorted(f"p{i}" for i in range(10))


def test_a_request_that_kills_the_server_takes_no_other_with_it(place: Place) -> None:
    """Each death costs a try of all that were there; the last one is a request's own."""
    place.prompts(8)
    server = FakeServer(place.socket, lambda prompt, _nth: DIE if prompt == "p1" else answer())
    with server:
        runner = place.start()
        while runner.poll() is None:
            if server._listener is None:
                server.start()
            time.sleep(0.005)
        done = place.end(runner)
    assert done.code == 1, done.err
    assert place.bad() == {"p1": "connection"} and len(place.good()) == 7
    # One more where it came over a connection that was used before: that may end at any time.
    assert 3 <= server.seen["p1"] <= 4


def test_a_hanging_request_costs_itself(place: Place) -> None:
    place.prompts(4)
    place.orders |= {"request_timeout_seconds": 0.3, "parallel": 1, "retries": 3}
    with FakeServer(place.socket, lambda prompt, _nth: HANG if prompt == "p3" else answer()) as server:
        done = place.run()
    assert done.code == 1, done.err
    assert place.bad() == {"p3": "timeout"} and len(place.good()) == 3
    assert server.seen["p3"] == 4 and server.seen[ALIVE] >= 1, "the server was asked whether it lives"


@pytest.mark.parametrize("action", [HANG, error(500), CUT])
@pytest.mark.parametrize("count", [1, 6])
def test_a_server_that_does_nothing_any_more(place: Place, action: str | bytes, count: int) -> None:
    place.prompts(count)
    place.orders |= {"request_timeout_seconds": 0.2, "retries": 3}
    with FakeServer(place.socket, lambda _prompt, _nth: action):
        done = place.run()
    assert done.code == 75 and "not give a single token" in done.err
    assert place.good() == []


def test_a_full_queue_of_connections_is_waited_for(place: Place) -> None:
    """AF_UNIX says EAGAIN where TCP would let one wait."""
    import socket

    place.prompts(1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.socket))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(place.socket))
            runner = place.start()
            assert runner.stdout is not None
            assert "requests" in runner.stdout.readline()
            listener.accept()[0].close()
            listener.settimeout(30)
            connection, _address = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer())
            assert place.end(runner).code == 0


# --- its own ends ---


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_end_it_keeps_what_has_come(place: Place, number: signal.Signals, code: int) -> None:
    place.prompts(5)
    place.orders["parallel"] = 2
    with FakeServer(place.socket, lambda prompt, _nth: HANG if prompt == "p3" else answer()) as server:
        runner = place.start()
        assert wait_for_lines(place.output, 4, runner)
        began = time.monotonic()
        runner.send_signal(number)
        done = place.end(runner)
        assert time.monotonic() - began < 1
        assert server.seen["p3"] == 1
    assert done.code == code and "4/5 requests" in done.out
    assert sorted(place.good()) == ["p0", "p1", "p2", "p4"]


def test_asked_to_end_while_it_waits_for_a_server(place: Place) -> None:
    place.prompts(5)
    runner = place.start()
    assert runner.stdout is not None and "requests" in runner.stdout.readline()
    runner.terminate()
    assert place.end(runner).code == 143


def test_one_output_has_one_runner(place: Place) -> None:
    place.prompts(1)
    with FakeServer(place.socket, lambda _prompt, _nth: HANG) as server:
        first = place.start()
        assert server.asked.wait(30)
        second = place.run()
        assert second.code == 73 and "another batch writes" in second.err
        first.terminate()
        assert place.end(first).code == 143


def test_nobody_reads_what_it_says(place: Place) -> None:
    place.prompts(5)
    runner_orders = place.orders
    runner_orders["report_seconds"] = 0.001
    with FakeServer(place.socket, lambda prompt, _nth: error(400) if prompt == "p1" else answer()):
        runner = place.start()
        assert runner.stdout is not None and runner.stderr is not None
        runner.stdout.close()
        runner.stderr.close()
        assert runner.wait(30) == 1
    place.runners.remove(runner)
    assert len(place.good()) == 4


def test_an_output_that_is_taken_away(place: Place) -> None:
    place.prompts(5)

    def script(_prompt: str, _nth: int) -> bytes:
        place.output.unlink(missing_ok=True)
        return answer()

    with FakeServer(place.socket, script):
        done = place.run()
    assert done.code == 74 and "was removed" in done.err


@pytest.mark.parametrize("how", ["emptied", "cut", "moved", "replaced", "added to"])
def test_an_output_that_somebody_else_changes(place: Place, how: str) -> None:
    """No answer goes where nobody looks for it, and a rerun asks for what is missing."""
    place.prompts(6)
    place.orders["parallel"] = 1
    note = b'{"note": "mine"}\n'

    def script(prompt: str, _nth: int) -> bytes:
        if prompt == "p3" and not done:
            meddle(place, how, note)
        return answer()

    done: list[Ended] = []
    with FakeServer(place.socket, script):
        done.append(place.run())
        assert done[0].code == 74 and "while its answers were written" in done[0].err, done
        assert "Traceback" not in done[0].err
        if how == "added to":
            refused = place.run()
            assert refused.code == 2 and "is not an answer of a batch; take that line out" in refused.err
            place.output.write_bytes(place.output.read_bytes().replace(note, b""))
        assert place.run().code == 0
    assert sorted(place.good()) == [f"p{i}" for i in range(6)]


def meddle(place: Place, how: str, note: bytes) -> None:
    """What people and their programs do to a file that is being written."""
    if how == "emptied":
        os.truncate(place.output, 0)
    elif how == "cut":
        os.truncate(place.output, place.output.stat().st_size - 20)
    elif how == "added to":
        with place.output.open("ab") as file:
            file.write(note)
    else:
        place.output.rename(place.output.with_suffix(".old"))
        if how == "replaced":
            place.output.touch()


def test_a_full_disk(place: Place) -> None:
    """A limit on the file's size stands for it: the write is cut short in the middle of a line."""
    import resource
    import subprocess
    import sys

    place.prompts(20)
    code = (
        "import resource, sys\nfrom p104d.engines.batch import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))\nsys.exit(main(sys.argv[1:]))"
    )
    with FakeServer(place.socket, always(answer("x" * 300))):
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(place.orders)], capture_output=True, text=True, timeout=60
        )
        kept = place.good()
        assert done.returncode == 74 and "make room" in done.stderr, done
        assert 0 < len(kept) < 20 and place.output.stat().st_size <= 3000
        assert place.run().code == 0
    assert sorted(place.good()) == sorted(f"p{i}" for i in range(20))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 3000
