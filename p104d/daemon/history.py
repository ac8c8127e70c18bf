"""What was recorded, for people: results, what they come to, readings over time, and the report of a while.

All of it is read in a thread, on connections of its own: nobody else waits while years are added up.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from sqlalchemy.engine import Connection

from p104d.api import history as h
from p104d.api import proof as p
from p104d.api.history_queries import RecordQuery, SeriesQuery, WhileQuery
from p104d.core.errors import P104Error, UsageError
from p104d.core.units import iso
from p104d.daemon import historyviews as views
from p104d.daemon import proofviews
from p104d.daemon.aside import Aside
from p104d.daemon.cardfacts import short_name
from p104d.daemon.cardnames import resolve
from p104d.daemon.loop import Loop
from p104d.daemon.reporting import CardNow, make_report
from p104d.store import proofs as tests_store
from p104d.store import records as store

_DAY = 86400.0
#: Of a card, points that are added up for its energy: five weeks of minutes.
_MOST_MINUTES = 50_000
#: What a picture of a card shows unless told otherwise.
CARD_METRICS = ("temperature_celsius", "power_watts", "sm_clock_mhz")
HOST_METRICS = ("cpu_percent", "memory_used_bytes")
HOST = "host"


class Telemetry(Protocol):
    """Readings over time. Raises NotFoundError for a metric that there is not."""

    async def series(self, entity: str, metric: str, since: float, until: float, step: float) -> views.Readings: ...


class HistoryReader:
    """Answers ``history``, ``series`` and ``report``. Everybody may ask: names, cards and speeds are no secret."""

    def __init__(
        self,
        loop: Loop,
        *,
        telemetry: Telemetry | None = None,
        reference: views.FindReference = views.on_record,
    ) -> None:
        self._loop, self._telemetry, self._reference = loop, telemetry, reference
        self._aside = Aside(loop.database)

    # --- records ---------------------------------------------------------------------------------------------------

    async def history(self, query: RecordQuery) -> h.HistoryAnswer:
        """Memory tests, results and summaries that fit. Raises NotFoundError for an unknown card."""
        uuid = None if query.card is None else resolve(self._loop.rig, query.card)
        wanted = store.Records(
            card=uuid,
            job=query.job,
            name=query.name,
            model=query.model,
            measure=query.measure,
            speeds=query.speeds,
            since=query.since,
            until=query.until,
        )
        answer = h.HistoryAnswer(tests=self._tests(query, uuid) if "tests" in query.show else [])
        if {"results", "summaries"} & set(query.show):
            names = self._names()
            results, summaries = await self._aside.ask(partial(self._records, query, wanted, names))
            answer.results, answer.summaries = results, summaries
        return answer

    def _tests(self, query: RecordQuery, uuid: str | None) -> list[p.MemoryTest]:
        rig, proofs = self._loop.rig, self._loop.proofs
        since, until = query.since or -math.inf, query.until or math.inf
        with self._loop.database.read() as conn:
            rows = tests_store.tests(conn, uuid, query.limit)
        inside = [row for row in rows if since <= row.started_at < until]
        return [proofviews.recorded(rig, proofs, row, with_map=query.map) for row in inside]

    def _records(
        self, query: RecordQuery, wanted: store.Records, names: views.Names, conn: Connection
    ) -> tuple[list[h.Result] | None, list[h.Summary] | None]:
        found = views.References(self._reference, names)
        results = store.results(conn, wanted, query.limit) if "results" in query.show else None
        summaries = store.summaries(conn, wanted) if "summaries" in query.show else None
        return (
            None if results is None else [views.result(row, found) for row in results],
            None if summaries is None else [views.summary(row, found, names) for row in summaries],
        )

    def _names(self) -> views.Names:
        """UUID -> index and name, as they are known now; asked in the loop's own thread."""
        return {
            uuid: (record.identity.index, short_name(record.identity))
            for uuid, record in self._loop.rig.records.items()
        }

    # --- readings --------------------------------------------------------------------------------------------------

    async def series(self, query: SeriesQuery) -> h.SeriesAnswer:
        """Readings of a card or of the host; the last day unless asked otherwise."""
        uuid = None if query.card is None else resolve(self._loop.rig, query.card)
        until = self._loop.clock.now() if query.until is None else query.until
        since = until - _DAY if query.since is None else query.since
        if until <= since:
            raise UsageError("until is not after since", mend="give an earlier --since")
        metrics = query.metrics or (HOST_METRICS if uuid is None else CARD_METRICS)
        index, name = self._names().get(uuid or "", (None, None))
        step = max(1.0, (until - since) / query.points)
        series = (
            []
            if self._telemetry is None
            else await self._read(self._telemetry, uuid or HOST, metrics, since, until, step)
        )
        jobs = [] if uuid is None else await self._aside.ask(partial(self._spans, uuid, since, until))
        return h.SeriesAnswer(
            since=iso(since) or "",
            until=iso(until) or "",
            card=uuid,
            card_index=index,
            card_name=name,
            series=series,
            jobs=jobs,
            note="no readings are kept" if self._telemetry is None else None,
        )

    async def _read(
        self, telemetry: Telemetry, entity: str, metrics: Sequence[str], since: float, until: float, step: float
    ) -> list[h.Series]:
        return [
            views.series(entity, metric, await telemetry.series(entity, metric, since, until, step))
            for metric in metrics
        ]

    def _spans(self, uuid: str, since: float, until: float, conn: Connection) -> list[h.Span]:
        return [views.span(row) for row in store.spans(conn, uuid, since, until)]

    # --- the report ------------------------------------------------------------------------------------------------

    async def report(self, query: WhileQuery) -> h.Report:
        """A while on one page; the last seven days unless asked otherwise."""
        now = self._loop.clock.now()
        until = now if query.until is None else query.until
        since = until - 7 * _DAY if query.since is None else query.since
        if until <= since:
            raise UsageError("until is not after since", mend="give an earlier --since")
        reached = min(until, now)
        report = await self._aside.ask(partial(self._read_report, since, until, reached, self._cards_now()))
        if self._telemetry is not None:
            for card in report.cards:
                card.drawn_watt_hours = await _drawn(self._telemetry, card.card, since, reached)
        return report

    def _cards_now(self) -> list[CardNow]:
        rig = self._loop.rig
        warnings = list(rig.warnings())
        found = []
        for uuid, record in rig.records.items():
            index, condition = record.identity.index, rig.condition(uuid, ())
            # A warning begins with the card it is about: "card 3 is missing", "card 3: PCIe link x1".
            starts = (f"card {index} ", f"card {index}:")
            found.append(
                CardNow(
                    uuid=uuid,
                    index=index,
                    name=short_name(record.identity),
                    state=str(condition.state),
                    verdict=str(record.verdict),
                    warnings=tuple(text for text in warnings if text.startswith(starts)),
                )
            )
        return sorted(found, key=lambda each: (each.index is None, each.index or 0))

    def _read_report(
        self, since: float, until: float, reached: float, cards: Sequence[CardNow], conn: Connection
    ) -> h.Report:
        return make_report(conn, since, until, reached, cards)


async def _drawn(telemetry: Telemetry, uuid: str, since: float, until: float) -> float | None:
    """Watt-hours in that time, as far as there are readings; None without any."""
    # By the minute where it can be done in some milliseconds a card: the mean of an hour of which ten minutes were read
    # says nothing of the other fifty, and days with gaps would draw several times what they drew.
    step = 3600.0 if until - since > _MOST_MINUTES * 60.0 else 60.0
    try:
        found = await telemetry.series(uuid, "power_watts", since, until, step)
    except (P104Error, OSError, sqlite3.Error):
        return None
    if not found.times:
        return None
    # A stretch counts only as far as it lies inside.
    return sum(
        watts * max(0.0, min(at + found.step, until) - max(at, since)) / 3600.0
        for at, watts in zip(found.times, found.mean, strict=True)
    )
