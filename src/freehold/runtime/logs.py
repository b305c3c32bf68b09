"""The log: one line each, as text or as JSON, with the id of the request it is about.

What is logged is numbers, names and sentences of ours; never a prompt, an answer or a key.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from freehold.runtime.stopping import Stop

# What is put into a record beside its message: the same figures, for programs.
FIGURES = "figures"

Dialect = Literal["openai", "anthropic", "ollama", "freehold"]


@dataclass
class RequestRecord:
    """One HTTP request as the log knows it, filled while it is answered. ``key`` is a name,
    ``stop`` ends it from outside.
    """

    id: str
    dialect: Dialect = "freehold"
    model: str | None = None
    key: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    stop: Stop = field(default_factory=Stop)


_current: contextvars.ContextVar[RequestRecord | None] = contextvars.ContextVar(
    "request", default=None
)


def current_request() -> RequestRecord | None:
    """The request that the running code answers."""
    return _current.get()


@contextlib.contextmanager
def answering(record: RequestRecord) -> Iterator[None]:
    """Everything logged inside, and in the tasks begun inside, is about this request."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)


def figures(values: Mapping[str, Any]) -> dict[str, Any]:
    """For ``extra``: what a line of JSON has beside its message."""
    return {FIGURES: dict(values)}


class TextFormatter(logging.Formatter):
    """``INFO freehold.access [a1b2]: …``; further lines of a record are indented."""

    def format(self, record: logging.LogRecord) -> str:
        request = _current.get()
        about = f" [{request.id}]" if request is not None else ""
        text = f"{record.levelname} {record.name}{about}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text.replace("\r", "").replace("\n", "\n  ")


class JsonFormatter(logging.Formatter):
    """One object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, then what there is of
    ``request``, the figures and ``exception``.
    """

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        told: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = _current.get()
        if request is not None:
            told["request"] = request.id
        told |= {
            name: value
            for name, value in getattr(record, FIGURES, {}).items()
            if name not in told and value is not None
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


def configure(level: str, form: str) -> None:
    """Log to stderr from here on, in this form; called again, it replaces what was said before."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in [*root.handlers]:
        if isinstance(handler, _Ours):
            root.removeHandler(handler)
    ours = _Ours(sys.stderr)
    ours.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root.addHandler(ours)


class _Ours(logging.StreamHandler[Any]):
    """Tells our handler from those of tests and of programs around us."""
