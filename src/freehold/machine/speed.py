"""How fast a model will answer, predicted from what it is made of. Pure arithmetic.

A step's time is a sum:

    every step + every layer + weights, by type, elements and rows
    + attention, by head size and cells + logits

With a calibration every summand was measured here; without one, and for graphics processors, it
is bytes by bandwidth and operations by rate, from nameplates. `Speed.basis` says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from freehold.domain.sentences import Sentence, said
from freehold.machine.anatomy import Anatomy, Layer, Weights
from freehold.machine.calibration import Calibration
from freehold.machine.computer import Computer
from freehold.machine.footprint import CELLS, cache_per_token
from freehold.machine.placement import Placement
from freehold.machine.prices import Prices, card_prices, measured_prices, usual_prices
from freehold.machine.profile import EngineSettings
from freehold.weights.gguf_types import padded

# How far off a prediction may be, as a share of it: with everything measured, with some of it
# measured, and from nameplates. The first covers all that was seen on a machine that stayed as it
# was (docs/benchmarks.md), though it was a fourth faster at one hour than at another.
MEASURED_BAND, PARTLY_BAND, NAMEPLATE_BAND = 0.3, 0.4, 0.6
# The engine reads so many seconds of a prompt in one step at most, and a first chunk in any case
# (`engines.llamacpp.pace`).
READING_SECONDS, FIRST_CHUNK, SMALLEST_CHUNK = 1.0, 64, 16
# Smaller chunks are read slower, so the size is found step by step; the third changes little.
_ROUNDS = 3


@dataclass(frozen=True)
class Speed:
    """Predicted tokens per second: ``decode`` of all sequences together, each of which holds
    ``depth`` tokens; ``prefill`` of the next chunk of a prompt, after ``depth`` tokens.

    The truth should lie within ``band`` of it, as a share. ``basis`` says in words why.
    """

    decode: float
    prefill: float
    depth: int
    sequences: int
    band: float
    basis: Sentence

    @property
    def each(self) -> float:
        """Tokens per second that one sequence decodes."""
        return self.decode / self.sequences


@dataclass(frozen=True)
class _Segment:
    """Layers that run in one place, one after the other."""

    prices: Prices
    layers: tuple[Layer, ...]
    output: bool


def predict(
    anatomy: Anatomy,
    calibration: Calibration | None,
    computer: Computer,
    settings: EngineSettings,
    depth: int,
    sequences: int = 1,
    placement: Placement | None = None,
) -> Speed:
    """``placement``: which layers are on graphics processors; None: none are."""
    model = _Model(anatomy, settings, _segments(anatomy, calibration, computer, placement))
    step = model.step(sequences, depth)
    chunk = model.reading_chunk()
    band, notes = _trust(model, calibration, settings)
    moved = bytes_moved(anatomy, settings, depth, sequences)
    return Speed(
        decode=sequences / step,
        prefill=chunk / model.chunk(chunk, depth),
        depth=depth,
        sequences=sequences,
        band=band,
        basis=_basis(moved, step, calibration, notes, bool(placement and placement.cards)),
    )


def time_to_first_token(
    anatomy: Anatomy,
    calibration: Calibration | None,
    computer: Computer,
    settings: EngineSettings,
    prompt: int,
    placement: Placement | None = None,
) -> float:
    """Seconds from the first to the last token of a prompt that is read alone, with nothing of
    it cached."""
    model = _Model(anatomy, settings, _segments(anatomy, calibration, computer, placement))
    return model.prompt(max(1, prompt)) + model.logits(1)


def reading_chunk(
    anatomy: Anatomy,
    calibration: Calibration | None,
    computer: Computer,
    settings: EngineSettings,
) -> int:
    """How many tokens of a prompt the engine reads in a step while nobody else is answered."""
    segments = _segments(anatomy, calibration, computer, None)
    return _Model(anatomy, settings, segments).reading_chunk()


def largest_chunk(
    anatomy: Anatomy,
    calibration: Calibration | None,
    computer: Computer,
    settings: EngineSettings,
) -> int:
    """How many tokens of a prompt a step reads at most: a micro-batch, or what takes a second at
    the beginning of a prompt, and as much more as that may be off."""
    if calibration is None or computer.gpus:
        return settings.micro_batch
    speed = predict(anatomy, calibration, computer, settings, depth=0)
    within = round(speed.prefill * READING_SECONDS * (1 + speed.band))
    return min(settings.micro_batch, max(FIRST_CHUNK, within))


def bytes_moved(anatomy: Anatomy, settings: EngineSettings, depth: int, sequences: int) -> int:
    """What a decoding step reads: weights once, and every sequence's cache and state."""
    weights = sum(w.bytes for w in anatomy.read(sequences)) + anatomy.output.bytes
    each = cache_per_token(anatomy.layers, settings.cache) * depth
    each += sum(layer.state for layer in anatomy.layers)
    return weights + sequences * each


@dataclass(frozen=True)
class _Model:
    """A model where it runs."""

    anatomy: Anatomy
    settings: EngineSettings
    segments: tuple[_Segment, ...]

    def step(self, sequences: int, depth: int) -> float:
        """Seconds of a step in which each of so many sequences decodes one token."""
        share = self.anatomy.share_of_experts(sequences)
        cells = padded(depth + 1, CELLS)
        total = self.logits(sequences)
        for segment in self.segments:
            prices = segment.prices
            total += prices.step + prices.layer * len(segment.layers)
            for layer in segment.layers:
                total += _matrices(prices, layer.weights, sequences, 1.0)
                total += _matrices(prices, layer.experts, self._met(sequences), share)
                total += 2 * sequences * layer.state / prices.bandwidth
                if layer.attention is not None:
                    cost = prices.attention(layer.attention, self.settings.cache)
                    total += sequences * cells * cost.decode
        return total

    def _met(self, tokens: int) -> int:
        """How many of a step's tokens an expert meets that meets any."""
        share = self.anatomy.share_of_experts(tokens)
        used = self.anatomy.experts_used / max(1, self.anatomy.experts)
        return max(1, round(tokens * used / share)) if share else 1

    def prompt(self, tokens: int) -> float:
        """Seconds to read so many tokens of a prompt, one chunk after the other."""
        size = self.reading_chunk()
        chunks, rest = divmod(tokens, size)
        attention = size * cells_read(chunks, size) * self._attending()
        whole = chunks * self._rows(size) + attention
        return whole + (self.chunk(rest, tokens - rest) if rest else 0.0)

    def reading_chunk(self) -> int:
        """Tokens that the engine reads in a step while nobody else is answered: a micro-batch, or
        what takes `READING_SECONDS` at the beginning of a prompt (`engines.llamacpp.pace`)."""
        most = size = max(1, self.settings.micro_batch)
        for _ in range(_ROUNDS):
            within = int(size * READING_SECONDS / self.chunk(size, 0))
            if within >= size == most:
                break
            size = min(most, max(SMALLEST_CHUNK, within))
        return size

    def chunk(self, tokens: int, depth: int) -> float:
        """Seconds to read so many tokens of a prompt after ``depth`` others."""
        cells = padded(depth + tokens, CELLS)
        return self._rows(tokens) + tokens * cells * self._attending()

    def _rows(self, tokens: int) -> float:
        """Seconds of a chunk of a prompt without its attention."""
        share = self.anatomy.share_of_experts(tokens)
        total = 0.0
        for segment in self.segments:
            prices = segment.prices
            total += prices.step + prices.layer * len(segment.layers)
            for layer in segment.layers:
                total += _matrices(prices, layer.weights, tokens, 1.0)
                total += _matrices(prices, layer.experts, self._met(tokens), share)
        return total

    def _attending(self) -> float:
        """Seconds for which a prompt's token attends to a cell, in all layers."""
        return sum(
            segment.prices.attention(layer.attention, self.settings.cache).prefill
            for segment in self.segments
            for layer in segment.layers
            if layer.attention is not None
        )

    def logits(self, rows: int) -> float:
        prices = next(segment.prices for segment in self.segments if segment.output)
        product = _matrices(prices, (self.anatomy.output,), rows, 1.0)
        return product + rows * self.anatomy.vocabulary * prices.logit


def cells_read(chunks: int, tokens: int) -> int:
    """Cells that so many chunks of so many tokens attend to, one after the other: the first to as
    many as it has itself, each further one to ``tokens`` more, all rounded up to whole blocks.

    In closed form, as a prompt may be of any length: what rounding adds comes again after ``CELLS``
    chunks at the latest.
    """
    added = [padded(chunk * tokens, CELLS) - chunk * tokens for chunk in range(1, CELLS + 1)]
    rounds, rest = divmod(chunks, CELLS)
    return tokens * chunks * (chunks + 1) // 2 + rounds * sum(added) + sum(added[:rest])


def _matrices(prices: Prices, parts: Sequence[Weights], tokens: int, share: float) -> float:
    return sum(share * prices.product(part, tokens) for part in parts)


def _segments(
    anatomy: Anatomy,
    calibration: Calibration | None,
    computer: Computer,
    placement: Placement | None,
) -> tuple[_Segment, ...]:
    """The first layers are the processor's; then each card has its share, the output last."""
    own = measured_prices(calibration) if calibration else usual_prices(computer.processor)
    cards = placement.cards if placement else ()
    offloaded = sum(card.layers for card in cards)
    first = len(anatomy.layers) + 1 - offloaded
    segments = [_Segment(own, anatomy.layers[:first], output=not offloaded)]
    for card in cards:
        prices = card_prices(computer.gpus[card.index])
        last = first + card.layers
        output = last > len(anatomy.layers)
        segments.append(_Segment(prices, anatomy.layers[first:last], output))
        first = last
    return tuple(segments)


def _trust(
    model: _Model, calibration: Calibration | None, settings: EngineSettings
) -> tuple[float, tuple[Sentence, ...]]:
    """The band, and what widens it."""
    if calibration is None or len(model.segments) > 1:
        return NAMEPLATE_BAND, ()
    notes = tuple(_unmeasured(model, calibration, settings))
    return (PARTLY_BAND if notes else MEASURED_BAND), notes


def _unmeasured(
    model: _Model, calibration: Calibration, settings: EngineSettings
) -> Iterator[Sentence]:
    prices = model.segments[0].prices
    kinds = {w.type for w in (*model.anatomy.read(), model.anatomy.output)}
    unknown = sorted(kind.name for kind in kinds if not prices.measured(kind))
    if unknown:
        yield said(
            "basis.formats",
            "{formats} taken to be as slow as the slowest format measured",
            formats=", ".join(unknown),
        )
    if not prices.knows_attention(settings.cache):
        yield said("basis.attention", "attention with this kind of cache not measured")
    if calibration.disturbed:
        yield said(
            "basis.company",
            "measured in company, with {share:.0%} of the cores' time",
            share=calibration.share,
        )
    if settings.threads != calibration.threads:
        yield said(
            "basis.threads",
            "measured with {measured} threads, not {threads}",
            measured=calibration.threads,
            threads=settings.threads,
        )
    if not settings.repack:
        yield said("basis.repacked", "measured with repacked weights")
    if any(layer.state for layer in model.anatomy.layers):
        yield said("basis.recurrent", "recurrent layers counted by their bytes")
    if not model.anatomy.exact:
        yield said("basis.catalogue", "the model's numbers from its catalogue row")


def _basis(
    moved: int,
    step: float,
    calibration: Calibration | None,
    notes: tuple[Sentence, ...],
    cards: bool,
) -> Sentence:
    if calibration is None or cards:
        return said(
            "basis.nameplates",
            "{read:,.0f} MB read a step at {rate:,.0f} GB/s, from nameplates and what is usually "
            "reached of them; nothing of it is measured",
            read=moved / 1e6,
            rate=moved / step / 1e9,
        )
    measured = said(
        "basis.measured",
        "{read:,.0f} MB read a step at {share:.0%} of the {bandwidth:,.1f} GB/s measured {day}, by "
        "costs measured for each format",
        read=moved / 1e6,
        share=moved / step / calibration.bandwidth,
        bandwidth=calibration.bandwidth / 1e9,
        day=calibration.measured_at[:10],
    )
    parts = (measured, *notes)
    return Sentence("; ".join(parts), "basis.parts", {"parts": parts}) if notes else measured
