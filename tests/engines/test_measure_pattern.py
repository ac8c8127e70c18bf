from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p104d.core.job import UserPattern
from p104d.engines.measure import OutputParser
from p104d.engines.measure_pattern import MAX_LINE_BYTES, PatternReader, check_pattern

ACCEPTED = [
    r"score=(?P<value>[0-9.]+)",
    r"step (\d+)/(\d+) .*loss=(?P<value>\d+\.\d+(?:e-?\d+)?)",
    r"acc: *(?P<value>\d+(?:\.\d+)?)%",
    r"epoch.*acc (?P<value>[\d.]+)",
    r".*step.*acc (?P<value>[\d.]+)",
    r".*loss: (?P<value>\d+\.\d+)",
    r"'loss': (?P<value>[\d.]+).*'epoch'",
    r"(?P<value>\d+(?:\.\d+)?)%",
    r"step\s+\d+\s+loss\s+(?P<value>\d+\.\d+)",
    r"(?P<value>\w+)\s+tokens/s",
    r"^\[(?P<value>[^\]]+)\]",
    r"(?P<value>[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)",
    r"^(?:INFO|WARN): reward (?P<value>-?\d+)$",
    r"(?P<value>\d{1,5}) images? in \d{2}:\d{2}",
    r"(?:\d{3},){2}(?P<value>\d+)",
    r"größe=(?P<value>\d+) µm",
]
REFUSED = [
    (r"score=([0-9.]+)", "no group named value"),
    (r"(?P<value>", "not a regular expression"),
    (r"(?P<value>[0-9]{99999999999})", "not a regular expression"),
    ("(?P<value>" + "a" * 300 + ")", "longer than 256"),
    ("(" * 120 + "(?P<value>a)" + ")" * 120, "x"),
    (r"(?P<value>(a+)+)$", "a repetition inside a repetition"),
    (r"(?P<value>(?:a*)*)b", "a repetition inside a repetition"),
    (r"(?P<value>(?:a?){30}a)", "a repetition inside a repetition"),
    (r"(a|ab)*(?P<value>b)", "a choice (|) inside a repetition"),
    (r"(?P<value>(?:)*)", "a repetition of nothing"),
    (r"(?P<value>(?:^)*)", "a repetition of nothing"),
    (r"(?:(?:(?:a){500}){500}){500}(?P<value>b)", "a repetition of more than"),
    (r".*.*.*(?P<value>x)", "could take too long"),
    (r"a.*b.*(?P<value>\d)", "could take too long"),
    (r"epoch.*step.*acc (?P<value>[\d.]+)", "could take too long"),
    (r"\d*\d*(?P<value>x)", "could take too long"),
    (r"\d+\s*.*.*(?P<value>x)", "could take too long"),
    (r"(?P<value>\d*\d*\d*x)", "could take too long"),
    (r"(?P<value>\w+\s*\w+\s*\w+)x", "could take too long"),
    (r"(?P<value>" + "a?" * 40 + "a" * 40 + ")", "could take too long"),
    (r"(?P<value>" + "(?:a|a)" * 20 + "b)", "could take too long"),
    (r"(?P<value>" + "a{1,30}" * 8 + "b)", "could take too long"),
    (r"(?P<value>[a-zé]*[^0]*\w*x)", "could take too long"),
    (r"(?i)loss (?P<value>\d)", "a flag"),
    (r"(?i:loss) (?P<value>\d)", "a flag"),
    (r"(?P<value>a)(?P=value)", "a back reference"),
    (r"(?P<value>\d+)(?=x)", "look-around"),
    (r"(?<!x)(?P<value>\d+)", "look-around"),
]


def reader(pattern: str) -> PatternReader:
    return PatternReader(UserPattern(name="score", unit="points", pattern=pattern))


@pytest.mark.parametrize("pattern", ACCEPTED)
def test_accepted(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(("pattern", "words"), REFUSED)
def test_refused(pattern: str, words: str) -> None:
    if words == "x":  # deep, and cheap: whichever way it goes, it goes at once
        check_pattern(pattern)
        return
    with pytest.raises(ValueError, match=r".") as error:
        check_pattern(pattern)
    assert words in str(error.value)
    with pytest.raises(ValueError, match=r"."):
        reader(pattern)


ATOMS = st.sampled_from(["a", "b", ".", r"\d", r"\w", "[ab]", "[^a]", r"\s", "(?:ab)", "(?:a|b)", "(?:a|ab)", "é", "1"])
REPEATS = st.sampled_from(["", "", "*", "+", "?", "*?", "{1,3}", "{0,40}", "{4}"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(ATOMS, REPEATS), min_size=1, max_size=7),
    st.sampled_from(["", "$", "x", "%"]),
    st.sampled_from(["a" * 512, "ab" * 256, "1" * 512, "a1 " * 170, "é" * 256]),
)
def test_what_is_accepted_is_quick_on_bad_lines(parts: list[tuple[str, str]], end: str, line: str) -> None:
    pattern = "(?P<value>" + "".join(atom + repeat for atom, repeat in parts) + ")" + end
    try:
        user = reader(pattern)
    except ValueError:
        return
    started = time.thread_time()
    user.read_line(line.encode())
    # The worst that the estimate lets through takes 10 ms; of what it is to keep out some takes 200, most takes hours.
    assert time.thread_time() - started < 0.1


@pytest.mark.parametrize("pattern", [p for p in ACCEPTED if p.startswith((".*", "^"))])
@pytest.mark.parametrize("line", ["x step acc 1 acc 2", " loss: 1.5", "loss", "INFO: reward -3", "[7] [8]", "", " [7]"])
def test_what_is_tried_at_the_beginning_alone_finds_the_same(pattern: str, line: str) -> None:
    user, found = reader(pattern), re.search(pattern, line)
    user.read_line(line.encode())
    assert [each.value for each in user.result()] == ([float(found["value"])] if found else [])


def test_the_last_number_wins() -> None:
    parser = OutputParser(["tqdm", UserPattern(name="score", unit="points", pattern=ACCEPTED[0])])
    parser.feed(b"score=1.5\nscore=2.5\r\xff\xfe score=3.25 \nscore=...\nscore=\n")
    [found] = parser.result()
    assert (found.name, found.value, found.unit) == ("score", 3.25, "points")
    parser.feed(b"score=4")
    assert [m.value for m in parser.result()] == [4.0]


def test_a_log_that_is_there_is_read_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    plain = PatternReader.read_line
    monkeypatch.setattr(PatternReader, "read_line", lambda self, line: (read.append(line), plain(self, line)))
    one = UserPattern(name="one", unit="x", pattern=r"one=(?P<value>\d)")
    two = UserPattern(name="two", unit="x", pattern=r"two=(?P<value>\d)")
    parser = OutputParser(["tqdm", one, two])
    assert parser.read(b"one=1\rone=2\nnothing\ntwo=nan\ntwo=4", seconds=60, pattern_seconds=60)
    assert [(m.name, m.value) for m in parser.result()] == [("one", 2.0), ("two", 4.0)]
    assert read == [b"two=4", b"two=4", b"two=nan", b"nothing", b"one=2"]


def test_a_log_is_read_in_its_time_and_patterns_take_none_from_the_rest() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.001
        return now

    bar = b" 50%|x| 10/20 [00:01<00:09, 5.00it/s]\n"
    slow = [UserPattern(name=f"p{n}", unit="x", pattern=r"n(?P<value>\d)") for n in range(16)]
    parser = OutputParser([*slow, "tqdm"], clock=clock)
    assert not parser.read(bar * 1000, seconds=1.5, pattern_seconds=0.05)
    assert now < 1.6 and parser.skipped_bytes == 0
    assert {m.name: m.value for m in parser.result()}["iterations_per_second"] == 5.0
    late = OutputParser(["tqdm"], clock=clock)
    assert not late.read(bar * 1000 + bar.replace(b"10/20", b"20/20"), seconds=0.1, pattern_seconds=0)
    assert late.skipped_bytes > 0
    assert {m.name: m.value for m in late.result()}["iterations"] == 20


def test_a_pattern_that_is_refused_by_now_costs_itself_alone() -> None:
    old = UserPattern(name="old", unit="x", pattern=r".*.*.*(?P<value>\d)")
    new = UserPattern(name="new", unit="x", pattern=r"(?P<value>\d)")
    parser = OutputParser([old, new])
    assert parser.read(b"7", seconds=60, pattern_seconds=60)
    assert [m.name for m in parser.result()] == ["new"]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "", "abc"])
def test_what_is_no_number(text: str) -> None:
    user = reader(r"v=(?P<value>.*)$")
    user.read_line(f"v={text}".encode())
    assert user.result() == []


def test_a_group_that_took_no_part() -> None:
    user = reader(r"a(?:b(?P<value>\d))?c")
    user.read_line(b"ac")
    assert user.result() == []


def test_only_the_beginning_of_a_line_is_looked_at() -> None:
    user = reader(r"v=(?P<value>\d)")
    user.read_line(b" " * MAX_LINE_BYTES + b"v=1")
    assert user.result() == []
    user.read_line(b" " * (MAX_LINE_BYTES - 3) + b"v=1")
    assert user.result()[0].value == 1


def test_a_slow_pattern_is_given_up() -> None:
    ticks = iter([0.0, 0.01, 1.0, 1.2])
    user = PatternReader(UserPattern(name="s", unit="u", pattern=r"v=(?P<value>\d)"), clock=lambda: next(ticks))
    user.read_line(b"v=1")
    assert not user.given_up
    user.read_line(b"v=2")
    assert user.given_up
    user.read_line(b"v=3")
    assert user.result()[0].value == 2


def test_a_pattern_that_is_slow_over_many_lines_is_given_up() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.01
        return now

    user = PatternReader(UserPattern(name="s", unit="u", pattern=r"v=(?P<value>\d)"), clock=clock)
    lines = 0
    while not user.given_up:
        user.read_line(b"v=1")
        lines += 1
    assert 19 <= lines <= 21
