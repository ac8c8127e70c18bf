"""What became of each request: its line for the file of answers, and its place in the report."""

from __future__ import annotations

import time

from p104d.engines.batch_answer import ANSWERED, FAILED, Answer
from p104d.engines.batch_input import Junk, Request
from p104d.engines.batch_output import BAD_LINE, Answers, Before, line_of
from p104d.engines.batch_report import Report

#: Lines of junk one after the other are made durable so many at a time.
_MOST_LINES = 500


class Try:
    """A request on its way. ``alone``: nothing else may be with the server, so that a request that kills it can take
    no other with it. ``stale``: a connection that had been used before closed under it once; that is nobody's fault."""

    __slots__ = ("alone", "attempts", "began", "due", "request", "stale")

    def __init__(self, request: Request) -> None:
        self.request, self.attempts, self.due, self.began = request, 0, 0.0, 0.0
        self.alone = self.stale = False


class Ledger:
    """Lines wait here until ``flush``: answers that arrive together are made durable together, and only then count."""

    def __init__(self, answers: Answers, before: Before, report: Report) -> None:
        self.report = report
        self._answers, self._before = answers, before
        self._lines: list[tuple[bytes, Answer | str]] = []
        self._prefix = f"{time.time_ns():x}"

    def finish(self, attempt: Try, answer: Answer, now: float) -> None:
        """A request has its answer, or its error for good."""
        request = attempt.request
        request_id = f"{self._prefix}_{request.line}"
        named = answer.body.get("id") if isinstance(answer.body, dict) else None
        response = {
            "status_code": answer.status,
            "request_id": named if isinstance(named, str) else request_id,
            "body": answer.body,
        }
        good = answer.kind == ANSWERED
        line = line_of(
            request_id,
            custom_id=request.custom_id,
            line=request.line,
            check=request.check,
            response=response if answer.status else None,
            error=None if good else {"code": answer.code, "message": answer.message},
            timings=answer.timings,
            seconds=now - attempt.began,
            attempts=attempt.attempts + (answer.kind != FAILED),
        )
        what = f"line {request.line} ({request.custom_id!r}) failed: {answer.message}"
        self._lines.append((line, answer if good else what))

    def junk(self, junk: Junk) -> None:
        """A line that is no request has its error; not once more where the file has it from an earlier run."""
        what = f"line {junk.line} of the input is no request: {junk.why}"
        if self._before.was_told(junk.line, junk.why):
            self.report.failure(what)
            return
        error = {"code": BAD_LINE, "message": junk.why}
        request_id = f"{self._prefix}_{junk.line}"
        self._lines.append((line_of(request_id, custom_id=junk.custom_id, line=junk.line, error=error), what))
        if len(self._lines) >= _MOST_LINES:
            self.flush()

    def flush(self) -> None:
        """Make durable what waits. Raises LostError."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        self._answers.append([line for line, _what in lines])
        for _line, what in lines:
            if isinstance(what, str):
                self.report.failure(what)
            else:
                self.report.answer(what.tokens())
