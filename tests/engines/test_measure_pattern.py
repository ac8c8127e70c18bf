from __future__ import annotations

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
    r"epoch.*step.*acc (?P<value>[\d.]+)",
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
    started = time.process_time()
    user.read_line(line.encode())
    # The worst that the estimate lets through takes a third of a second; what it is to keep out takes hours.
    assert time.process_time() - started < 5


def test_the_last_number_wins() -> None:
    parser = OutputParser(["tqdm", UserPattern(name="score", unit="points", pattern=ACCEPTED[0])])
    parser.feed(b"score=1.5\nscore=2.5\r\xff\xfe score=3.25 \nscore=...\nscore=\n")
    [found] = parser.result()
    assert (found.name, found.value, found.unit) == ("score", 3.25, "points")
    parser.feed(b"score=4")
    assert [m.value for m in parser.result()] == [4.0]


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
