"""All that a report adds up, over the time from ``since`` to before ``until`` (Unix seconds).

An attempt or job counts in the time in which it ended. To be asked on ``store.aside``: a busy year takes seconds.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from p104d.store import sql

#: The model of an attempt that measured something; kept aside because every part below joins it.
_MODELS = """
    models AS MATERIALIZED (
        SELECT job_id, attempt, max(model) AS model FROM results
        WHERE at >= :since AND at < :until AND model IS NOT NULL GROUP BY job_id, attempt
    )
"""
_ENDED = "a.ended_at >= :since AND a.ended_at < :until"


def jobs_ended(conn: Connection, since: float, until: float) -> list[Any]:
    """Jobs that ended, counted by (name, model, state, reason); the reason only of those that did not succeed."""
    return sql.rows(
        conn,
        f"""
        WITH {_MODELS}
        SELECT j.name, m.model, j.state, CASE WHEN j.state <> 'succeeded' THEN j.reason END AS reason, count(*) AS count
        FROM jobs j INDEXED BY jobs_ended LEFT JOIN models m ON m.job_id = j.id AND m.attempt = j.attempts
        WHERE j.ended_at >= :since AND j.ended_at < :until
        GROUP BY 1, 2, 3, 4
        """,  # noqa: S608
        {"since": since, "until": until},
    )


def time_spent(conn: Connection, since: float, until: float) -> list[Any]:
    """Attempts that ended: how many and how long they ran in all, by (name, model)."""
    return sql.rows(
        conn,
        f"""
        WITH {_MODELS}
        SELECT j.name, m.model, count(*) AS attempts, total(a.ended_at - a.started_at) AS seconds
        FROM attempts a
        CROSS JOIN jobs j ON j.id = a.job_id
        LEFT JOIN models m ON m.job_id = a.job_id AND m.attempt = a.number
        WHERE {_ENDED} AND a.outcome <> 'revoked'
        GROUP BY 1, 2
        """,  # noqa: S608
        {"since": since, "until": until},
    )


def amounts(conn: Connection, since: float, until: float, names: tuple[str, ...]) -> list[Any]:
    """Sums of what attempts measured under ``names``, by (name, model, measure, unit)."""
    chosen = ",".join(f":name{place}" for place in range(len(names)))
    return sql.rows(
        conn,
        f"""
        WITH {_MODELS}
        SELECT j.name, m.model, x.name AS measure, x.unit, total(x.value) AS value
        FROM attempts a
        CROSS JOIN measurements x ON x.job_id = a.job_id AND x.number = a.number AND x.name IN ({chosen})
        CROSS JOIN jobs j ON j.id = a.job_id
        LEFT JOIN models m ON m.job_id = a.job_id AND m.attempt = a.number
        WHERE {_ENDED}
        GROUP BY 1, 2, 3, 4
        """,  # noqa: S608
        {"since": since, "until": until, **{f"name{place}": name for place, name in enumerate(names)}},
    )


def busy(conn: Connection, since: float, until: float) -> list[Any]:
    """Seconds in which at least one attempt ran on each card, clipped to the time asked for, those under way too."""
    return sql.rows(
        conn,
        """
        WITH ran AS (
            SELECT c.card_uuid, max(a.started_at, :since) AS begun, min(a.ended_at, :until) AS over
            FROM attempts a
            CROSS JOIN attempt_cards c ON c.job_id = a.job_id AND c.number = a.number
            WHERE a.ended_at >= :since AND a.started_at < :until
            UNION ALL
            SELECT c.card_uuid, max(a.started_at, :since), :until
            FROM attempts a INDEXED BY attempts_open
            CROSS JOIN attempt_cards c ON c.job_id = a.job_id AND c.number = a.number
            WHERE a.outcome IS NULL AND a.started_at < :until
        ), reached AS (
            SELECT card_uuid, begun, over,
                   max(over) OVER (PARTITION BY card_uuid ORDER BY begun, over
                                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
            FROM ran
        )
        SELECT card_uuid, total(max(0.0, over - max(begun, coalesce(before, begun)))) AS seconds
        FROM reached GROUP BY card_uuid
        """,
        {"since": since, "until": until},
    )


def on_cards(conn: Connection, since: float, until: float) -> list[Any]:
    """Attempts that ended, counted by (card, outcome, reason); the reason only of those that did not succeed."""
    return sql.rows(
        conn,
        f"""
        SELECT c.card_uuid, a.outcome, CASE WHEN a.outcome <> 'succeeded' THEN a.reason END AS reason,
               count(*) AS count
        FROM attempts a
        CROSS JOIN attempt_cards c ON c.job_id = a.job_id AND c.number = a.number
        WHERE {_ENDED} AND a.outcome <> 'revoked'
        GROUP BY 1, 2, 3
        """,  # noqa: S608
        {"since": since, "until": until},
    )


def card_amounts(conn: Connection, since: float, until: float, names: tuple[str, ...]) -> list[Any]:
    """Sums of what attempts measured under ``names``, by (card, measure); of several cards each has its part."""
    chosen = ",".join(f":name{place}" for place in range(len(names)))
    return sql.rows(
        conn,
        f"""
        SELECT c.card_uuid, x.name AS measure, total(x.value / max(1, a.cards)) AS value
        FROM attempts a
        CROSS JOIN measurements x ON x.job_id = a.job_id AND x.number = a.number AND x.name IN ({chosen})
        CROSS JOIN attempt_cards c ON c.job_id = a.job_id AND c.number = a.number
        WHERE {_ENDED}
        GROUP BY 1, 2
        """,  # noqa: S608
        {"since": since, "until": until, **{f"name{place}": name for place, name in enumerate(names)}},
    )


def card_tests(conn: Connection, since: float, until: float) -> list[Any]:
    """Memory tests that finished: by card how many, and how many found the memory bad."""
    return sql.rows(
        conn,
        """
        SELECT card_uuid, count(*) AS tests, total(verdict IN ('aliased', 'faulty', 'failed')) AS bad
        FROM memory_tests WHERE state = 'finished' AND ended_at >= ? AND ended_at < ? GROUP BY card_uuid
        """,
        (since, until),
    )


def oldest_job(conn: Connection) -> float | None:
    """When the oldest job that is kept ended; None: none has."""
    found = sql.value(conn, "SELECT min(ended_at) FROM jobs INDEXED BY jobs_ended WHERE ended_at IS NOT NULL")
    return None if found is None else float(found)
