"""What a server understands of a request, found out by asking it.

OpenAI's dialect has no field that makes an answer as long as wanted; ``ignore_eos`` is understood
by several servers and refused by others. What a server refuses is left out, and that is told.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from freehold.domain.errors import InvalidRequest, ServerMisbehaved
from freehold.lab.bench.answer import BROWSER_PAGE, Refusal, sentence_in
from freehold.lab.bench.endpoint import Endpoint, exchange
from freehold.process.decoding import from_json

_WANT_A_KEY = (401, 403)
_UNDERSTOOD_NOT = (400, 422)


@dataclass(frozen=True)
class Dialect:
    """Which fields a request has. ``length_field`` is what limits an answer."""

    length_field: str = "max_tokens"
    ignore_eos: bool = True
    usage: bool = True
    greedy: bool = True

    def body(self, model: str, prompt: str, tokens: int) -> bytes:
        """One streamed request for at most ``tokens`` tokens."""
        fields: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            self.length_field: tokens,
            "stream": True,
        }
        if self.greedy:
            fields["temperature"] = 0
        if self.usage:
            fields["stream_options"] = {"include_usage": True}
        if self.ignore_eos:
            fields["ignore_eos"] = True
        return json.dumps(fields).encode()

    def without(self, message: str) -> Dialect | None:
        """The dialect that leaves out what ``message`` complains of; None: nothing is left."""
        if self.ignore_eos and "ignore_eos" in message:
            return dataclasses.replace(self, ignore_eos=False)
        if self.usage and "stream_options" in message:
            return dataclasses.replace(self, usage=False)
        if self.length_field == "max_tokens" and "max_completion_tokens" in message:
            return dataclasses.replace(self, length_field="max_completion_tokens")
        if self.greedy and "temperature" in message:
            return dataclasses.replace(self, greedy=False)
        if self.ignore_eos:  # not OpenAI's: the likeliest reason of a refusal that names none
            return dataclasses.replace(self, ignore_eos=False)
        return None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the figures should know of it."""
        found = []
        if not self.ignore_eos:
            found.append("The server refuses ignore_eos: answers may end before their length.")
        if not self.usage:
            found.append("The server counts no tokens: the pieces of answers are counted instead.")
        if not self.greedy:
            found.append("The server refuses temperature 0: it samples as it likes.")
        return tuple(found)


async def negotiate(attempt: Callable[[Dialect], Awaitable[Refusal | None]]) -> Dialect:
    """The fullest dialect that ``attempt`` is not refused.

    Raises `ServerMisbehaved` with the server's sentence where every one is.
    """
    dialect: Dialect | None = Dialect()
    refusal: Refusal | None = None
    while dialect is not None:
        refusal = await attempt(dialect)
        if refusal is None:
            return dialect
        understood = refusal.status not in _UNDERSTOOD_NOT
        dialect = None if understood else dialect.without(refusal.message)
    raise ServerMisbehaved(
        f"The server refuses a short request with {refusal}",
        hint=_hint(refusal) if refusal else None,
    )


def _hint(refusal: Refusal) -> str | None:
    if refusal.status in _WANT_A_KEY:
        return "If it wants a key, name the variable that has it with --key-env."
    if refusal.message == BROWSER_PAGE:
        return "Is it an OpenAI-compatible server? Their addresses mostly end in /v1."
    return None


class _Named(msgspec.Struct, frozen=True):
    id: str


class _Models(msgspec.Struct, frozen=True):
    data: list[_Named]


async def sole_model(endpoint: Endpoint, silence: float) -> str:
    """The one model a server has. Raises `InvalidRequest` where there are none or several."""
    hint = "Name the model with --model."
    async with exchange(endpoint, "GET", "/models", b"", silence) as response:
        body = await response.read()
        status = response.status
    if status != 200:
        refusal = Refusal(status, sentence_in(body))
        raise InvalidRequest(
            f"The server answers a question for its models with {refusal}", hint=_hint(refusal)
        )
    try:
        names = [model.id for model in from_json(body, _Models).data]
    except msgspec.DecodeError:
        raise InvalidRequest("The server's list of models cannot be read.", hint=hint) from None
    if len(names) != 1:
        listed = f" ({', '.join(names[:8])}{' …' if len(names) > 8 else ''})" if names else ""
        raise InvalidRequest(f"The server has {len(names)} models{listed}.", hint=hint)
    return names[0]
