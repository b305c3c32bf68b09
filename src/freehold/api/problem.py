"""Errors on their way to a client: from our tree to a status, before any dialect shapes them."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

from freehold.domain import errors
from freehold.domain.error_values import Values, as_data, known
from freehold.domain.errors import FreeholdError

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True)
class Problem:
    """What a client is told. ``field`` is the offending field, in the client's own words;
    ``values``: what it is about, for programs.
    """

    status: int
    code: str
    message: str
    field: str | None = None
    retry_after: int | None = None
    values: Values = dataclasses.field(default_factory=dict)

    @property
    def told(self) -> dict[str, str | int | float | list[str]]:
        """``values``, and the field as the client calls it."""
        return as_data(known(self.values, field=self.field))


class Refused(Exception):
    """A route says no for a reason of its own, which nothing below it knows."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


# The most specific class wins.
_STATUS: dict[type[FreeholdError], int] = {
    errors.RequestError: 400,
    errors.KeyNotValid: 401,
    # Official clients try again what has 408, 409, 429 or 500 and more: that would undo it.
    errors.RequestStopped: 403,
    errors.NotFound: 404,
    errors.Unavailable: 503,
    errors.Limited: 429,
    errors.RefusedFile: 500,
    errors.LicenceRefused: 403,
    errors.EngineError: 500,
    errors.LoadFailed: 503,
    errors.EngineCrashed: 503,
    errors.UpstreamFailed: 503,
    errors.FreeholdError: 500,
}
_WORTH_RETRYING = (errors.DeadlineExceeded, errors.EngineCrashed, errors.ServerStopping)


def status_of(error: FreeholdError) -> int:
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def problem_of(error: FreeholdError) -> Problem:
    """One sentence and a hint; nothing of this machine's inside."""
    status = status_of(error)
    if status >= 500:
        log.warning("request failed: %s: %s", error.code, error)
    return Problem(
        status=status,
        code=error.code,
        message=error.message if error.hint is None else f"{error.message} {error.hint}",
        field=getattr(error, "field", None),
        retry_after=_retry_after(error),
        values=error.values,
    )


def _retry_after(error: FreeholdError) -> int | None:
    if isinstance(error, errors.Limited | errors.UpstreamUnavailable):
        return error.retry_after
    return RETRY_AFTER_SECONDS if isinstance(error, _WORTH_RETRYING) else None


def unexpected(error: Exception) -> Problem:
    """A defect of ours: the details go to the log, not to the client."""
    log.error("unexpected error", exc_info=error)
    return Problem(500, "internal_error", "The server made a mistake; its log has the details.")
