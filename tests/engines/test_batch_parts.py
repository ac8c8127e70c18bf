"""The parts of the batch runner by themselves: lines, answers, the file of answers, ids, orders, HTTP."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p104d.engines import batch_http
from p104d.engines.batch_answer import ANSWERED, FAILED, LOADING, REFUSED, judge
from p104d.engines.batch_http import BrokenError, Response
from p104d.engines.batch_index import Index
from p104d.engines.batch_input import Junk, Request, requests
from p104d.engines.batch_orders import OrdersError, parse
from p104d.engines.batch_output import HEAD, Answers, BusyError, LostError, line_of
from p104d.engines.batch_report import Report
from p104d.engines.measure import OutputParser

ORDERS: dict[str, Any] = {"version": 1, "socket": "/s.sock", "input": "in", "output": "out"}


@pytest.fixture
def output() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="p104-b-", dir="/tmp") as folder:
        yield Path(folder) / "out.jsonl"


# --- orders ---


def test_orders_have_defaults() -> None:
    orders = parse(json.dumps(ORDERS))
    assert (orders.parallel, orders.retries, orders.request_timeout_seconds, orders.model) == (1, 2, 600, "")


@pytest.mark.parametrize(
    "change",
    [
        *({"version": 2}, {"socket": "/" + "x" * 107}, {"parallel": 0}, {"parallel": 1.5}, {"parallel": 257}),
        *({"retries": True}, {"retries": -1}, {"input": ""}, {"output": None}, {"request_timeout_seconds": 0}),
        *({"server_wait_seconds": float("inf")}, {"retry_wait_seconds": "1"}, {"slots": 4}, {"model": "\0"}),
    ],
)
def test_orders_that_make_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(OrdersError, match=r"orders|socket"):
        parse(json.dumps(ORDERS | change))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"x"', '{"version": 1}'])
def test_what_is_no_orders(text: str) -> None:
    with pytest.raises(OrdersError):
        parse(text)


# --- lines of the input ---

KEYS = st.sampled_from(["custom_id", "prompt", "body", "url", "method", "messages", "input", "stream"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()), max_size=8))
def test_any_input_gives_requests_or_reasons(lines: list[bytes]) -> None:
    whole = b"\n".join(lines)
    found = list(requests(io.BytesIO(whole)))
    assert len(found) <= whole.count(b"\n") + 1
    assert [each.line for each in found] == sorted({each.line for each in found})
    for each in found:
        if isinstance(each, Request):
            assert json.loads(each.body)["stream"] is False and each.custom_id
        else:
            assert each.why and "\n" not in each.why


def test_a_line_of_the_longest_kind_is_taken_and_the_next_byte_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p104d.engines.batch_input.MOST_LINE_BYTES", 40)
    fits = b'{"prompt": "%s"}' % (b"a" * 26)
    assert len(fits) == 40
    longer = fits.replace(b"a", b"aa", 1)
    for last in (b"", b"\n"):
        found = list(requests(io.BytesIO(longer + b"\n" + fits + b"\n" + longer * 3 + b"\n" + fits + last)))
        assert [type(each) for each in found] == [Junk, Request, Junk, Request]
        assert [each.line for each in found] == [1, 2, 3, 4]


def test_the_words_of_a_request_have_a_check_of_their_own() -> None:
    lines = [
        {"prompt": "a"},
        {"prompt": "b"},
        {"body": {"prompt": "a"}},
        {"body": {"input": "a"}},
        {"prompt": "a", "n_predict": 1},
    ]
    found = list(requests(io.BytesIO(b"\n".join(json.dumps(each).encode() for each in lines))))
    assert len({each.check for each in found if isinstance(each, Request)}) == len(lines)


# --- ids ---


@given(st.lists(st.tuples(st.integers(0, 60).map(str), st.integers(0, 2**32 - 1)), max_size=200))
@settings(max_examples=50)
def test_the_index_is_a_dictionary(entries: list[tuple[str, int]]) -> None:
    index, kept = Index(), dict[str, tuple[int, int]]()
    for line, (name, check) in enumerate(entries, 1):
        assert index.add(name, line, check) == kept.get(name, (0, 0))[0]
        kept.setdefault(name, (line, check))
    assert len(index) == len(kept)
    done = {name for name, (line, _check) in kept.items() if line % 2}
    for name, (line, check) in kept.items():
        assert index.mark(name, check if line % 2 else check ^ 1, True)
        assert index.line_of(name) == line
    assert {name for name in kept if index.is_done(name)} == done and index.done == len(done)
    assert not index.mark("none", None, True) and not index.is_done("none") and not index.line_of("none")
    for name in kept:
        index.mark(name, None, False)
    assert index.done == 0


def test_an_index_grows_and_stays_small() -> None:
    index = Index()
    for line in range(1, 100_001):
        assert index.add(f"request {line}", line, line) == 0
    assert index.add("request 77777", 5, 5) == 77_777 and len(index) == 100_000
    held = sum(each.itemsize * len(each) for each in (index._keys, index._lines, index._checks)) + len(index._done)
    assert held <= 60 * 100_000


# --- the file of answers ---


def answered(custom_id: str, content: str = "yes", *, bad: bool = False, check: int = 7) -> bytes:
    return line_of(
        "1_1",
        custom_id=custom_id,
        line=1,
        check=check,
        response=None if bad else {"status_code": 200, "request_id": "x", "body": {"content": content}},
        error={"code": "timeout", "message": "late"} if bad else None,
    )


def index_of(names: list[str]) -> Index:
    index = Index()
    for line, name in enumerate(names, 1):
        index.add(name, line, 7)
    return index


def resumed(output: Path, names: list[str]) -> set[str]:
    """Which of them are done, as a new runner finds it; the file is repaired by that."""
    answers, index = Answers(str(output)), index_of(names)
    try:
        answers.resume(index)
    finally:
        answers.close()
    return {name for name in names if index.is_done(name)}


@given(
    lines=st.lists(st.tuples(st.sampled_from("abcdé"), st.booleans(), st.sampled_from([7, 8])), max_size=6),
    cut=st.integers(1, 400),
    zeros=st.integers(0, 50),
)
def test_what_is_whole_is_kept_and_what_is_torn_is_not(
    lines: list[tuple[str, bool, int]], cut: int, zeros: int
) -> None:
    """However the last line is torn: everything before it counts, the newest line of an id decides, and what is
    appended afterwards is whole."""
    with tempfile.TemporaryDirectory(prefix="p104-b-", dir="/tmp") as folder:
        output = Path(folder) / "out"
        whole = b"".join(answered(name, "é\n" * 3, bad=bad, check=check) for name, bad, check in lines)
        torn = answered("z", "torn" * 80)[:cut]
        output.write_bytes(whole + torn + bytes(zeros if len(torn) >= len(HEAD) or lines else 0))
        state = dict[str, bool]()
        for name, bad, check in lines:
            if check == 7:
                state[name] = not bad
        names = [*"abcdé", "z"]
        expected = {name for name, good in state.items() if good}
        assert resumed(output, names) == expected
        assert output.read_bytes() == whole, "cut off, and nothing else"
        answers = Answers(str(output))
        answers.append([answered("z", "new")])
        answers.close()
        assert resumed(output, names) == expected | {"z"}


def test_a_last_line_that_lacks_only_its_end_is_kept(output: Path) -> None:
    output.write_bytes(answered("a") + answered("b")[:-1])
    assert resumed(output, ["a", "b"]) == {"a", "b"}
    assert output.read_bytes() == answered("a") + answered("b")


def test_pages_that_power_took_are_cut_off(output: Path) -> None:
    """Zeros in the middle: those lines were never durable, nor those after them."""
    line = answered("b", "x" * 50)
    for hole in (line[:30] + bytes(len(line) - 31) + b"\n", bytes(len(line) - 1) + b"\n", bytes(20) + line[20:]):
        output.write_bytes(answered("a") + hole + answered("c"))
        assert resumed(output, ["a", "b", "c"]) == {"a"}
        assert output.read_bytes() == answered("a")


@pytest.mark.parametrize(
    "foreign",
    [
        b"my diary\n",
        b"GGUF\x03\x00\x00\x00",
        b"GGUF\x03\x00\x00\x00\n\x00\x00\n",
        b'{"a": 1}\n',
        b"[]",
        b"\0" * 100,
        b"\0" * 100 + b"\n",
        answered("a") + b"diary",
        answered("a") + b"diary\n" + HEAD,
        answered("a") + HEAD + b"\n" + answered("b"),
        b'{"custom_id": "a", "prompt": "these are requests"}\n',
    ],
)
def test_a_foreign_file_is_left_alone(output: Path, foreign: bytes) -> None:
    output.write_bytes(foreign)
    with pytest.raises(OrdersError, match="is not an answer of a batch"):
        resumed(output, ["a"])
    assert output.read_bytes() == foreign


def test_answers_of_openai_are_taken_over(output: Path) -> None:
    output.write_text('{"id": "batch_req_x", "custom_id": "a", "response": {"status_code": 200}, "error": null}\n\n')
    assert resumed(output, ["a", "b"]) == {"a"}


def test_a_file_has_one_writer(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p104d.engines.batch_output._LOCK_SECONDS", 0.0)
    first = Answers(str(output))
    with pytest.raises(BusyError):
        Answers(str(output))
    first.close()
    Answers(str(output)).close()


def test_a_line_is_one_write_and_durable_before_it_counts(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several lines that come together share one fdatasync."""
    steps: list[str] = []
    write, sync = os.write, os.fdatasync
    monkeypatch.setattr(os, "write", lambda fd, data: steps.append(f"write {len(data)}") or write(fd, data))
    monkeypatch.setattr(os, "fdatasync", lambda fd: steps.append("sync") or sync(fd))
    answers = Answers(str(output))
    lines = [answered("a"), answered("b", "long" * 1000)]
    answers.append(lines)
    answers.close()
    assert steps == [f"write {len(lines[0])}", f"write {len(lines[1])}", "sync"]


def test_a_line_that_cannot_be_written_whole_leaves_nothing(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(str(output))
    answers.append([answered("a")])
    write, calls = os.write, iter((10, OSError(28, "No space left on device")))

    def full(fd: int, data: bytes) -> int:
        step = next(calls)
        if isinstance(step, OSError):
            raise step
        return write(fd, bytes(data)[:step])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LostError, match=r"No space left.*make room"):
        answers.append([answered("b")])
    answers.close()
    assert output.read_bytes() == answered("a")


def refuses(number: int) -> Any:
    """A system call that the disk refuses."""

    def refused(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


def test_what_was_never_durable_is_asked_again(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(str(output))
    answers.append([answered("a")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuses(errno.EIO))
        with pytest.raises(LostError, match="Input/output error"):
            answers.append([answered("b"), answered("c")])
    answers.append([answered("d")])
    answers.close()
    assert output.read_bytes() == answered("a") + answered("d")
    assert resumed(output, ["a", "b", "c", "d"]) == {"a", "d"}


def test_a_disk_that_takes_nothing_back_either(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error many file systems allow reading only."""
    answers = Answers(str(output))
    monkeypatch.setattr(os, "fdatasync", refuses(errno.EIO))
    monkeypatch.setattr(os, "ftruncate", refuses(errno.EROFS))
    with pytest.raises(LostError, match="Input/output error"):
        answers.append([answered("a")])
    answers.close()


@pytest.mark.parametrize("name", ["ftruncate", "write"])
def test_a_torn_file_on_a_disk_that_takes_nothing(output: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = answered("a")
    output.write_bytes(whole[:-9] if name == "ftruncate" else whole[:-1])
    monkeypatch.setattr(os, name, refuses(errno.EROFS))
    with pytest.raises(LostError, match="Read-only file system"):
        resumed(output, ["a"])


def test_what_was_cut_off_after_the_last_answer_is_missed(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests have had their answer by then."""
    from p104d.engines import batch

    class Cut(batch.Batch):
        def run(self) -> None:
            answers = self._ledger._answers
            answers.append([answered("1")])
            os.truncate(output, 0)

    class Never:
        """Nobody wants the end; and this process keeps its signals."""

        signal, sending, fd = 0, False, 0

        def __call__(self) -> bool:
            return False

    monkeypatch.setattr(batch, "Batch", Cut)
    given = output.with_name("in.jsonl")
    given.write_text('{"prompt": "x"}\n')
    orders = ORDERS | {"input": str(given), "output": str(output)}
    with pytest.raises(LostError, match="was changed"):
        batch._run(parse(json.dumps(orders)), Never())


def test_what_somebody_else_wrote_is_not_cut_off(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(str(output))
    sync = os.fdatasync

    def meddle(fd: int) -> None:
        os.write(fd, b"foreign\n")
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", meddle)
    with pytest.raises(LostError, match="was changed"):
        answers.append([answered("a")])
    monkeypatch.setattr(os, "fdatasync", refuses(errno.EIO))
    with pytest.raises(LostError):
        answers.append([answered("b")])
    answers.close()
    assert output.read_bytes() == answered("a") + b"foreign\n"


# --- what a server's answer means ---


@pytest.mark.parametrize(
    ("status", "raw", "kind", "code"),
    [
        (200, b'{"content": "a"}', ANSWERED, ""),
        (200, b"[]", ANSWERED, ""),
        (200, b"", FAILED, "bad_answer"),
        (200, b'"text"', FAILED, "bad_answer"),
        (200, b'{"error": "cut"}', REFUSED, "server_error"),
        (400, b'{"error": {"message": "no"}}', REFUSED, "http_400"),
        (501, b"", REFUSED, "http_501"),
        (500, b"[" * 100_000, FAILED, "http_500"),
        (503, b'{"error": {"message": "Loading model", "code": 503}}', LOADING, "loading"),
        (503, b"busy", FAILED, "http_503"),
        (429, b"", FAILED, "http_429"),
        (302, b"", REFUSED, "http_302"),
    ],
)
def test_answers_are_judged(status: int, raw: bytes, kind: str, code: str) -> None:
    found = judge(status, raw)
    assert (found.kind, found.code) == (kind, code)
    assert found.kind == ANSWERED or found.message


@given(st.integers(200, 599), st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_judged_and_can_be_written(status: int, raw: bytes) -> None:
    found = judge(status, raw)
    assert len(found.tokens()) == 2
    body = {"body": found.body}
    assert json.loads(line_of("1", custom_id="a", line=1, response=body, timings=found.timings))["custom_id"] == "a"


def test_tokens_are_counted_over_several_answers_and_from_usage() -> None:
    one = {"timings": {"prompt_n": 2, "prompt_ms": 4.0, "predicted_n": 3, "predicted_ms": 6.5}}
    assert judge(200, json.dumps([one, one, 1]).encode()).tokens() == [(4, 8.0), (6, 13.0)]
    assert judge(200, b'{"usage": {"prompt_tokens": 5}}').tokens() == [(5, 0.0), (0, 0.0)]


# --- HTTP ---

BODY = b'{"a": 1}'
WHOLE = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + BODY,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:8\r\n\r\n" + BODY,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n"
    + BODY[:3]
    + b"\r\n5;x\r\n"
    + BODY[3:]
    + b"\r\n0\r\n\r\n",
]


@given(st.sampled_from(WHOLE), st.lists(st.integers(0, 120), max_size=6))
def test_an_answer_may_come_in_any_pieces(whole: bytes, cuts: list[int]) -> None:
    marks = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    response = Response()
    ends = [response.feed(whole[a:b]) for a, b in itertools.pairwise(marks)]
    assert ends == [*[False] * (len(ends) - 1), True]
    assert (response.status, bytes(response.body), response.keep) == (200, BODY, True)


@given(st.binary(max_size=200), st.sampled_from(WHOLE), st.integers(0, 60))
def test_no_bytes_do_harm(noise: bytes, whole: bytes, at: int) -> None:
    for raw in (noise, whole[:at] + noise + whole[at:]):
        response = Response()
        try:
            if not response.feed(raw):
                response.end()
        except BrokenError as error:
            assert str(error)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 2000,
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
    ],
)
def test_what_is_no_http_is_refused(raw: bytes) -> None:
    with pytest.raises(BrokenError):
        Response().feed(raw)


def test_a_body_without_an_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_http, "MOST_BODY_BYTES", 100)
    response = Response()
    assert not response.feed(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100)
    assert response.end() and not response.keep
    with pytest.raises(BrokenError, match="longer than"):
        response.feed(b"x")


def test_what_nobody_asked_for_ends_the_connection() -> None:
    response = Response()
    assert response.feed(WHOLE[0] + b"HTTP/1.1 200") and bytes(response.body) == BODY and not response.keep


# --- the report, and what reads it ---


def read(line: str) -> tuple[dict[str, float], tuple[float, float | None]]:
    parser = OutputParser(["tqdm", "llama.cpp"])
    parser.feed(line.encode() + b"\n")
    progress = parser.progress()
    assert progress is not None
    return {each.name: each.value for each in parser.result()}, (progress.fraction, progress.seconds_left)


@given(
    total=st.integers(1, 10**7),
    before=st.integers(0, 10**6),
    answers=st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e7)), max_size=4),
    seconds=st.floats(0, 1e7),
)
def test_the_report_is_understood_by_its_reader(
    total: int, before: int, answers: list[tuple[int, float]], seconds: float
) -> None:
    report = Report(total + before + len(answers), before, 1.0, 0.0)
    for each in answers:
        report.answer([each, each])
    found, (fraction, left) = read(report.line(seconds))
    tokens = sum(count for count, _milliseconds in answers)
    assert found.get("items", 0) == len(answers)
    assert found.get("prompt_tokens", 0) == found.get("generation_tokens", 0) == tokens
    assert fraction == report.done / report.total
    assert (left is None) == (not answers)


def test_lines_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[float] = []
    report = Report(10**9, 0, 2.0, 0.0)
    monkeypatch.setattr("p104d.engines.batch_report.say", lambda _text, *_fd: said.append(0.0))
    for second in range(86_400):
        report.answer([(1, 1.0), (1, 1.0)])
        report.show(float(second))
    assert 1_000 < len(said) < 3_000


def test_failures_are_told_up_to_a_point(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("p104d.engines.batch_report.say", lambda text, *_fd: said.append(text))
    report = Report(10**6, 0, 2.0, 0.0)
    for number in range(100_000):
        report.failure(f"line {number}")
    assert len(said) == 21 and "more requests failed" in said[-1]
