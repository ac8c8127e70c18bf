"""verify, history and what cards and status say of proof: requests, lines, redrawn lines, exit codes, pictures."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import struct
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from fake_daemon import GIB, UUIDS, Reply, card, going, memory_test, refusal, rig, status, stuck, verifying

from p104d.api import messages, proof
from p104d.cli import plotting
from p104d.cli.proof import MENDS, bits, end_lines, rate
from p104d.cli.rig import last_proof, share
from p104d.cli.verbs.verify import DEPTHS
from p104d.cli.verifying import HEARTBEAT_SECONDS, Lines, Live, json_lines
from p104d.memtest.messages import Depth
from p104d.memtest.steps import THOROUGH_ROUNDS, passes
from p104d.memtest.tester import STALL_SECONDS, START_SECONDS

BOUND = 20.0
VERIFY = ("POST", "/v1/cards/verify")
HISTORY = ("GET", "/v1/history")
WAITING = {"state": "waiting", "waiting_because": "2 tests at a time (max_parallel_loads)"}
needs_plot = pytest.mark.skipif(find_spec("matplotlib") is None, reason="the extra plot is not installed")


def test_what_the_fake_daemon_says_is_the_wire():
    tests = [memory_test(0), going(1, 5.0), stuck(2), memory_test(3, None, **WAITING)]
    assert len(msgspec.convert({"tests": tests, "done": True}, proof.Verified).tests) == 4
    fields = {field.name for field in msgspec.structs.fields(proof.MemoryTest)}
    assert fields == set(memory_test(0))
    request = msgspec.structs.fields(proof.VerifyRequest)
    assert get_args(next(field.type for field in request if field.name == "depth")) == DEPTHS


def test_verify_of_all_cards_tells_begin_and_end(daemon, ctl):
    steps = ([going(0, 1.0), memory_test(1, None, **WAITING)], [memory_test(0), going(1, 3.0)])
    daemon.answers[VERIFY] = verifying(*steps, [memory_test(0), memory_test(1, "locked", memory_total_bytes=4 * GIB)])
    result = ctl("verify")
    assert daemon.requests[-1].body == {"cards": [], "depth": "quick", "watch": True}
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[:2] == [
        "card 0 (P104-100): full test begins",
        "card 1 (P104-100): full test waiting: 2 tests at a time (max_parallel_loads)",
    ]
    sizes = "card 0 (P104-100): proven 7.8/8.0 GiB; full test, 1m02s; "
    assert lines[2] == sizes + "write 251 GB/s, read 262 GB/s, host to card 0.17 GB/s"
    assert lines[3] == "card 1 (P104-100): full test begins"
    assert lines[4].startswith("card 1 (P104-100): locked") and "nvflash --save" in lines[6] and len(lines) == 7


def test_verify_names_cards_once_and_the_depth(daemon, ctl):
    daemon.answers[VERIFY] = verifying([memory_test(0)])
    assert ctl("verify", "0", "GPU-1", "0", "--depth", "thorough").code == 0
    assert daemon.requests[-1].body == {"cards": ["0", "GPU-1"], "depth": "thorough", "watch": True}
    assert ctl("verify", "--depth", "deep").code == 2


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (memory_test(1), 0),
        (memory_test(1, "locked"), 0),
        (memory_test(1, "aliased"), 1),
        (memory_test(1, "faulty"), 1),
        (memory_test(1, "failed", text="the test hung"), 1),
        (memory_test(1, None, state="stopped"), 1),
        (memory_test(1, None, state="interrupted"), 1),
        (memory_test(1, None, state="preempted"), 1),
        # The verdict of a test that did not finish would be no verdict.
        (memory_test(1, "proven", state="stopped"), 1),
    ],
)
def test_exit_code_of_verify(daemon, ctl, last, code):
    daemon.answers[VERIFY] = verifying([memory_test(0), last])
    assert ctl("verify").code == code
    daemon.answers[VERIFY] = verifying([memory_test(0), last])
    assert ctl("verify", "--json").code == code


def test_a_preempted_test_is_waited_for_again(daemon, ctl):
    yielded = memory_test(0, None, state="preempted", waiting_because="job 12 has the card")
    daemon.answers[VERIFY] = verifying([going(0, 5.0)], [yielded], [going(0, 1.0)], [memory_test(0)])
    result = ctl("verify", "0")
    told = [line.partition(": ")[2] for line in result.out.splitlines()]
    begins = "full test begins"
    assert told[:3] == [begins, "full test preempted: job 12 has the card", begins] and told[3].startswith("proven")
    assert result.code == 0


def test_a_bad_card_is_told_with_what_was_found_and_the_mend(daemon, ctl, monkeypatch):
    daemon.answers[VERIFY] = verifying([stuck(2)])
    page = ctl("verify", "2").out
    for words in ("faulty 7.8/8.0 GiB", "bit 3 stuck at 1", "3 wrong readings of 8-byte words (stuck)", "0x140000000"):
        assert words in page
    assert "stuck: bit 3 of 0x140000000 at 1" in page and "-> its memory does not keep" in page
    assert "ranges: 0x140000000-0x140000008 (3; bit 3 as 1, none as 0)" in page and "first at" not in page
    monkeypatch.setenv("COLUMNS", "60")
    daemon.answers[VERIFY] = verifying([stuck(2)])
    assert max(map(len, ctl("verify", "2").out.splitlines()[1:])) <= 60


def test_verify_json_is_the_last_answer_and_nothing_else(daemon, ctl):
    daemon.answers[VERIFY] = verifying([going(0, 1.0)], [going(0, 50.0)], [stuck(0)])
    result = ctl("verify", "0", "--json")
    assert json.loads(result.out) == {"tests": [stuck(0)], "done": True} and result.err == ""


def test_verify_without_any_card(daemon, ctl):
    daemon.answers[VERIFY] = verifying([])
    assert ctl("verify").code == 5
    daemon.answers[VERIFY] = verifying([])
    result = ctl("verify", "--json")
    assert result.code == 5 and json.loads(result.out) == {"tests": [], "done": True}


@pytest.mark.parametrize("code", [4, 5])
def test_refusals_of_verify_are_one_line(daemon, ctl, code):
    daemon.answers[VERIFY] = refusal(403, code, "not for you", "ask root")
    assert ctl("verify", "0") == (code, "", "p104ctl: not for you; ask root\n")


@pytest.mark.parametrize("cut", [True, False])
def test_a_daemon_that_goes_away_meanwhile(daemon, ctl, cut):
    line = json.dumps({"tests": [going(0, 1.0)], "done": False}).encode() + b"\n"
    daemon.answers[VERIFY] = Reply(pieces=[line], cut=cut)
    result = ctl("verify", "0")
    assert result.code == 3 and result.err.count("\n") == 1 and "try again" in result.err


def test_a_line_that_is_no_json_is_told_as_one(daemon, ctl):
    daemon.answers[VERIFY] = Reply(pieces=[b"<html>\n"])
    result = ctl("verify", "0")
    assert result.code == 1 and "not JSON" in result.err and "internal" not in result.err


def test_json_lines_however_they_are_cut():
    text = b'{"a": 1}\n\n{"a": "\xc3\xa9"}\n{"half'
    for size in range(1, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert list(json_lines(pieces)) == [{"a": 1}, {"a": "é"}]


def test_no_wait_tells_what_was_asked_for(daemon, ctl):
    answer = {"tests": [going(0, 0.0), memory_test(1, None, **WAITING)], "done": False}
    daemon.answers[VERIFY] = answer
    result = ctl("verify", "0", "1", "--depth", "full", "--no-wait")
    assert daemon.requests[-1].body == {"cards": ["0", "1"], "depth": "full"}
    assert result.code == 0 and result.out.splitlines() == [
        "card 0 (P104-100): full test running",
        "card 1 (P104-100): full test waiting: 2 tests at a time (max_parallel_loads)",
    ]
    assert json.loads(ctl("verify", "--no-wait", "--json").out) == answer


def test_stop(daemon, ctl):
    daemon.answers[VERIFY] = {"tests": [memory_test(0, None, state="stopped")], "done": True}
    result = ctl("verify", "0", "--stop")
    assert result == (0, "card 0 (P104-100): full test stopped\n", "")
    assert daemon.requests[-1].body == {"cards": ["0"], "stop": True}
    daemon.answers[VERIFY] = {"tests": [], "done": True}
    assert ctl("verify", "--stop").out == "no memory test to stop\n"


@pytest.mark.parametrize(
    "wrong", ["--stop --depth full", "--stop --map a.png", "--stop --no-wait", "--no-wait --map a"]
)
def test_options_that_do_not_go_together(daemon, ctl, wrong):
    assert ctl("verify", *wrong.split()).code == 2 and daemon.requests == []


def test_ctrl_c_hangs_up_and_says_that_verdicts_stay(daemon, spawn, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # a line is to come at once by our own doing
    arrived, over = threading.Event(), threading.Event()

    def hang() -> None:
        arrived.set()
        over.wait(BOUND)

    line = json.dumps({"tests": [going(0, 1.0)], "done": False}).encode() + b"\n"
    daemon.answers[VERIFY] = Reply(pieces=[line, hang])
    process = spawn("verify", "0")
    try:
        assert arrived.wait(BOUND)
        assert process.stdout.readline() == b"card 0 (P104-100): full test begins\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=BOUND)
    finally:
        over.set()
    assert process.returncode == 130
    assert err == b"p104ctl: interrupted: the tests were stopped; the cards keep their verdicts\n"
    assert len(daemon.requests) == 1


def test_a_log_gets_a_line_now_and_then():
    now, said = [0.0], []
    lines = Lines(said.append, clock=lambda: now[0])
    for moment in range(0, 100, 1):
        now[0] = float(moment)
        lines.show([going(0, moment, errors=1234 if moment else 0), memory_test(1, None, **WAITING)])
    # One that waits says so as often as one that runs: what it waits for may change.
    assert len(said) == 2 + 2 * (99 // HEARTBEAT_SECONDS)
    assert said[2] == "card 0 (P104-100): 30 %, hash, second seed, 1m20s left, 1,234 errors"
    before = len(said)
    lines.show([memory_test(0), memory_test(1, None, **WAITING)])
    lines.end([memory_test(0), memory_test(1, None, **WAITING)])
    assert len(said) == before + 1


class Screen(io.StringIO):
    """A terminal that knows what :class:`Live` sends, and nothing else. ``rows`` is what a person sees."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.row = [""], 0

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[[?\d]*[a-zA-Z]|\n|\r|[^\x1b\n\r]+", text):
            if part == "\n":
                self.row += 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif part.startswith("\x1b") and part.endswith("A"):
                self.row -= int(part[2:-1])
                assert self.row >= 0
            elif part == "\x1b[J":
                self.rows = [*self.rows[: self.row], ""]
            elif part not in ("\r", "\x1b[?7l", "\x1b[?7h"):
                assert not part.startswith("\x1b"), part
                self.rows[self.row] += part
        return len(text)

    def fileno(self) -> int:
        raise OSError


def test_lines_are_redrawn_in_place_and_make_room_at_the_end():
    screen, results = Screen(), []
    screen.write("$ p104ctl verify\n")
    live = Live(screen, results.append)
    live.show([going(0, 10.0), memory_test(1, None, **WAITING)])
    live.show([going(0, 55.5, errors=7), memory_test(1, None, **WAITING)])
    assert len(screen.rows) == 5 and screen.rows[0] == "$ p104ctl verify" and "PROGRESS" in screen.rows[1]
    for words in ("0  P104-100  full", "█" * 8 + "░" * 8, "55 %", "1m20s", "7", "hash, second seed"):
        assert words in screen.rows[2]
    assert "waiting" in screen.rows[3] and "2 tests at a time" in screen.rows[3]
    live.show([memory_test(0), going(1, 99.99)])
    assert "proven" in screen.rows[2] and "99 %" in screen.rows[3] and len(screen.rows) == 5
    live.close()
    live.close()
    assert screen.rows == ["$ p104ctl verify", ""]
    live.end([memory_test(0)])
    assert len(results) == 1 and results[0].startswith("card 0 (P104-100): proven")


def test_more_cards_than_the_screen_has_lines():
    screen = Screen()
    many = [memory_test(0, None, **WAITING) | {"index": number} for number in range(40)]
    Live(screen, None).show([*many, going(3, 50.0) | {"index": 77}])
    assert len(screen.rows) == 24 and screen.rows[-2] == "and 20 more" and screen.rows[1].startswith("77")


def all_of(leader: int) -> str:
    """What was written to a terminal that nobody writes to any more."""
    drawn = b""
    while True:
        try:
            drawn += os.read(leader, 4096)
        except OSError:  # the other end is closed, and all of it read
            return drawn.decode()


@pytest.mark.parametrize("where", ["stdout", "stderr"])
def test_a_terminal_is_drawn_on(daemon, spawn, where):
    arguments = ["verify", "0", *(["--json"] if where == "stderr" else [])]
    daemon.answers[VERIFY] = verifying([going(0, 42.0)], [memory_test(0)])
    leader, follower = os.openpty()
    try:
        process = spawn(*arguments, **{where: follower})
        os.close(follower)
        out, err = process.communicate(timeout=BOUND)
        drawn = all_of(leader)
    finally:
        os.close(leader)
    assert process.returncode == 0 and not err
    assert "42 %" in drawn and "\x1b[2A\r\x1b[J" in drawn
    last = drawn.rpartition("\x1b[J")[2]
    if where == "stdout":
        assert "card 0 (P104-100)" in last and "GB/s" in last
    else:
        assert last == "" and json.loads(out)["done"] is True


def test_history_of_a_card(daemon, ctl, monkeypatch):
    tests = [stuck(0), memory_test(0, None, state="preempted", cause="schedule")]
    daemon.answers[HISTORY] = {"tests": tests}
    result = ctl("history", "--card", "0", "--last", "5")
    asked = {"card": ["0"], "limit": ["5"], "speeds": ["1"], "show": ["summaries,results,tests"]}
    assert daemon.requests[-1].query == asked
    head, table, *rows = result.out.splitlines()
    assert head == "card 0 (P104-100)" and "CARD" not in table and len(rows) == 2
    for words in ("full", "asked for", "faulty", "7.8/8.0 GiB", " 3 ", "251", "262", "61°C", "535.183.01"):
        assert words in rows[0]
    assert "preempted" in rows[1] and "schedule" in rows[1] and "0 GB" not in rows[1]
    assert json.loads(ctl("history", "--tests", "--json").out) == {"tests": tests}
    assert daemon.requests[-1].query == {"limit": ["20"], "show": ["tests"]}
    for columns in (80, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert max(map(len, ctl("history", "--card", "0").out.splitlines())) <= columns
        assert max(map(len, ctl("history", "--tests").out.splitlines())) <= columns


def test_history_of_all_cards_says_which(daemon, ctl):
    daemon.answers[HISTORY] = {"tests": [memory_test(0), memory_test(1)]}
    table, first, second = ctl("history", "--tests").out.splitlines()
    assert "CARD" in table and " 0  P104-100" in first and " 1  P104-100" in second
    daemon.answers[HISTORY] = {"tests": []}
    assert ctl("history", "--tests").out == "no memory test recorded\n"
    assert ctl("history", "--last", "0").code == 2


PROVEN = {
    "verdict": "proven",
    "memory_proven_bytes": 8000 * 2**20,
    "verified_at": "2026-11-20T22:00:00.000+00:00",
    "verified_depth": "full",
    "host_to_device_bytes_per_second": 0.172e9,
    "device_to_host_bytes_per_second": 0.183e9,
}


def proof_rig():
    return [
        card(0, **PROVEN),
        card(1, **PROVEN, test_due="the VBIOS changed from 86.04.7A.00.20 to 86.04.7A.00.21"),
        card(2, state="verifying", verified_percent=42.9),
        card(3, verdict="aliased", memory_proven_bytes=4 * GIB),
    ]


def test_cards_show_proof(daemon, ctl, monkeypatch):
    daemon.answers["GET", "/v1/cards"] = {"cards": proof_rig()}
    head, *rows = ctl("cards").out.splitlines()
    assert "PROVEN" in head and "TESTED" in head and "MEMORY" not in head
    assert "7.8/8.0 GiB" in rows[0] and re.search(r"\d[dhms] ago, full", rows[0])
    assert "due: the VBIOS changed" in rows[1] and "42 %" in rows[2] and "-/8.0 GiB" in rows[2]
    assert "4.0/8.0 GiB" in rows[3] and "never" in rows[3]
    for columns in (80, 100, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        page = ctl("cards").out
        assert max(map(len, page.splitlines())) <= columns
        for words in ("7.8/8.0 GiB", "unverified", "verifying", "1x1 of 1x4", "42 %"):
            assert words in page


def test_status_shows_how_far_a_test_is(daemon, ctl, monkeypatch):
    daemon.answers["GET", "/v1/status"] = status() | {"cards": [*rig()[:2], *proof_rig()[2:]]}
    wide = ctl("status").out
    for words in ("verifying 42%", "8.0/8.0 GiB", "4.0/8.0 GiB", "TESTED", "never", "7.3 GiB reserved"):
        assert words in wide
    for columns in (80, 100, 120, 140):
        monkeypatch.setenv("COLUMNS", str(columns))
        page = ctl("status").out
        assert max(map(len, page.splitlines())) <= columns and "42%" in page


def test_the_page_of_a_card_has_all_of_its_proof(daemon, ctl):
    daemon.answers["GET", "/v1/cards"] = {"cards": proof_rig()}
    daemon.answers[HISTORY] = {"tests": [going(1, 3.0), memory_test(1, None, state="preempted"), memory_test(1)]}
    page = ctl("cards", "1").out
    assert daemon.requests[-1].query["card"] == [UUIDS[1]]
    for words in (
        "tested      ",
        "ago (",
        "due         the VBIOS changed",
        "host to card 0.17 GB/s, card to host 0.18 GB/s",
        "8.0 GiB reported, 7.9 GiB CUDA has, 7.8 GiB tested, 7.8 GiB proven",
        "copy 255 GB/s",
        "at most 61°C, clocks 1607 to 1733 MHz",
        "hash ok",
    ):
        assert words in page
    assert "errors" not in page.replace("no errors", "")
    daemon.answers[HISTORY] = {"tests": [stuck(3)]}
    page = ctl("cards", "3").out
    assert "stuck       bit 3 of 0x140000000 at 1" in page and "Flash its own ROM back" in page


def test_the_page_of_a_locked_card_says_how_to_unlock_it_and_what_to_keep(daemon, ctl, monkeypatch):
    daemon.answers["GET", "/v1/cards"] = {"cards": rig()}
    monkeypatch.setenv("COLUMNS", "80")
    page = ctl("cards", "2").out
    flowing = " ".join(page.split())
    for words in ("nvflash --save backup.rom", "keep that file", "p104ctl verify", "docs/verification.md"):
        assert words in flowing
    assert max(map(len, page.splitlines())) <= 80
    assert "nvflash" not in ctl("cards", "1").out


def test_words():
    assert (rate(None), rate(0.16e9), rate(251.4e9)) == ("-", "0.16 GB/s", "251 GB/s")
    assert share(512 * 2**20, 8 * GIB) == "512 MiB/8.0 GiB" and share(None, None) == "-"
    assert share(None, 8 * GIB) == "-/8.0 GiB" and share(256 * 2**20, 512 * 2**20) == "256/512 MiB"
    assert [bits(mask) for mask in ("0x0", "0x8", "0x9", "0xffffffffffffffff")] == [
        "none",
        "bit 3",
        "bits 0, 3",
        "64 bits",
    ]
    assert last_proof(card(0, verified_percent=99.97)).text == "99 %" and last_proof(card(0)).text == "never"
    low = memory_test(0, coverage_percent=91.0, text="7.3 GiB tested, no errors; others hold 0.7 GiB")
    assert "others hold 0.7 GiB" in end_lines(low)[1] and len(end_lines(memory_test(0))) == 1
    many = memory_test(0, "faulty", errors=9, first_addresses=[hex(8 * one) for one in range(9)])
    assert any("0x0, 0x8, 0x10, 0x18 and 5 more" in line for line in end_lines(many))
    aliased = memory_test(0, "aliased", errors=1, fault="aliasing", alias_offset_bytes=-4 * GIB)
    assert any("4.0 GiB further on" in line for line in end_lines(aliased))


def test_a_map_without_matplotlib_is_refused_before_anything_is_asked(daemon, ctl, tmp_path, monkeypatch):
    monkeypatch.setattr(plotting, "find_spec", lambda _: None)
    result = ctl("verify", "0", "--map", str(tmp_path / "m.png"))
    assert result.code == 1 and "pip install 'p104d[plot]'" in result.err and daemon.requests == []


def test_a_map_that_cannot_be_written_is_refused_before_anything_is_asked(daemon, ctl, tmp_path, monkeypatch):
    monkeypatch.setattr(plotting, "find_spec", lambda _: True)
    for path in (tmp_path, tmp_path / "none" / "m.png"):
        assert ctl("verify", "0", "--map", str(path)).code == 2
    assert daemon.requests == []


def mapped(index: int, cells, **changes):
    found = [{"cell": cell, "errors": errors, "flipped": flipped} for cell, errors, flipped in cells]
    return stuck(index, map_cell_bytes=2**20, map_cells=found, **changes)


def test_rows_of_a_map_keep_every_bad_cell_where_it_is():
    # 8000 cells of 1 MiB on 200 rows: 40 cells a row.
    test = mapped(0, [(0, 2, "0x1"), (39, 3, "0x3"), (40, 5, "0x8000000000000000"), (7999, 1, "0x8")])
    assert plotting.bad_rows(test) == {0: {0: 5, 1: 3}, 1: {63: 5}, 199: {3: 1}}
    assert plotting.bad_rows(memory_test(0, map_cells=[], map_cell_bytes=2**20)) == {}
    # A cell beyond what is said to be tested (a test that broke off) is drawn too.
    beyond = mapped(0, [(5000, 2, "0x1"), (9999, 1, "0x8")], memory_tested_bytes=None, memory_total_bytes=None)
    assert plotting.bad_rows(beyond) == {100: {0: 2}, 199: {3: 1}}


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


@needs_plot
def test_a_map_of_several_cards_is_one_picture(daemon, ctl, tmp_path):
    cells = {UUIDS[0]: mapped(0, [(5000, 3, "0x8")], name="$x_{$ é"), UUIDS[1]: memory_test(1, map_cells=[])}
    daemon.answers[VERIFY] = verifying([stuck(0), memory_test(1)])
    daemon.answers[HISTORY] = lambda request: {"tests": [cells[request.query["card"][0]]]}
    target = tmp_path / "m.png"
    result = ctl("verify", "0", "1", "--map", str(target))
    assert result.code == 1 and "m.png: the map of bad bits of 2 cards" in result.err
    assert [one.query for one in daemon.asked("/v1/history")] == [
        {"card": [uuid], "limit": ["1"], "map": ["1"]} for uuid in UUIDS[:2]
    ]
    wide, high = png_size(target)
    assert wide > high > 500 and list(tmp_path.iterdir()) == [target]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


def first_coloured(path: Path) -> tuple[float, float]:
    """Where the leftmost dot that is not grey is, as parts of width and height (the scale is to the right of all)."""
    from matplotlib.image import imread

    dots = imread(path)[:, :, :3]
    rows, columns = ((dots.max(axis=2) - dots.min(axis=2)) > 0.3).nonzero()
    leftmost = columns.argmin()
    return columns[leftmost] / dots.shape[1], rows[leftmost] / dots.shape[0]


@needs_plot
@pytest.mark.parametrize(("cell", "bit", "place"), [(800, 3, (0.15, 0.15)), (7200, 60, (0.75, 0.83))])
def test_a_bad_bit_is_where_it_belongs(tmp_path, cell, bit, place):
    plotting.draw_map([mapped(0, [(cell, 3, hex(1 << bit))])], str(tmp_path / "m.png"))
    assert first_coloured(tmp_path / "m.png") == pytest.approx(place, abs=0.06)


@needs_plot
def test_a_picture_shows_the_bad_bit_and_a_healthy_one_says_so(tmp_path):
    drawn = {}
    for name, test in {
        "bad": mapped(0, [(4000, 3, "0x8")]),
        "elsewhere": mapped(0, [(4000, 3, "0x80000000")]),
        "healthy": memory_test(0, map_cells=[], map_cell_bytes=2**20),
        "failed": memory_test(0, "failed", text="the test hung"),
    }.items():
        plotting.draw_map([test], str(tmp_path / name))
        drawn[name] = (tmp_path / name).read_bytes()
    assert len(set(drawn.values())) == 4


@needs_plot
def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "m.png").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(plotting.P104Error, match="no space left"):
        plotting.draw_map([memory_test(0)], str(tmp_path / "m.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"] and (tmp_path / "m.png").read_text() == "old"


def test_every_verdict_and_depth_is_documented_with_what_to_do():
    text = (Path(__file__).resolve().parents[2] / "docs" / "verification.md").read_text()
    verdicts = next(field.type for field in msgspec.structs.fields(messages.Card) if field.name == "verdict")
    known = set(get_args(verdicts))
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert known <= set(rows) and set(DEPTHS) <= set(rows)
    assert set(MENDS) < known and all("docs/verification.md" in mend for mend in MENDS.values())
    assert "nvflash --save backup.rom" in text


def test_what_is_documented_of_a_test_is_what_it_does():
    text = (Path(__file__).resolve().parents[2] / "docs" / "verification.md").read_text()
    for depth in Depth:
        done, size = passes(depth, seed=1), 20 << 30
        moved = sum(operation.moved(size) for one in done for operation in one.operations) / size
        [row] = re.findall(rf"^\| `{depth}` \|.*$", text, re.MULTILINE)
        [said] = re.findall(r"([\d,]+) times \|", row)
        assert int(said.replace(",", "")) == pytest.approx(moved, rel=0.03)
        assert all(f"*{one.name}*" in text for one in done)
    assert f"*full* {THOROUGH_ROUNDS} times" in text
    assert f"after {STALL_SECONDS:.0f} s" in text and f"({START_SECONDS:.0f} s while" in text
