"""How the outcome of a search is told: a table for people, data for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from freehold.domain.errors import InvalidModelFile, UnknownArchitecture
from freehold.lab.tune.search import Point, admissible, limit
from freehold.lab.tune.tuner import Outcome
from freehold.machine.calibration import Calibration
from freehold.machine.dissect import anatomy_of_header
from freehold.machine.profile import WEIGHTS, Loss, Profile, Speeds, score
from freehold.machine.roofline import Roofline, roofline
from freehold.machine.tuning import TunedPoint, Tuning
from freehold.weights.gguf import read_header
from freehold.weights.gguf_header import GgufHeader
from freehold.weights.library import Library, LocalModel


def headings(profile: Profile) -> tuple[str, ...]:
    return (
        *("WEIGHTS", "SETTINGS", f"READ {profile.depth}", "DECODE", f"AT {profile.depth}"),
        *(f"{profile.users} USERS", "GAIN", "KL DIVERGENCE", "TOP-1", "PERPLEXITY", ""),
    )


def rows(outcome: Outcome, max_loss: float) -> Iterator[tuple[str, ...]]:
    """The baseline, then the others by their gain."""
    before = outcome.baseline.speeds
    ranked = sorted(outcome.points, key=lambda point: -score(point.speeds, before))
    for point in (outcome.baseline, *ranked):
        yield (
            point.candidate.quantisation or "as they are",
            point.candidate.settings.text,
            *(f"{value:.1f}" for value in _in_order(point.speeds)),
            f"{score(point.speeds, before):.2f}",
            *_loss_words(point.loss),
            _remark(point, outcome, max_loss),
        )


def _in_order(speeds: Speeds) -> tuple[float, float, float, float]:
    return speeds.prefill, speeds.empty, speeds.deep, speeds.many


def _loss_words(loss: Loss | None) -> tuple[str, str, str]:
    if loss is None:
        return "none", "", ""
    return (
        f"{loss.divergence:.4f} ± {loss.divergence_error:.4f}",
        f"{100 * loss.agreement:.1f} ± {100 * loss.agreement_error:.1f} %",
        f"{loss.source_perplexity:.2f} → {loss.perplexity:.2f} "
        f"(x {loss.perplexity / loss.source_perplexity:.3f} ± {loss.perplexity_error:.3f})",
    )


def _remark(point: Point, outcome: Outcome, max_loss: float) -> str:
    words = []
    if point is outcome.chosen:
        words.append("chosen")
    elif point is not outcome.baseline:
        most = limit(outcome.baseline, max_loss)
        if point.loss is not None and point.loss.divergence > most:
            words.append("loses too much")
        elif not admissible(point, outcome.baseline.speeds, most):
            words.append("slower at something")
    if not any(point is known for known in outcome.frontier):
        words.append("beaten by another")
    return ", ".join(words)


def verdict(name: str, outcome: Outcome, max_loss: float) -> Iterator[str]:
    """What it means, in a few lines."""
    yield (
        "Tokens per second. Read: a prompt; decode: in an empty context, at that depth, and for "
        "all users together. Gain: their weighted geometric mean, "
        + ", ".join(f"{part} {weight}" for part, weight in WEIGHTS.items())
        + ". ± one standard error."
    )
    if outcome.chosen is outcome.baseline:
        yield f"Nothing within a loss of {max_loss} is faster than {name} as it is; it stays so."
        return
    before, after = _in_order(outcome.baseline.speeds), _in_order(outcome.chosen.speeds)
    names = ("reading", "decoding", "decoding deep", "decoding together")
    gains = (f"{name} x {b / a:.2f}" for name, a, b in zip(names, before, after, strict=True))
    loss = outcome.chosen.loss
    at = "at no loss" if loss is None else f"at a mean KL divergence of {loss.divergence:.4f}"
    yield f"{name}: {', '.join(gains)}, {at}. `run` and `serve` use this from now on."


@dataclass(frozen=True)
class Share:
    """What of this machine's measured limits one point reaches: of the memory bandwidth while one
    sequence decodes in an empty context, of the matrix rate while the prompt is read."""

    point: str
    decode: float
    prefill: float

    @property
    def text(self) -> str:
        return (
            f"{self.point}: decoding at {self.decode:.0%} of the memory bandwidth, reading at "
            f"{self.prefill:.0%} of the matrix rate."
        )


def shares(
    library: Library, model: LocalModel, outcome: Outcome, calibration: Calibration
) -> tuple[Share, ...]:
    """Before and after; none for a model whose arithmetic is not known."""
    chosen, tuned = outcome.chosen, outcome.profile.weights
    pairs = [("Untuned", outcome.baseline, model.header)]
    if chosen is not outcome.baseline:
        made = chosen.candidate.quantisation is not None
        header = read_header(library.store.blob_path(tuned)) if made else model.header
        pairs.append(("Tuned", chosen, header))
    try:
        return tuple(_share(*pair, outcome.profile.depth, calibration) for pair in pairs)
    except (UnknownArchitecture, InvalidModelFile):
        return ()


def _share(
    name: str, point: Point, header: GgufHeader, depth: int, calibration: Calibration
) -> Share:
    anatomy, speeds = anatomy_of_header(header), point.speeds
    settings = point.candidate.settings

    def at(tokens: int) -> Roofline:
        return roofline(
            anatomy,
            calibration,
            settings,
            depth=tokens,
            sequences=1,
            decode=speeds.empty,
            prefill=speeds.prefill,
        )

    # Halfway through, the prompt looks back on what it does on average.
    return Share(name, decode=at(0).decode, prefill=at(depth // 2).prefill)


def tuning(name: str, outcome: Outcome, max_loss: float) -> Tuning:
    """All of it, to be kept and for programs."""
    before = outcome.baseline.speeds

    def told(point: Point) -> TunedPoint:
        return TunedPoint(
            weights=point.candidate.quantisation,
            settings=point.candidate.settings,
            tokens_per_second=point.speeds,
            gain=score(point.speeds, before),
            loss=point.loss,
            admissible=admissible(point, before, max_loss),
            on_frontier=any(point is known for known in outcome.frontier),
            chosen=point is outcome.chosen,
        )

    return Tuning(
        model=name,
        max_loss=max_loss,
        baseline=told(outcome.baseline),
        points=tuple(map(told, outcome.points)),
        profile=outcome.profile,
    )
