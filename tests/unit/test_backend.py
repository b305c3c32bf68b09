"""What a running server says to `freehold run`, as if it had been said here."""

from __future__ import annotations

import pytest

from freehold.cli.backend import refusal
from freehold.cli.main import exit_status
from freehold.domain.errors import (
    DeadlineExceeded,
    EngineError,
    FreeholdError,
    PromptTooLong,
    QueueFull,
    TokenRateExceeded,
    TooManyAtOnce,
)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (PromptTooLong, 2),
        (QueueFull, 5),
        (TooManyAtOnce, 5),
        (TokenRateExceeded, 5),
        (DeadlineExceeded, 5),
        (EngineError, 6),
    ],
)
def test_a_refusal_ends_as_it_would_here(kind: type[FreeholdError], status: int) -> None:
    error = refusal({"error": {"code": kind.code, "message": "Three wait already."}})
    assert error.message == "Three wait already."
    assert exit_status(error) == status
