"""What it means when an upstream says no: whose fault it is, and whether another replica may help.

    400, 413, 422   the caller's fault, in the upstream's own sentence
    401, 403        the operator's: the key
    404             the operator's: the model's name
    429             too much at once; Retry-After is passed on
    503             not now; Retry-After is passed on
    anything else   the upstream's fault

Only the first is believed at once; for the others another replica is asked first.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

import msgspec

from freehold.domain.errors import (
    FreeholdError,
    InvalidRequest,
    PromptTooLong,
    UpstreamFailed,
    UpstreamLimited,
    UpstreamUnavailable,
)
from freehold.domain.upstreams import Upstream
from freehold.engines.upstream.replicas import Sign
from freehold.process.decoding import from_json

log = logging.getLogger(__name__)

MAX_REFUSAL = 64 * 1024
_LONGEST_SENTENCE = 1000
_USUAL_WAIT, _LONGEST_WAIT = 5, 3600

# OpenAI's and vLLM's, llama-server's, ours; and the sentence of those that have no code.
_TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error")
_TOO_LONG = re.compile(r"maximum context length|exceeds? the (available|model's) context")


@dataclass(frozen=True)
class Refusal:
    """``retry_after`` is the header, as it came; ``body`` at most `MAX_REFUSAL` bytes."""

    status: int
    retry_after: str | None
    body: bytes


class _Details(msgspec.Struct):
    message: str = ""
    type: object = None
    param: object = None
    code: object = None


class _Body(msgspec.Struct):
    """As OpenAI has it; older versions of vLLM have the details without the ``error`` around."""

    error: _Details | str | None = None
    message: str = ""
    type: object = None
    param: object = None


def judged(upstream: Upstream, host: str, refusal: Refusal) -> tuple[FreeholdError, Sign | None]:
    """What the caller is told, and what it says about the replica: `Sign.WELL` where no other one
    needs to be asked, None where it says nothing.
    """
    wait, named = _seconds(refusal.retry_after), {"upstream": upstream.name}
    if refusal.status in (400, 413, 422):
        return _callers_fault(upstream, refusal), Sign.WELL
    if refusal.status == 429:
        said = f"The upstream {upstream.name} has too much to do."
        return UpstreamLimited(said, retry_after=wait or _USUAL_WAIT, values=named), None
    if refusal.status == 503:
        said = f"The upstream {upstream.name} cannot answer now."
        sign = Sign.ILL if wait is None else None
        return UpstreamUnavailable(said, retry_after=wait or _USUAL_WAIT, values=named), sign
    advice = _ADVICE.get(refusal.status, "")
    log.warning(
        "upstream %s: %s answers with HTTP %d%s", upstream.name, host, refusal.status, advice
    )
    return _others_fault(upstream.name, refusal.status), Sign.ILL


# For the operator, in our words: an upstream's may quote the key or the prompt.
_KEY = ": it does not accept the key, or wants one (the upstream's key_variable)"
_ADVICE = {
    401: _KEY,
    403: _KEY,
    404: ": there is no such model or address (the upstream's model and urls)",
}


def _others_fault(name: str, status: int) -> FreeholdError:
    if status in (401, 403):
        hint = "The operator of this server has to see to its key."
        return UpstreamUnavailable(
            f"The upstream {name} does not let us in.", hint=hint, values={"upstream": name}
        )
    if status == 404:
        said = f"The upstream {name} does not have its model, or has it under another name."
        hint = "The operator of this server has to see to its settings."
        return UpstreamUnavailable(said, hint=hint, values={"upstream": name})
    # We go nowhere else.
    fault = "sends us elsewhere" if status < 400 else "has a fault of its own"
    return UpstreamFailed(
        f"The upstream {name} {fault} (HTTP {status}).",
        values={"upstream": name, "status": status},
    )


def _callers_fault(upstream: Upstream, refusal: Refusal) -> FreeholdError:
    details = _details(refusal.body)
    said = _sentence(details.message, upstream.key)
    codes = (details.code, details.type)
    if any(code in codes for code in _TOO_LONG_CODES) or _TOO_LONG.search(said):
        return PromptTooLong(
            f"The upstream {upstream.name} says: {said}",
            hint="Shorten the prompt, or ask for fewer tokens.",
            values={"upstream": upstream.name},
        )
    return InvalidRequest(
        f"The upstream {upstream.name} says: {said or f'HTTP {refusal.status}.'}",
        field=details.param if isinstance(details.param, str) else None,
    )


def _details(body: bytes) -> _Details:
    try:
        read = from_json(body, _Body)
    except (msgspec.DecodeError, RecursionError):
        return _Details()
    if isinstance(read.error, _Details):
        return read.error
    return _Details(read.error or read.message, read.type, read.param)


def _sentence(text: str, key: str | None) -> str:
    """One line that can be read, without our key."""
    if key:
        text = text.replace(key, "…")
    line = " ".join(text.split())
    return "".join(c for c in line if c.isprintable())[:_LONGEST_SENTENCE]


def _seconds(text: str | None) -> int | None:
    """Of a Retry-After in seconds; a date says less than our own guess."""
    if text is None or not re.fullmatch(r"[0-9]{1,6}", text.strip(), re.ASCII):
        return None
    return min(max(int(text), 1), _LONGEST_WAIT)
