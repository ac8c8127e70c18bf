"""What ``history``, ``series`` and ``report`` answer, on a real queue and a rig made by hand, without a daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlalchemy.engine import Connection

from p104d.api import history as h
from p104d.api.history_queries import RecordQuery, SeriesQuery, WhileQuery, parse_records, parse_series, parse_while
from p104d.core.card import CardIdentity, CardReading, CardReport, DueTest, Verdict
from p104d.core.clock import ManualClock
from p104d.core.errors import NotFoundError, UsageError
from p104d.core.job import JobSpec, Measurement, Outcome
from p104d.core.lifecycle import Move
from p104d.core.plan import Start
from p104d.daemon.history import HistoryReader
from p104d.daemon.historyviews import OnRecord, Work, less_is_better
from p104d.daemon.rig import Rig
from p104d.daemon.sights import Onlooker
from p104d.engines.reference import references
from p104d.hardware.messages import Cycle
from p104d.store import moves, proofs, results
from p104d.store.engine import Database
from p104d.store.submit import NewDocument, Submitter, submit

NOW = 1_700_000_000.0
HOUR = 3600.0
DAY = 86400.0


def uuid(number: int) -> str:
    return f"GPU-{number:08d}-0000-0000-0000-000000000000"


A, B, C = uuid(0), uuid(1), uuid(2)


@pytest.fixture
def rig() -> Rig:
    """Three P104-100 of which card 2 is not seen any more."""
    made = Rig({}, missing_after=5.0, first_depth="quick", onlooker=Onlooker(lambda _: None, lambda _: False),
               take_lock=lambda _: None)  # fmt: skip
    for at, present in ((1.0, (0, 1, 2)), (2.0, (0, 1)), (60.0, (0, 1))):
        cards = tuple(
            CardReport(identity=CardIdentity(uuid=uuid(n), index=n, name="NVIDIA P104-100"), reading=CardReading())
            for n in present
        )
        made.on_cycle(Cycle(at=NOW + at, monotonic=at, sequence=int(at), cards=cards))
    made.records[A].verdict = made.records[B].verdict = Verdict.PROVEN
    return made


class Readings(msgspec.Struct):
    unit: str
    step: float
    times: Sequence[float]
    minimum: Sequence[float]
    mean: Sequence[float]
    maximum: Sequence[float]


class Recorder:
    """Telemetry that has 100 W on every card but C for all but the first half of what is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def series(self, entity: str, metric: str, since: float, until: float, step: float) -> Readings:
        self.asked.append((entity, metric, since, until, step))
        if metric == "warp":
            raise NotFoundError("there is no metric warp")
        first = (since + until) / 2
        times = [] if entity == C else [first + n * step for n in range(int((until - first) / step))]
        watts = [100.0] * len(times)
        return Readings("watts", step, times, watts, watts, watts)


def reader(database: Database, rig: Rig, **options: Any) -> HistoryReader:
    loop = SimpleNamespace(database=database, rig=rig, proofs=SimpleNamespace(running={}), clock=ManualClock(NOW + DAY))
    return HistoryReader(loop, **options)  # type: ignore[arg-type]


def ran(
    conn: Connection,
    name: str,
    start: float,
    cards: Sequence[str] = (A,),
    *,
    seconds: float = 60.0,
    model: str | None = None,
    failed: str | None = None,
    measured: Sequence[Measurement] = (),
) -> int:
    spec = JobSpec(name=name, command=("true",), cwd="/")
    [(job_id, _)] = submit(conn, [NewDocument(spec=spec, combinations=[{}])], Submitter(1000, "anna"), NOW).jobs
    start_of = Start(job_id=job_id, cards=tuple(cards), reserved_bytes=(8,) * len(cards), exclusive=True)
    assert moves.place(conn, start_of, now=NOW, boot_id="boot", ends_by=None, ram=0) == 1
    moves.run(conn, job_id, 1, pid=1, at=NOW + start)
    move, outcome = (Move.FAIL, Outcome.FAILED) if failed else (Move.SUCCEED, Outcome.SUCCEEDED)
    at = NOW + start + seconds
    assert moves.end(conn, moves.Ended(job_id=job_id, number=1, move=move, outcome=outcome, at=at, reason=failed,
                                       attempt_reason=failed, measurements=measured))  # fmt: skip
    if not failed:
        results.record(conn, results.Result(at=at, job_id=job_id, attempt=1, name=name, model=model, user="anna",
                                            uid=1000, card_uuids=tuple(cards), seconds=seconds,
                                            measurements=tuple(measured)))  # fmt: skip
    return job_id


def speed(value: float, name: str = "generation_tokens_per_second", unit: str = "tokens/s") -> Measurement:
    return Measurement(name=name, value=value, unit=unit)


# --- history -------------------------------------------------------------------------------------------------------


def test_results_name_their_cards_and_stand_against_the_record(database: Database, rig: Rig) -> None:
    with database.write() as conn:
        job = ran(conn, "chat", 0.0, model="m", measured=[speed(15.0)])
        ran(conn, "chat", 100.0, (A, B), model="m", measured=[speed(5.0, "seconds_per_step", "s/step")])
    asked: list[Work] = []

    def find(work: Work) -> OnRecord | None:
        asked.append(work)
        return OnRecord(10.0, work.unit, "a book") if work.card == "P104-100" else None

    query = RecordQuery(show=("results", "summaries"))
    answer = asyncio.run(reader(database, rig, reference=find).history(query))
    assert answer.tests == [] and answer.results is not None and answer.summaries is not None
    gang, single = answer.results
    assert (single.job_id, single.user, single.card_uuids, single.at) == (
        job,
        "anna",
        [A],
        "2023-11-14T22:14:20.000+00:00",
    )
    # Of 10 tokens/s 15 is 150 per cent, and so is 5 seconds where 10 are on record 200.
    assert single.reference is not None and (single.reference.percent, single.reference.source) == (150.0, "a book")
    assert gang.reference is not None and gang.reference.percent == 200.0 and gang.cards == 2
    assert asked[0] == Work("chat", "m", "P104-100", 2, "seconds_per_step", "s/step")
    by_card = {one.measure: one for one in answer.summaries}
    found = by_card["generation_tokens_per_second"]
    assert (found.card, found.card_index, found.card_name, found.count) == (A, 0, "P104-100", 1)
    assert (by_card["seconds_per_step"].card, by_card["seconds_per_step"].cards) == (None, 2)


def test_what_is_best_depends_on_the_measure(database: Database, rig: Rig) -> None:
    with database.write() as conn:
        for number, value in enumerate([1.0, 2.0, 3.0, 4.0, 8.0]):
            both = [speed(value), speed(value, "seconds_per_iteration", "s/it")]
            ran(conn, "x", number * 100.0, measured=both)
    answer = asyncio.run(reader(database, rig).history(RecordQuery(show=("summaries",))))
    assert answer.results is None and answer.summaries is not None
    found = {one.measure: (one.best, one.median, one.spread, one.last) for one in answer.summaries}
    assert found == {
        "generation_tokens_per_second": (8.0, 3.0, 2.0, 8.0),
        "seconds_per_iteration": (1.0, 3.0, 2.0, 8.0),
    }
    assert less_is_better("load_seconds", "s") and less_is_better("joules_per_token", "J/token")
    assert not less_is_better("score", "points") and not less_is_better("prompt_tokens_per_second", "tokens/s")


def test_the_shipped_table_of_speeds_is_what_results_stand_against(database: Database, rig: Rig) -> None:
    known = next(one for one in references() if one.cards == 1 and one.card == "P104-100")
    with database.write() as conn:
        ran(conn, "x", 0.0, model=known.match[0], measured=[speed(known.value / 2, known.measure, known.unit)])
    answer = asyncio.run(reader(database, rig).history(RecordQuery(show=("results",))))
    assert answer.results is not None and answer.results[0].reference is not None
    reference = answer.results[0].reference
    assert (reference.value, reference.unit) == (known.value, known.unit) and known.source in reference.source
    assert reference.percent == pytest.approx(200.0 if known.measure.startswith("seconds") else 50.0)


def test_history_of_a_card_and_of_tests(database: Database, rig: Rig) -> None:
    with database.write() as conn:
        ran(conn, "a", 0.0, (A,), measured=[speed(1.0)])
        ran(conn, "b", 0.0, (B,), measured=[speed(2.0)])
        for number, card in enumerate((A, B, A)):
            due = DueTest(cause="asked for", depth="quick", asked_at=NOW)
            test = proofs.begin(conn, card, due, NOW + number * 100, driver="5", vbios="v", total_bytes=8)
            proofs.end(
                conn, test, proofs.EndedTest(state="finished", ended_at=NOW + number * 100 + 9, verdict="proven")
            )
    asked = reader(database, rig)
    everything = asyncio.run(asked.history(RecordQuery(card="1", show=("tests", "results", "summaries"))))
    assert [test.card for test in everything.tests] == [B]
    assert [one.name for one in everything.results or ()] == [one.name for one in everything.summaries or ()] == ["b"]
    assert [test.card for test in asyncio.run(asked.history(RecordQuery())).tests] == [A, B, A]
    late = asyncio.run(asked.history(RecordQuery(since=NOW + 50, until=NOW + 150)))
    assert [test.card for test in late.tests] == [B] and late.results is None and late.summaries is None
    with pytest.raises(NotFoundError, match="there is no card"):
        asyncio.run(asked.history(RecordQuery(card="9")))


# --- series --------------------------------------------------------------------------------------------------------


def test_series_of_a_card_with_its_jobs(database: Database, rig: Rig) -> None:
    with database.write() as conn:
        job = ran(conn, "a", 0.0, (A, B))
        ran(conn, "b", 0.0, (B,))
    recorder = Recorder()
    answer = asyncio.run(reader(database, rig, telemetry=recorder).series(SeriesQuery(card="0", points=288)))
    assert [one.metric for one in answer.series] == ["temperature_celsius", "power_watts", "sm_clock_mhz"]
    assert [span.job_id for span in answer.jobs] == [job] and answer.note is None
    assert recorder.asked[0] == (A, "temperature_celsius", NOW, NOW + DAY, 300.0)
    assert (answer.card, answer.card_index, answer.card_name) == (A, 0, "P104-100")
    assert len(answer.series[0].times) == 144 and answer.series[0].times[0] == "2023-11-15T10:13:20.000+00:00"
    with pytest.raises(NotFoundError):
        asyncio.run(reader(database, rig, telemetry=recorder).series(SeriesQuery(card="0", metrics=("warp",))))


def test_series_without_telemetry_says_so(database: Database, rig: Rig) -> None:
    answer = asyncio.run(reader(database, rig).series(SeriesQuery()))
    assert (answer.series, answer.jobs, answer.card, answer.note) == ([], [], None, "no readings are kept")
    with pytest.raises(UsageError, match="until is not after since"):
        asyncio.run(reader(database, rig).series(SeriesQuery(since=NOW + 2 * DAY)))


# --- the report ----------------------------------------------------------------------------------------------------


def report(database: Database, rig: Rig, query: WhileQuery | None = None, **options: Any) -> h.Report:
    return asyncio.run(reader(database, rig, **options).report(query or WhileQuery()))


def test_an_empty_report(database: Database, rig: Rig) -> None:
    found = report(database, rig)
    assert (found.groups, found.failures, found.notes) == ([], [], [])
    assert [(card.index, card.hours, card.energy_watt_hours, card.drawn_watt_hours) for card in found.cards] == [
        (0, 0.0, None, None), (1, 0.0, None, None), (2, 0.0, None, None)]  # fmt: skip
    assert found.look_at == [f"card 2 ({C}) is missing; check its riser and power, then reboot"]
    assert found.cards[2].state == "missing" and found.cards[2].warnings == found.look_at


def test_a_report_by_name_and_model(database: Database, rig: Rig) -> None:
    def taken(energy: float, cost: float, tokens: float, rate: float) -> list[Measurement]:
        return [
            Measurement(name="energy_watt_hours", value=energy, unit="Wh"),
            Measurement(name="cost", value=cost, unit="EUR"),
            Measurement(name="generation_tokens", value=tokens, unit="tokens"),
            speed(rate),
            speed(1000.0, "prompt_tokens_per_second"),
        ]

    with database.write() as conn:
        for number, rate in enumerate((10.0, 20.0, 60.0)):
            ran(conn, "chat", number * HOUR, model="m", seconds=HOUR, measured=taken(100.0, 0.03, 5000.0, rate))
        # What failed measured no model; jobs of that name had just one.
        ran(conn, "chat", 3 * HOUR, failed="exit code 1", seconds=HOUR,
            measured=[Measurement(name="energy_watt_hours", value=7.0, unit="Wh")])  # fmt: skip
        for model in ("x", "y"):
            ran(conn, "two", 0.0, (B,), model=model, measured=[speed(1.0, "my_speed", "frames/s")])
        ran(conn, "two", 0.0, (B,), failed="card lost")
    found = report(database, rig, telemetry=Recorder())
    groups = {(one.name, one.model): one for one in found.groups}
    assert set(groups) == {("chat", "m"), ("two", "x"), ("two", "y"), ("two", None)}
    chat = groups["chat", "m"]
    assert (chat.jobs, chat.succeeded, chat.failed, chat.attempts, chat.hours) == (4, 3, 1, 4, 4.0)
    assert (chat.energy_watt_hours, chat.cost, chat.currency, chat.tokens, chat.items) == (
        307.0, pytest.approx(0.09), "EUR", 15000.0, None)  # fmt: skip
    assert (chat.speed, chat.speed_unit, chat.speed_measure) == (20.0, "tokens/s", "generation_tokens_per_second")
    assert chat.failures == [h.Cause("exit code 1", 1)]
    assert groups["two", "x"].speed_unit == "frames/s" and groups["two", None].speed is None
    assert {(cause.reason, cause.count) for cause in found.failures} == {("exit code 1", 1), ("card lost", 1)}
    first, second, third = found.cards
    assert (first.hours, first.attempts, first.failed, first.energy_watt_hours) == (4.0, 4, 1, 307.0)
    assert second.energy_watt_hours is None and second.failures == [h.Cause("card lost", 1)]
    # 100 W for the latter half of seven days, up to now; of the card that is missing there are no readings.
    assert first.drawn_watt_hours == pytest.approx(100.0 * 84) and third.drawn_watt_hours is None


def test_two_currencies_are_no_sum(database: Database, rig: Rig) -> None:
    with database.write() as conn:
        for number, unit in enumerate(("EUR", "USD")):
            ran(conn, "a", number * 100.0, measured=[Measurement(name="cost", value=1.0, unit=unit)])
    [group] = report(database, rig).groups
    assert group.cost is None and group.currency is None


def test_cards_that_fail_more_than_others_are_to_look_at(database: Database, rig: Rig) -> None:
    with database.write() as conn:
        for number in range(12):
            ran(conn, "a", number * 100.0, (A,))
            ran(conn, "a", number * 100.0, (B,), failed="card lost" if number % 2 else None)
    found = report(database, rig)
    [said] = [text for text in found.look_at if text.startswith("card 1")]
    assert "6 of 12 attempts failed, more than on others: card lost (6)" in said and "p104ctl verify 1" in said
    assert not [text for text in found.look_at if text.startswith("card 0")]


def test_a_job_that_fails_everywhere_is_the_jobs_fault(database: Database, rig: Rig) -> None:
    with database.write() as conn:
        for number in range(8):
            ran(conn, "bad", number * 100.0, ((A, B)[number % 2],), failed="exit code 2")
    found = report(database, rig)
    assert [text for text in found.look_at if "card 2" not in text] == ["job bad: 8 of 8 failed, mostly: exit code 2"]


@pytest.mark.parametrize(("unit", "slow"), [("it/s", 8.0), ("s/it", 12.5)])
def test_a_card_slower_than_its_siblings_is_to_look_at(database: Database, rig: Rig, unit: str, slow: float) -> None:
    with database.write() as conn:
        for number in range(6):
            ran(conn, "a", number * 100.0, (A,), measured=[speed(10.0, "pace", unit)])
            ran(conn, "a", number * 100.0, (B,), measured=[speed(slow, "pace", unit)])
            ran(conn, "rare", number * 100.0, (A,), measured=[speed(10.0 if number else 1.0, "pace", unit)])
        ran(conn, "rare", 0.0, (B,), measured=[speed(1.0, "pace", unit)])
    slower = [text for text in report(database, rig).look_at if "siblings" in text]
    [said] = slower
    assert said.startswith("card 1 (P104-100): a runs at 80 % of the speed of its siblings")
    assert "--card 1 --plot" in said


def test_what_was_forgotten_is_said(database: Database, rig: Rig) -> None:
    with database.write() as conn:
        ran(conn, "a", 0.0)
    [said] = report(database, rig, WhileQuery(since=NOW - 10 * DAY)).notes
    assert "no job that ended before 2023-11-1" in said
    assert report(database, rig, WhileQuery(since=NOW - 1000)).notes == []
    with pytest.raises(UsageError):
        report(database, rig, WhileQuery(since=NOW + 2 * DAY))


def test_the_loop_goes_on_while_years_are_read(database: Database, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question in its thread waits for the loop's own thread: were it asked there, this would never end."""
    import threading

    from p104d.daemon import history

    began, go_on = threading.Event(), threading.Event()
    real = history.make_report

    def slow(*given: Any) -> h.Report:
        began.set()
        assert go_on.wait(20)
        return real(*given)

    monkeypatch.setattr(history, "make_report", slow)

    async def both() -> h.Report:
        task = asyncio.create_task(reader(database, rig).report(WhileQuery()))
        assert await asyncio.to_thread(began.wait, 20)
        go_on.set()
        return await asyncio.wait_for(task, 20)

    assert asyncio.run(both()).groups == []


# --- queries -------------------------------------------------------------------------------------------------------


def test_queries_of_records() -> None:
    assert parse_records({}) == RecordQuery()
    full = {"show": "results,summaries", "card": "0", "job": "7", "name": "a b", "model": "m", "measure": "x",
            "speeds": "1", "since": "2023-11-14T22:13:20+00:00", "until": "2023-11-15T22:13:20Z",
            "limit": "9"}  # fmt: skip
    assert parse_records(full) == RecordQuery(
        show=("results", "summaries"), card="0", job=7, name="a b", model="m", measure="x", speeds=True, since=NOW,
        until=NOW + DAY, limit=9)  # fmt: skip
    # What an older p104ctl asks for is answered as ever.
    assert parse_records({"card": "0", "limit": "20", "map": "1"}) == RecordQuery(card="0", limit=20, map=True)
    assert parse_series({"card": "0", "metric": "a,b,a", "points": "10"}) == SeriesQuery(
        card="0", metrics=("a", "b"), points=10
    )
    assert parse_while({"since": "2023-11-14T22:13:20+00:00"}) == WhileQuery(since=NOW)


@pytest.mark.parametrize(
    ("parse", "query", "said"),
    [
        (parse_records, {"show": "everything"}, "show"),
        (parse_records, {"colour": "red"}, "colour"),
        (parse_records, {"limit": "0"}, "limit"),
        (parse_records, {"limit": "1001"}, "limit"),
        (parse_records, {"job": "-1"}, "job"),
        (parse_records, {"job": "9" * 400}, "job"),
        (parse_records, {"since": "yesterday"}, "since"),
        (parse_records, {"since": "nan"}, "since"),
        (parse_records, {"until": "9" * 4000}, "until"),
        (parse_series, {"points": "99999"}, "points"),
        (parse_series, {"name": "x"}, "name"),
        (parse_while, {"since": "2023-11-15", "until": "2023-11-14"}, "until"),
        (parse_while, {"limit": "1"}, "limit"),
    ],
)
def test_queries_refused(parse: Any, query: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as found:
        parse(query)
    assert len(found.value.message) < 200
