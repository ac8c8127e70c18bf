"""The live screen against a daemon that knows nothing: what it shows, what its keys ask for, the daemon going away."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from fake_daemon import UUIDS, FakeDaemon, Reply, card, job, refusal, status
from textual.pilot import Pilot

from p104d.api.client import Client
from p104d.cli.top_app import Top
from p104d.cli.top_feed import look
from p104d.cli.top_listing import Listing, LogView

BOUND_SECONDS = 10.0


@pytest.fixture(autouse=True)
def filled(daemon: FakeDaemon) -> None:
    """Two jobs run, three wait."""
    daemon.answers["GET", "/v1/status"] = status()
    daemon.answers["GET", "/v1/cards"] = {"cards": status()["cards"]}
    first = [job(20, waiting_because="no card has room", name="next"), job(21, waiting_because="behind job 20")]
    held = job(19, "held", name="put\x1b[31m\x07off", waiting_because="held")
    daemon.answers["GET", "/v1/jobs"] = lambda request: {
        "jobs": first if request.query.get("order") == ["next"] else [first[1], first[0], held]
    }


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("top-")]


def text(top: Top) -> str:
    """What is on the screen."""
    lines = [[segment.text for segment in strip] for strip in top.screen._compositor.render_strips()]
    return "\n".join("".join(line).rstrip() for line in lines)


async def until(pilot: Pilot[None], true: Callable[[], Any]) -> None:
    """Wait, within bounds, until something is so."""
    async with asyncio.timeout(BOUND_SECONDS):
        while not true():
            await asyncio.sleep(0.01)


def watch(
    daemon: FakeDaemon,
    act: Callable[[Top, Pilot[None]], Awaitable[None]],
    size: tuple[int, int] = (80, 24),
    interval: float = 0.25,
) -> None:
    """Run the screen, and ``act`` on it once it stands."""

    async def run() -> None:
        asked = Client([daemon.path])
        top = Top(asked, look(asked), interval, True)
        async with top.run_test(size=size) as pilot:
            await until(pilot, lambda: "CARDS" in text(top))
            await act(top, pilot)

    asyncio.run(run())


def test_it_shows_cards_jobs_and_warnings_at_80_by_24(daemon: FakeDaemon) -> None:
    daemon.answers["GET", "/v1/status"] = status(mode="simulated", paused=True)
    daemon.answers["GET", "/v1/status"]["cards"][1]["models"] = ["/models/qwen2-7b-coder-q8_0.gguf"]

    async def act(top: Top, pilot: Pilot[None]) -> None:
        shown = text(top)
        lines = shown.split("\n")
        assert len(lines) == 24 and max(map(len, lines)) <= 80
        assert lines[0].startswith("p104d 0.1.0 · the system's daemon · pid 4242")
        assert "*** SIMULATED RIG" in lines[1] and "*** PAUSED" in lines[2]
        for words in ("── CARDS 4 ─", "── RUNNING 2 ─", "── WAITING 7 queued · 1 held ─", "qwen2-7b-coder"):
            assert words in shown
        assert "5.9/8.0 GiB" in shown and "99%" in shown and "71°C" in shown and "suspect" in shown
        [running] = [line for line in lines if line.startswith("  12")]
        assert "posters" in running and "2.52 it/s" in running
        waiting = [line.split()[0] for line in lines[lines.index(next(w for w in lines if "WAITING" in w)) + 2 :][:3]]
        assert waiting == ["20", "21", "19"]
        assert "! card 3 is suspect" in shown and lines[-1].startswith("Enter details  d drain")
        # A name must not drive the terminal of whoever reads it.
        assert "put\\x1b[31m\\x07off" in shown and "\x1b" not in shown

    watch(daemon, act)


def test_sparklines_grow_from_what_was_polled(daemon: FakeDaemon) -> None:
    loads = iter([0, 100, 100, *[50] * 100_000])

    def answer(_: Any) -> dict[str, Any]:
        return status() | {"cards": [card(0, utilization_percent=next(loads))]}

    daemon.answers["GET", "/v1/status"] = answer

    async def act(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(daemon.asked("/v1/status")) > 5)
        await until(pilot, lambda: " 50%" in text(top))
        [line] = [line for line in text(top).split("\n") if " P104-100 " in line]
        assert any(block in line for block in "▂▃▄▅▆▇")

    watch(daemon, act)


@pytest.mark.parametrize(
    ("keys", "path", "body"),
    [
        (["tab", "c", "y"], "/v1/jobs/cancel", {"ids": [12]}),
        (["tab", "down", "h"], "/v1/jobs/hold", {"ids": [13]}),
        (["tab", "tab", "h"], "/v1/jobs/hold", {"ids": [20]}),
        (["tab", "tab", "end", "h"], "/v1/jobs/release", {"ids": [19]}),
        (["down", "d"], "/v1/cards/drain", {"cards": [UUIDS[1]], "undo": False}),
        (["end", "d"], "/v1/cards/drain", {"cards": [UUIDS[3]], "undo": True}),
        (["p"], "/v1/pause", {}),
    ],
)
def test_keys_ask_for_what_they_should(daemon: FakeDaemon, keys: list[str], path: str, body: dict[str, Any]) -> None:
    daemon.answers["POST", path] = {
        "jobs": [job(12, "stopping")],
        "cards": [card(1, state="draining", jobs=[13])],
        "daemon": {},
    }
    said = "card 1 (P104-100): draining" if "drain" in path else "paused" if "pause" in path else "(posters): stopping"

    async def act(top: Top, pilot: Pilot[None]) -> None:
        await pilot.press(*keys)
        await until(pilot, lambda: said in text(top))
        [request] = daemon.asked(path)
        assert request.body == body

    watch(daemon, act)


def test_a_paused_queue_is_resumed(daemon: FakeDaemon) -> None:
    daemon.answers["GET", "/v1/status"] = status(paused=True)
    daemon.answers["POST", "/v1/resume"] = {}

    async def act(top: Top, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        await until(pilot, lambda: daemon.asked("/v1/resume"))

    watch(daemon, act)


def test_cancel_asks_first_and_takes_no_for_an_answer(daemon: FakeDaemon) -> None:
    async def act(top: Top, pilot: Pilot[None]) -> None:
        for no in ("n", "escape"):
            await pilot.press("tab" if no == "n" else "home", "c")
            await until(pilot, lambda: "Cancel job 12 (posters), which is running?" in text(top))
            await pilot.press(no)
            await until(pilot, lambda: "RUNNING" in text(top) and "Cancel job" not in text(top))
        assert not daemon.asked("/v1/jobs/cancel")

    watch(daemon, act)


def test_what_is_refused_is_one_line_below(daemon: FakeDaemon) -> None:
    daemon.answers["POST", "/v1/cards/drain"] = refusal(403, 4, "only root may drain", "ask root")
    daemon.answers["POST", "/v1/pause"] = b"[]"

    async def act(top: Top, pilot: Pilot[None]) -> None:
        await pilot.press("d")
        await until(pilot, lambda: "only root may drain; ask root" in text(top).split("\n")[-1])
        await pilot.press("l")
        await until(pilot, lambda: "no job is selected; Tab goes" in text(top).split("\n")[-1])
        await pilot.press("tab", "h")
        await until(pilot, lambda: "no such thing" in text(top).split("\n")[-1])

    watch(daemon, act)


def test_the_selection_stays_with_its_job(daemon: FakeDaemon) -> None:
    async def act(top: Top, pilot: Pilot[None]) -> None:
        await pilot.press("tab", "down")
        table = top.screen.query_one("#running", Listing)
        assert table.key == 13
        changed = status()
        changed["running"].insert(0, job(11, "running"))
        daemon.answers["GET", "/v1/status"] = changed
        await until(pilot, lambda: "  11  posters" in text(top))
        assert table.key == 13
        changed["running"] = [job(14, "running")]
        await until(pilot, lambda: "  14  posters" in text(top))
        assert table.key == 14

    watch(daemon, act)


def test_many_cards_scroll(daemon: FakeDaemon) -> None:
    rig = [card(0) | {"index": number, "uuid": f"GPU-{number:08}"} for number in range(14)]
    daemon.answers["GET", "/v1/status"] = status() | {"cards": rig}

    async def act(top: Top, pilot: Pilot[None]) -> None:
        assert "1-" in text(top) and "of 14 ──" in text(top) and "\n 13  P104" not in text(top)
        assert "WAITING" in text(top) and "! card 3" in text(top)
        await pilot.press("end")
        await until(pilot, lambda: "-14 of 14 ──" in text(top))
        assert "\n 13  P104" in text(top) and "\n  0  P104" not in text(top)
        await pilot.resize_terminal(120, 50)
        await until(pilot, lambda: "\n  0  P104" in text(top))

    watch(daemon, act)


def test_an_empty_rig(daemon: FakeDaemon) -> None:
    daemon.answers["GET", "/v1/status"] = status() | {"cards": [], "running": [], "warnings": [], "queue": {}}

    async def act(top: Top, pilot: Pilot[None]) -> None:
        for words in ("no cards (p104ctl doctor says why)", "nothing runs", "nothing waits"):
            assert words in text(top)
        await pilot.press("d", "tab", "c", "h", "l", "enter", "down", "pagedown")
        await until(pilot, lambda: "no job is selected" in text(top))

    watch(daemon, act)


def test_pages_of_a_job_and_a_card(daemon: FakeDaemon) -> None:
    waits = {"id": 20, "waiting_because": "no card has room", "cards": [{"uuid": UUIDS[1], "refusal": "is full"}]}
    daemon.answers["POST", "/v1/jobs/show"] = {"jobs": [{**job(20, name="next"), "attempts": [], "spec": None}]}
    daemon.answers["POST", "/v1/jobs/explain"] = {"jobs": [waits]}

    async def act(top: Top, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await until(pilot, lambda: f"uuid        {UUIDS[0]}" in text(top))
        await pilot.press("escape", "tab", "tab", "enter")
        await until(pilot, lambda: "job 20  next  queued" in text(top) and "is full" in text(top))
        # The keys of the tables are not those of a page.
        await pilot.press("c", "p", "d")
        assert daemon.asked("/v1/jobs/show")[0].body == {"ids": [20]} and not daemon.asked("/v1/pause")
        daemon.answers["POST", "/v1/jobs/show"] = refusal(404, 5, "there is no job 20")
        await pilot.press("r")
        await until(pilot, lambda: "there is no job 20" in text(top))
        await pilot.press("escape", "question_mark")
        await until(pilot, lambda: "follow its log" in text(top))

    watch(daemon, act)


def test_a_log_is_followed_and_hung_up(daemon: FakeDaemon) -> None:
    more, hung_up = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"\x1b[32mfirst\x1b[0m\n 10%|#\r 20%|##"
        more.wait(BOUND_SECONDS)
        yield b"\r 30%|###\nlast\x07"
        try:
            while not hung_up.wait(0.01):
                yield b"."
        except GeneratorExit:
            hung_up.set()
            raise

    daemon.answers["GET", "/v1/jobs/12/log"] = lambda _: Reply(pieces=pieces())  # type: ignore[arg-type]

    async def act(top: Top, pilot: Pilot[None]) -> None:
        await pilot.press("tab", "l")
        await until(pilot, lambda: "first\n 20%|##" in text(top))
        assert "job 12 (posters): following" in text(top) and "10%" not in text(top)
        more.set()
        await until(pilot, lambda: " 30%|###\nlast\\x07" in text(top) and "20%" not in text(top))
        await pilot.press("escape")
        await until(pilot, lambda: "RUNNING" in text(top))
        await until(pilot, hung_up.is_set)

    watch(daemon, act)
    assert daemon.asked("/v1/jobs/12/log")[0].query["follow"] == ["1"]


def test_a_log_ends_and_scrolls(daemon: FakeDaemon) -> None:
    daemon.answers["GET", "/v1/jobs/12/log"] = lambda _: Reply(pieces=[b"".join(b"%d\n" % n for n in range(100))])
    end = {"id": 12, "state": "failed", "exit_code": 3, "reason": "exit code 3"}
    daemon.answers["POST", "/v1/jobs/wait"] = {"jobs": [end]}
    daemon.answers["GET", "/v1/jobs/13/log"] = refusal(404, 5, "job 13 has not run")

    async def act(top: Top, pilot: Pilot[None]) -> None:
        await pilot.press("tab", "l")
        await until(pilot, lambda: "job 12 (posters): job 12 failed: exit code 3" in text(top))
        assert "\n99\n" in text(top) and "\n77\n" not in text(top)
        await pilot.press("up", "up")
        await until(pilot, lambda: "\n97\nEsc" in text(top))
        await pilot.press("home")
        await until(pilot, lambda: "\n0\n1\n" in text(top))
        await pilot.press("end")
        await until(pilot, lambda: "\n99\nEsc" in text(top))
        assert not top.screen.query_one(LogView).scrolled
        await pilot.press("escape", "down", "l")
        await until(pilot, lambda: "job 13 has not run" in text(top))

    watch(daemon, act)


def test_the_daemon_goes_away_and_comes_back(daemon: FakeDaemon, tmp_path: Any) -> None:
    path = str(tmp_path / "s")
    second = FakeDaemon(path)
    second.answers = dict(daemon.answers)

    async def act(top: Top, pilot: Pilot[None]) -> None:
        second.close()
        os.unlink(path)
        await until(pilot, lambda: "*** the daemon is away, trying again: no daemon answers" in text(top))
        assert "posters" in text(top)
        await pilot.press("p")
        await until(pilot, lambda: "no daemon answers" in text(top).split("is away")[1].split("WAITING")[1])
        third = FakeDaemon(path)
        try:
            third.answers = daemon.answers | {("GET", "/v1/status"): status(version="0.2.0")}
            await until(pilot, lambda: "p104d 0.2.0" in text(top) and "the daemon is away" not in text(top))
            third.answers["GET", "/v1/status"] = {"daemon": {}, "queue": {}}
            await until(pilot, lambda: "answer is not understood" in text(top))
            third.answers["GET", "/v1/status"] = status(version="0.3.0")
            await until(pilot, lambda: "p104d 0.3.0" in text(top) and "not understood" not in text(top))
        finally:
            third.close()

    watch(second, act)


def test_without_colour_nothing_is_coloured(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[bool, set[bool]] = {}
    for plain in (False, True):
        if plain:
            monkeypatch.setenv("NO_COLOR", "1")

        async def act(top: Top, pilot: Pilot[None], plain: bool = plain) -> None:
            strips = top.screen._compositor.render_strips()
            lines = list(strips)
            for line_filter in top._filters:
                lines = [strip.apply_filter(line_filter, top.background_colors[0]) for strip in lines]
            styles = [segment.style for strip in lines for segment in strip if segment.style]
            seen[plain] = {bool(style.color and not style.color.is_default) for style in styles}
            assert any(style.reverse for style in styles), "the selected row is seen without colour too"

        watch(daemon, act)
    assert seen == {False: {False, True}, True: {False}}


# The verb: where it will not start, and in a terminal of its own.


def test_it_needs_a_terminal_a_daemon_and_textual(
    daemon: FakeDaemon, ctl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = ctl("top")
    assert (result.code, result.out) == (2, "") and result.err.startswith("p104ctl: top needs a terminal; ")
    assert ctl("top", "--interval", "0").code == 2 and ctl("top", "--json").code == 2
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert ctl("top").code == 2
    monkeypatch.setenv("TERM", "xterm")
    assert ctl("--socket", "/nonexistent", "top").code == 3
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "p104d.cli.verbs.top", raising=False)
    result = ctl("top")
    assert result.code == 4 and "pip install 'p104d[top]'" in result.err and result.err.count("\n") == 1


def test_in_a_terminal_it_starts_and_ends(
    daemon: FakeDaemon, spawn: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    process = spawn("top", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    try:
        while b"WAITING" not in shown:
            shown += _read(ours)
        os.write(ours, b"q")
        # Read on, or a full terminal would keep it from ending; it is hung up when the last writer is gone.
        while piece := _read(ours):
            shown += piece
    finally:
        os.close(ours)
    assert process.wait(BOUND_SECONDS) == 0
    assert b"\x1b[?1049h" in shown and b"\x1b[?1049l" in shown and b"Traceback" not in shown


def _read(terminal: int) -> bytes:
    assert select.select([terminal], [], [], BOUND_SECONDS)[0], "the screen says nothing"
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_what_breaks_inside_is_raised_not_printed(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(top: Top, pilot: Pilot[None]) -> None:
        monkeypatch.setattr(top.rig, "action_pause", lambda: 1 / 0)
        await pilot.press("p")

    with pytest.raises(ZeroDivisionError):
        watch(daemon, act)
