"""The present speed of running jobs: from the end of a log, in bounded time, whatever is in it."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from p104d.core.job import UserPattern
from p104d.daemon import progress
from p104d.daemon.progress import Asked, Current, ProgressReader

NAMES: tuple[str | UserPattern, ...] = ("tqdm", "llama.cpp")
BAR = "{percent:3}%|██   | {n}/200 [{elapsed}<00:05, 2.00it/s]"


class Hands:
    """Both clocks, turned by hand; ``step`` passes with every look at the monotonic one."""

    def __init__(self) -> None:
        self.at, self.step = 100.0, 0.0

    def monotonic(self) -> float:
        self.at += self.step
        return self.at

    def reader(self) -> ProgressReader:
        return ProgressReader(monotonic=self.monotonic, now=lambda: 1e9 + self.at)


def asked(folder: Path, job: int = 1, measure: tuple[str | UserPattern, ...] = NAMES) -> Asked:
    return Asked(job, 1, str(folder), measure)


def written(folder: Path, text: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "log").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def bar(n: int, elapsed: str = "00:50") -> str:
    return BAR.format(percent=n // 2, n=n, elapsed=elapsed)


def one(reader: ProgressReader, question: Asked) -> Current:
    return reader.current([question])[question.job_id]


def test_speed_progress_and_end(tmp_path: Path) -> None:
    hands = Hands()
    found = one(hands.reader(), asked(written(tmp_path / "1", "\r".join(bar(n) for n in (50, 100)))))
    assert {each.name: each.value for each in found.measurements} == {
        "iterations_per_second": 2.0,
        "seconds_per_iteration": 0.5,
    }
    assert (found.percent, found.ends_at) == (50.0, pytest.approx(1e9 + 100 + 50))


def test_an_answer_is_good_for_a_second(tmp_path: Path) -> None:
    hands = Hands()
    reader, folder = hands.reader(), written(tmp_path / "1", bar(50))
    assert one(reader, asked(folder)).percent == 25
    written(folder, bar(100))
    hands.at += 0.9
    assert one(reader, asked(folder)).percent == 25
    hands.at += 0.2
    assert one(reader, asked(folder)).percent == 50


def test_another_attempt_is_another_log(tmp_path: Path) -> None:
    reader = Hands().reader()
    assert one(reader, asked(written(tmp_path / "1", bar(50)))).percent == 25
    second = Asked(1, 2, str(written(tmp_path / "2", bar(100))), NAMES)
    assert one(reader, second).percent == 50


def test_a_log_that_is_not_there_or_not_readable_tells_nothing(tmp_path: Path) -> None:
    reader = Hands().reader()
    folder = tmp_path / "bad"
    (folder / "log").mkdir(parents=True)
    found = reader.current([asked(tmp_path / "none", 1), asked(folder, 2), asked(written(tmp_path / "3", bar(50)), 3)])
    assert found[1] == found[2] == Current()
    assert found[3].percent == 25


def test_what_is_measured_by_nothing_is_not_read(tmp_path: Path) -> None:
    assert one(Hands().reader(), asked(written(tmp_path / "1", bar(50)), measure=())) == Current()


def test_the_line_that_the_tail_cuts_is_left_out(tmp_path: Path) -> None:
    line = "slot print_timing: id 0 | prompt eval time =    1000.00 ms /    10 tokens"
    text = line + "\n" + "x" * (progress._FIRST_BYTES - len(line) + line.index("eval") - 2) + "\n"
    assert len(text) > progress._FIRST_BYTES and text[-progress._FIRST_BYTES :].startswith("eval time")
    assert one(Hands().reader(), asked(written(tmp_path / "1", text))) == Current()


def test_more_is_read_while_that_is_quick_and_less_when_it_is_not(tmp_path: Path) -> None:
    hands = Hands()
    reader = hands.reader()
    folder = written(tmp_path / "1", "\n".join([bar(50), *["-" * 60] * 900]))  # the bar is 55 KB before the end
    seen = []
    for _ in range(4):
        hands.at += 2
        seen.append(one(reader, asked(folder)).percent)
    assert seen == [None, None, 25, 25]
    state = reader._known[1, 1]
    assert state.size == progress.MOST_BYTES
    hands.step = progress.JOB_SECONDS  # every piece takes too long from here on
    for _ in range(5):
        hands.at += 2
        one(reader, asked(folder))
    assert state.size == progress._LEAST_BYTES and not state.hopeless
    hands.step = 0.98 * progress._HOPELESS_SECONDS
    hands.at += 2
    one(reader, asked(folder))
    assert state.hopeless
    looked = state.looked
    hands.at += 2
    one(reader, asked(folder))
    assert state.looked == looked


def test_many_jobs_have_their_turns(tmp_path: Path) -> None:
    hands = Hands()
    reader = hands.reader()
    questions = [asked(written(tmp_path / str(n), bar(50)), n) for n in range(40)]
    hands.step = 0.002
    answered, calls = set[int](), 0
    while len(answered) < 40:
        hands.at += 0.01
        found = reader.current(questions)
        assert len(found) == 40
        fresh = {job for job, current in found.items() if current.percent is not None}
        assert fresh > answered
        answered, calls = fresh, calls + 1
    assert 3 < calls < 15


def test_old_ones_are_forgotten(tmp_path: Path) -> None:
    hands = Hands()
    reader = hands.reader()
    for n in range(500):
        hands.at += 1
        one(reader, asked(tmp_path, n))
    assert len(reader._known) <= 130


NOISE = random.Random(4).randbytes(1 << 20)


@pytest.mark.parametrize(
    "text",
    [
        NOISE,
        b"x" * (1 << 20),
        b"\n" * (1 << 20),
        b"\r".join([bar(100).encode()] * 10_000),
        b"eval time = 1.00 ms / 5 tokens\n" * 20_000,
        b"it/s /=\n" * 100_000,
        b"1%|" * 300_000,
        b'"n_gen": 1, "avg_ts": 1\n' * 30_000,
        b"| pp | tg" * 100_000,
    ],
    ids=["noise", "no-end", "ends", "bars", "timings", "words", "starts", "json", "rows"],
)
def test_any_output_is_read_in_time(tmp_path: Path, text: bytes) -> None:
    reader = ProgressReader()
    question = Asked(1, 1, str(written(tmp_path / "1", text)), (*NAMES, _HARD))
    spent = []
    for _ in range(6):
        reader._known.get((1, 1), progress._Known()).looked = None
        began = time.thread_time()
        reader.current([question])
        spent.append(time.thread_time() - began)
    # A look may overrun by the one line that it is in.
    assert min(spent[2:]) < 3 * progress.JOB_SECONDS, spent
    assert max(spent) < 0.3, spent


#: As hard a pattern as is accepted, about.
_HARD = UserPattern(name="loss", unit="x", pattern=r"[ab].*(?P<value>\d+)x")


def test_a_pattern_of_the_users_own(tmp_path: Path) -> None:
    own = (UserPattern(name="progress", unit="%", pattern=r"(?P<value>\d+) of 100"),
           UserPattern(name="loss", unit="", pattern=r"loss (?P<value>[0-9.]+)"))  # fmt: skip
    found = one(Hands().reader(), asked(written(tmp_path / "1", "7 of 100\nloss 0.25\n8 of 100"), measure=own))
    assert [(each.name, each.value) for each in found.measurements] == [("loss", 0.25)]
    assert (found.percent, found.ends_at) == (8.0, None)


def test_an_estimate_beyond_reason_is_none(tmp_path: Path) -> None:
    line = "  0%|    | 1/900000000 [00:21<99:00:00, 21.00s/it]"
    found = one(Hands().reader(), asked(written(tmp_path / "1", line)))
    assert found.percent == 0.0 and found.ends_at is None
