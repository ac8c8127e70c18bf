"""What the live screen is made of, without a screen: sparklines, shares of room, logs as lines, threads."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from fake_daemon import UUIDS, FakeDaemon, Reply, card, job

from p104d.api.client import Client
from p104d.cli.terminal import Canvas, coloured, drawing_on, terminal_width, unicode_output
from p104d.cli.top_feed import WAITING_SHOWN, Errands, Feed, Reading, look
from p104d.cli.top_log import KEPT_LINES, Follower, Lines, broken, shown
from p104d.cli.top_tables import card_lines, heights, running_lines
from p104d.cli.top_trace import Trace
from p104d.core.errors import P104Error

BOUND_SECONDS = 10.0
LOAD = "utilization_percent"


@pytest.mark.parametrize(
    ("room", "wants", "given"),
    [
        (20, [6, 3, 3, 1], [6, 3, 3, 1]),
        (20, [14, 4, 30, 2], [7, 4, 7, 2]),
        (8, [14, 4, 30, 2], [3, 3, 3, 2]),
        (100, [], []),
        (5, [2, 0], [2, 0]),
    ],
)
def test_room_is_shared_evenly(room: int, wants: list[int], given: list[int]) -> None:
    assert heights(room, wants, 3) == given


def test_a_sparkline_is_the_mean_of_slices_of_time() -> None:
    trace = Trace(1.0)
    for at, load in ((0, 0), (10, 0), (59, 100), (60, 50), (100, None), (179, 100)):
        trace.add(at, [card(0, **{LOAD: load})])
    with drawing_on(Canvas(80, True)):
        assert trace.spark(UUIDS[0], LOAD, 3, 0, 100) == "▃▅█"
        assert trace.spark("GPU-unknown", LOAD, 3, 0, 100) == "   "
    with drawing_on(Canvas(80, False)):
        assert trace.spark(UUIDS[0], LOAD, 3, 0, 100) == "-=#"
    # What is older than its span is forgotten, and so are cards that are gone.
    trace.add(300, [card(0, **{LOAD: 100})])
    with drawing_on(Canvas(80, True)):
        assert trace.spark(UUIDS[0], LOAD, 3, 0, 100) == "  █"
        trace.add(301, [])
        assert trace.spark(UUIDS[0], LOAD, 3, 0, 100) == "   "


@pytest.mark.parametrize("columns", [40, 80, 100, 140, 200])
@pytest.mark.parametrize("unicode", [True, False])
def test_tables_fit(columns: int, unicode: bool) -> None:
    name = "a\x1b]0;title\x07 very long name " * 4
    cards = [card(0, models=[name], name=name, catalog_name=None), card(1, state="verifying", verified_percent=42.0)]
    cards.append(card(2, utilization_percent=None, memory_used_bytes=None))
    trace = Trace(1.0)
    trace.add(0, cards)
    running = [job(12, "running", name=name, progress_percent=62.5, cards=[UUIDS[0]], user="annabella")]
    with drawing_on(Canvas(columns, unicode)):
        lines = [*card_lines(cards, trace), *running_lines(running, cards, users=True)]
        assert coloured() and unicode_output() is unicode and terminal_width() == columns
    assert terminal_width() is None and not coloured()
    assert all(unicode or line.isascii() for line in lines)
    assert all("\x1b]" not in line and "\x07" not in line for line in lines)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("10%|#\r20%|##", "20%|##"),
        ("windows\r", "windows"),
        ("\x1b[1;31mred\x1b[0m\x1b]0;title\x07 \x1b[Kx", "red x"),
        ("bell\x07", "bell\\x07"),
        ("a\tb", "a       b"),
    ],
)
def test_lines_are_shown_as_a_terminal_would_leave_them(line: str, expected: str) -> None:
    assert shown(line) == expected


def test_output_is_cut_into_lines_however_it_comes() -> None:
    lines = Lines()
    for piece in (b"on", b"e\ntw\xc3", b"\xb6\n\xffthree", b""):
        lines.add(piece)
    assert len(lines) == 3 and list(lines.upwards(3)) == ["\\xffthree", "twö", "one"]
    assert list(lines.upwards(1)) == ["one"] and list(lines.upwards(0)) == []
    lines.add(b"\n" + b"x\n" * (KEPT_LINES + 10) + b"y" * 1_000_000)
    assert len(lines) <= KEPT_LINES + 1 and len(next(lines.upwards(10**9))) < 100_000


def test_long_lines_are_broken_by_columns() -> None:
    assert broken("abcdef", 4) == ["abcd", "ef"] and broken("", 4) == [""]
    assert broken("日本語x", 4) == ["日本", "語x"]


def test_the_head_of_a_long_queue_and_no_other_queued_jobs(daemon: FakeDaemon) -> None:
    first = [job(number) for number in range(1, WAITING_SHOWN + 1)]
    newest = [job(99_000), job(98_000, "held"), job(97_000, "held", priority=3), job(5)]
    daemon.answers["GET", "/v1/status"] = {"daemon": {}, "queue": {"queued": 99}, "warnings": []}
    daemon.answers["GET", "/v1/jobs"] = lambda request: {"jobs": first if "order" in request.query else newest}
    with pytest.raises(P104Error, match="not understood"):
        look(Client([daemon.path]))
    daemon.answers["GET", "/v1/status"] |= {"cards": [], "running": []}
    seen = [one["id"] for one in look(Client([daemon.path])).waiting]
    assert seen == [*range(1, WAITING_SHOWN + 1), 97_000, 98_000]
    first[50:] = []
    assert [one["id"] for one in look(Client([daemon.path])).waiting][50:] == [97_000, 98_000, 99_000]
    daemon.answers["GET", "/v1/status"]["queue"] = {"running": 1}
    assert look(Client([daemon.path])).waiting == []


def test_a_daemon_that_hangs_keeps_nobody_from_quitting(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(4)
        feed: Feed = Feed(Client([path]), 1.0, lambda seen: None)
        errands = Errands()
        done = threading.Event()
        errands.do(lambda: 1 / 0, lambda came: done.set())  # type: ignore[func-returns-value]
        feed.start()
        connection, _ = listening.accept()
        with connection:
            feed.end()
            assert feed.is_alive() and feed.daemon
    feed.join(BOUND_SECONDS)
    assert not feed.is_alive()


def test_errands_are_done_in_order_and_tell_errors() -> None:
    came: list[object] = []
    done = threading.Event()
    errands = Errands()
    errands.start()
    error = P104Error("no")

    def refuse() -> None:
        raise error

    errands.do(lambda: 1, came.append)
    errands.do(refuse, came.append)
    errands.do(lambda: {}["key"], came.append)
    errands.do(lambda: 2, lambda result: (came.append(result), done.set()))
    assert done.wait(BOUND_SECONDS)
    errands.end()
    assert not errands.is_alive()
    assert came[:2] == [1, error] and "not understood" in str(came[2]) and came[3] == 2


def test_a_follower_reads_anew_after_an_outage(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p104d.cli.top_log._AGAIN_SECONDS", 0.01)
    replies = [Reply(pieces=[b"a\nb"], cut=True), Reply(pieces=[b"a\nbc\n"])]
    daemon.answers["GET", "/v1/jobs/7/log"] = replies
    daemon.answers["POST", "/v1/jobs/wait"] = {"jobs": [{"id": 7, "state": "succeeded", "reason": None}]}
    follower = Follower(Client([daemon.path]), 7, lambda: follower.seen())
    follower.start()
    follower.join(BOUND_SECONDS)
    assert not follower.is_alive()
    assert list(follower.lines.upwards(9)) == ["bc", "a"] and follower.said == "job 7 succeeded"


def test_a_feed_looks_again_when_told(daemon: FakeDaemon) -> None:
    daemon.answers["GET", "/v1/status"] = {"daemon": {}, "queue": {}, "warnings": [], "cards": [], "running": []}
    seen: list[Reading | P104Error] = []
    looked = threading.Semaphore(0)
    feed = Feed(Client([daemon.path]), 3600.0, lambda what: (seen.append(what), looked.release()))
    feed.start()
    assert looked.acquire(timeout=BOUND_SECONDS)
    feed.soon()
    assert looked.acquire(timeout=BOUND_SECONDS)
    feed.end()
    assert len(seen) == 2 and not feed.is_alive()
