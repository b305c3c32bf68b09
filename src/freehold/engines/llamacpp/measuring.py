"""The child that times a model, or compares several: one process, one order at a time.

Run as ``python -P -m freehold.engines.llamacpp.measuring FD``. Confined like a worker; whatever
native code does, it takes only itself down.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator

import numpy as np

from freehold.domain.errors import EngineError, FreeholdError, LoadFailed
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.binding import BATCH_TOKENS, Context, Entry, NoCache, NoRoom
from freehold.engines.llamacpp.binding.context import SMALLEST_OUTPUTS
from freehold.engines.llamacpp.divergence import Rows, difference, total
from freehold.engines.llamacpp.messages import Ready, Refused
from freehold.engines.llamacpp.tokens import TokenArray
from freehold.engines.llamacpp.tuning_messages import (
    Compare,
    Difference,
    FromTuner,
    Open,
    Opened,
    Time,
    Timed,
    Window,
)
from freehold.process.frames import Channel
from freehold.process.inside import settle_in
from freehold.text.vocabulary import start_native

# What every sequence holds while several decode together, and what is read before the clock starts.
SHORT_PROMPT = 64


class Stopwatch:
    """Times one loaded model, on tokens drawn at random (the same for every model)."""

    def __init__(self, context: Context) -> None:
        self._context = context
        dice = np.random.default_rng(0)
        self._tokens: TokenArray = dice.integers(
            0, context.vocabulary.size, context.context, dtype=np.int32
        )
        self._clear(0)
        self._read(0, min(SHORT_PROMPT, context.context // 2))
        self._decode((0,), min(SHORT_PROMPT, context.context // 2), 2)

    def time(self, order: Time) -> Timed:
        """Raises `EngineError` where the context has no room for what was ordered."""
        streams = tuple(range(order.sequences))
        if order.depth + order.steps > self._context.context:
            raise EngineError(f"The context holds {self._context.context} tokens.")
        self._clear(0)
        began = time.monotonic()
        self._read(0, order.depth)
        prefill = order.depth / (time.monotonic() - began)
        deep = self._decode((0,), order.depth, order.steps)
        self._clear(0)
        self._read(0, 1)
        empty = self._decode((0,), 1, order.steps)
        short = min(SHORT_PROMPT, order.depth)
        for stream in streams:
            self._clear(stream)
            self._read(stream, short)
        many = self._decode(streams, short, order.steps)
        for stream in streams:
            self._clear(stream)
        return Timed(prefill=prefill, deep=deep, empty=empty, many=many)

    def _clear(self, stream: int) -> None:
        self._context.truncate(stream, 0)

    def _read(self, stream: int, count: int) -> None:
        for start in range(0, count, BATCH_TOKENS):
            tokens = self._tokens[start : min(count, start + BATCH_TOKENS)]
            self._context.decode([Entry(stream, start, tokens, outputs=1)])

    def _decode(self, streams: tuple[int, ...], depth: int, steps: int) -> float:
        """Tokens per second."""
        began = time.monotonic()
        for step in range(steps):
            token = self._tokens[step : step + 1]
            self._context.decode([Entry(s, depth + step, token, outputs=1) for s in streams])
        return len(streams) * steps / (time.monotonic() - began)


def compare(order: Compare) -> Iterator[Window]:
    """Every window of the text, read by every model. Raises `LoadFailed`, `EngineError`."""
    contexts = [open_context(config) for config in (order.source, *order.others)]
    vocabulary = contexts[0].vocabulary
    if any(context.vocabulary.size != vocabulary.size for context in contexts):
        raise EngineError("The models do not share a vocabulary.")
    text: TokenArray = np.array(vocabulary.tokenize(order.text, special=False), dtype=np.int32)
    # The last scored token is only predicted: it need not be read.
    length = order.before + order.scored
    if len(text) < length + 1:
        raise EngineError("The text is too short for one window.")
    starts = np.linspace(0, len(text) - length - 1, order.windows).astype(int)
    for number, start in enumerate(starts, 1):
        window = text[start : start + length + 1]
        read = [_rows(context, window, order.before) for context in contexts]
        parts: list[list[Difference]] = [[] for _ in order.others]
        for at, (source, *others) in zip(
            range(order.before, length, SMALLEST_OUTPUTS), zip(*read, strict=True), strict=True
        ):
            said = window[at + 1 : at + 1 + len(source)].astype(np.int64)
            for place, other in zip(parts, others, strict=True):
                place.append(difference(source, other, said))
        yield Window(tuple(map(total, parts)), last=number == len(starts))


def _rows(context: Context, window: TokenArray, before: int) -> Iterator[Rows]:
    """The logits after each token of a window from ``before`` on, some at a time."""
    context.truncate(0, 0)
    context.decode([Entry(0, 0, window[:before], outputs=1)])
    for at in range(before, len(window) - 1, SMALLEST_OUTPUTS):
        tokens = window[at : min(len(window) - 1, at + SMALLEST_OUTPUTS)]
        yield np.stack(context.decode([Entry(0, at, tokens, outputs=len(tokens))]))


def open_context(config: EngineConfig) -> Context:
    try:
        return Context(config)
    except NoCache:
        raise LoadFailed(
            "This model only embeds; there is nothing to tune.", hint="Tune one that generates."
        ) from None


def main(descriptor: str) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    channel: Channel[FromTuner] = Channel(settle_in(descriptor), FromTuner)
    start_native()
    channel.send(Ready())
    stopwatch: Stopwatch | None = None
    while (order := channel.receive()) is not None:
        try:
            match order:
                case Open():
                    context = open_context(order.config)
                    stopwatch = Stopwatch(context)
                    channel.send(Opened(context.context))
                case Time() if stopwatch is not None:
                    channel.send(stopwatch.time(order))
                case Time():
                    channel.send(Refused(message="No model is open.", hint=None))
                case Compare():
                    for window in compare(order):
                        channel.send(window)
        except NoRoom:
            channel.send(Refused(message="The cache is too small for this.", hint=None))
        except FreeholdError as error:
            channel.send(Refused(message=error.message, hint=error.hint))


if __name__ == "__main__":
    main(sys.argv[1])
