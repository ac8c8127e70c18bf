"""The one error tree. A message says what is wrong and where; ``mend`` says what to do about it."""

from __future__ import annotations


class P104Error(Exception):
    """An error that a person reads: one line, never a traceback.

    ``exit_code`` is what p104ctl ends with; ``http_status`` what the server answers;
    ``retry`` tells whether the same request can succeed later without any change.
    """

    exit_code = 1
    http_status = 500
    retry = False

    def __init__(self, message: str, *, mend: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def line(self) -> str:
        """The message and its mend as one line."""
        text = " ".join(self.message.split())
        return f"{text}; {' '.join(self.mend.split())}" if self.mend else text


class UsageError(P104Error):
    """The request cannot be understood as written."""

    exit_code = 2
    http_status = 400


class UnreachableError(P104Error):
    """The daemon cannot be reached."""

    exit_code = 3
    http_status = 503
    retry = True


class RefusedError(P104Error):
    """Understood and refused: a bad spec, not allowed, impossible."""

    exit_code = 4
    http_status = 409


class NotAllowedError(RefusedError):
    """This user may not do that."""

    http_status = 403


class NotFoundError(P104Error):
    """No such job, card or schedule."""

    exit_code = 5
    http_status = 404


class UnavailableError(P104Error):
    """The daemon cannot do it now (disk full, shutting down); nothing was changed."""

    exit_code = 4
    http_status = 503
    retry = True


BY_EXIT_CODE: dict[int, type[P104Error]] = {
    1: P104Error,
    2: UsageError,
    3: UnreachableError,
    4: RefusedError,
    5: NotFoundError,
}
