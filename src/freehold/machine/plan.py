"""Which models fit a wish on a computer, and why the others do not. Pure.

(candidates, computer, wishes, calibration, profiles) → choices by quality + exclusions with reasons

A choice's estimates and its measured values are separate fields and stay apart.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from freehold.domain.engine import CacheConfig, Quantization
from freehold.domain.sentences import Sentence, as_sentence, said
from freehold.machine.anatomy import Anatomy
from freehold.machine.calibration import Calibration
from freehold.machine.candidates import Candidate
from freehold.machine.computer import Computer, GpuKind
from freehold.machine.footprint import Footprint, footprint, repacked_types
from freehold.machine.placement import MARGIN, Placement, load_of, place
from freehold.machine.profile import EngineSettings, Profile
from freehold.machine.speed import largest_chunk, predict, time_to_first_token
from freehold.machine.wishes import ALLOWED, Wishes
from freehold.trust.verdict import Outcome
from freehold.weights.gguf_types import TensorType

READING_SPEED = 6.0  # tokens a second: about as fast as people read
MICRO_BATCH = 512


class Why(enum.StrEnum):
    """What keeps a candidate out of a plan."""

    ARCHITECTURE = "architecture"
    SOURCE = "source"
    TASK = "task"
    LICENCE = "licence"
    CONTEXT = "context"
    MEMORY = "memory"
    DISK = "disk"
    TOKENS_PER_SECOND = "tokens_per_second"
    WAIT = "first_token"


@dataclass(frozen=True)
class Reason:
    """One wish or limit that is not met: ``wanted`` against ``has``, in the unit of its kind
    (bytes, tokens, tokens a second, seconds); None where it is no matter of numbers."""

    why: Why
    text: Sentence
    wanted: float | None = None
    has: float | None = None


@dataclass(frozen=True)
class Estimate:
    """Arithmetic, not measurement. ``tokens_per_second`` is each user's, ``together`` all users'.

    ``first_token`` are seconds until the last of all users, asking at once, sees one. ``band`` is
    how far it may be off, as a share. ``depth`` are tokens already in each sequence.
    """

    tokens_per_second: float
    together: float
    prefill: float
    first_token: float
    depth: int
    band: float
    basis: Sentence


@dataclass(frozen=True)
class Choice:
    """One way to have a model that meets the wishes. ``measured`` is what was measured of it here,
    ``vllm`` what could be said for the other engine."""

    candidate: Candidate
    settings: EngineSettings
    context: int
    sequences: int
    footprint: Footprint
    placement: Placement
    estimate: Estimate
    measured: Profile | None = None
    vllm: str | None = None


@dataclass(frozen=True)
class Exclusion:
    """``reasons`` are all that were found, not just the first."""

    candidate: Candidate
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Plan:
    """``choices`` are best first; ``readable`` is the best that writes as fast as one reads."""

    computer: Computer
    wishes: Wishes
    calibration: Calibration | None
    choices: tuple[Choice, ...]
    excluded: tuple[Exclusion, ...]

    @property
    def readable(self) -> Choice | None:
        fast = (c for c in self.choices if c.estimate.tokens_per_second >= READING_SPEED)
        return next(fast, None)


@dataclass(frozen=True)
class Given:
    """What every candidate is weighed against. ``context`` is taken where nobody wishes one;
    ``profiles`` hold here and now, by the digest of the weights they are about; ``quantization``
    is what vLLM would do."""

    computer: Computer
    wishes: Wishes
    calibration: Calibration | None = None
    profiles: Mapping[str, Profile] = dataclasses.field(default_factory=dict)
    cache: CacheConfig = dataclasses.field(default_factory=CacheConfig)
    context: int = 8192
    quantization: Quantization = Quantization.NONE

    @property
    def repacked(self) -> frozenset[TensorType]:
        """What llama.cpp copies into another order on this processor."""
        return repacked_types(self.computer.processor.instruction_sets)

    @property
    def memory(self) -> int:
        """Bytes of ordinary memory that may be used."""
        available = self.computer.memory.available
        return available if self.wishes.memory is None else min(available, self.wishes.memory)

    def settings(self, candidate: Candidate) -> EngineSettings:
        """The profile's where there is one, else the usual ones."""
        profile = self.profiles.get(candidate.digest or "")
        if profile is not None:
            return profile.settings
        return EngineSettings(self.cache, self.computer.processor.cores, MICRO_BATCH)

    def needs(self, candidate: Candidate, anatomy: Anatomy, users: int) -> Footprint:
        """Of so many users with the whole of their context."""
        settings = self.settings(candidate)
        return footprint(
            anatomy,
            settings,
            self.context_for(candidate),
            users,
            repacked=self.repacked,
            chunk=largest_chunk(anatomy, self.calibration, self.computer, settings),
        )

    def context_for(self, candidate: Candidate) -> int:
        """As wished; else as set, and no more than the model was trained for."""
        trained = candidate.anatomy.context if candidate.anatomy else None
        if self.wishes.context is not None:
            return self.wishes.context
        return min(self.context, trained or self.context)


def plan(candidates: Iterable[Candidate], given: Given) -> Plan:
    """Weigh every candidate; each is either a choice or has a reason not to be one."""
    choices, excluded = [], []
    for candidate in candidates:
        weighed = weigh(candidate, given)
        if isinstance(weighed, Choice):
            choices.append(weighed)
        else:
            excluded.append(weighed)
    return Plan(
        computer=given.computer,
        wishes=given.wishes,
        calibration=given.calibration,
        choices=tuple(sorted(choices, key=_rank)),
        excluded=tuple(sorted(excluded, key=lambda each: each.candidate.reference)),
    )


def _rank(choice: Choice) -> tuple[float, int, str]:
    quality = choice.candidate.quality
    score = quality.score if quality else 0.0
    return (-score, choice.footprint.total, choice.candidate.reference)


def weigh(candidate: Candidate, given: Given) -> Choice | Exclusion:
    """One candidate against everything that is given."""
    reasons = [*_wrong_kind(candidate, given.wishes), *_too_long(candidate, given)]
    anatomy = candidate.anatomy
    if anatomy is None:
        return Exclusion(candidate, (Reason(Why.ARCHITECTURE, _unknown(candidate)), *reasons))
    choice = _choice(candidate, anatomy, given)
    reasons += [*_no_room(choice, given), *_too_slow(choice, given.wishes)]
    return Exclusion(candidate, tuple(reasons)) if reasons else choice


def _unknown(candidate: Candidate) -> Sentence:
    why = as_sentence(candidate.unknown or "Its architecture is not known.")
    if not candidate.size:
        return why
    weights = gigabytes(candidate.size)
    template = "{why} Its weights are {weights}."
    return said("plan.unknown", template, why=why, weights=weights)


def _choice(candidate: Candidate, anatomy: Anatomy, given: Given) -> Choice:
    context, sequences = given.context_for(candidate), given.wishes.users
    settings = given.settings(candidate)
    needs = given.needs(candidate, anatomy, sequences)
    load = load_of(anatomy, needs, settings, given.repacked)
    placed = place(load, given.computer.gpus)
    return Choice(
        candidate=candidate,
        settings=settings,
        context=context,
        sequences=sequences,
        footprint=needs,
        placement=placed,
        estimate=_estimate(anatomy, given, settings, placed, context),
        measured=given.profiles.get(candidate.digest or ""),
        vllm=vllm(candidate, anatomy, given, context),
    )


def _estimate(
    anatomy: Anatomy, given: Given, settings: EngineSettings, placed: Placement, context: int
) -> Estimate:
    wishes = given.wishes
    depth = min(wishes.prompt, context)
    where = (anatomy, given.calibration, given.computer, settings)
    speed = predict(*where, depth=depth, sequences=wishes.users, placement=placed)
    return Estimate(
        tokens_per_second=speed.each,
        together=speed.decode,
        prefill=speed.prefill,
        first_token=wishes.users * time_to_first_token(*where, wishes.prompt, placed),
        depth=depth,
        band=speed.band,
        basis=speed.basis,
    )


def _wrong_kind(candidate: Candidate, wishes: Wishes) -> Iterable[Reason]:
    if not candidate.obtainable:
        text = said("plan.source", "The catalogue lists no file of it to fetch.")
        yield Reason(Why.SOURCE, text)
    if wishes.task is not None and wishes.task not in candidate.tasks:
        known = ", ".join(candidate.tasks) or "nothing that is known"
        text = said(
            "plan.task", "It is for {known}, not for {task}.", known=known, task=wishes.task
        )
        yield Reason(Why.TASK, text)
    for use in sorted(wishes.uses):
        outcome = candidate.outcomes[use] if candidate.outcomes else None
        if outcome not in ALLOWED:
            names = {"use": str(use), "outcome": str(outcome or Outcome.UNKNOWN)}
            text = said("plan.licence", "Its licence, to {use} it: {outcome}.", **names)
            yield Reason(Why.LICENCE, text)


def _too_long(candidate: Candidate, given: Given) -> Iterable[Reason]:
    context = given.context_for(candidate)
    trained = candidate.anatomy.context if candidate.anatomy else None
    if trained is not None and context > trained:
        text = said(
            "plan.context",
            "It was trained for {has:,} tokens of context, not {wanted:,}.",
            has=trained,
            wanted=context,
        )
        yield Reason(Why.CONTEXT, text, wanted=context, has=trained)
    if given.wishes.prompt >= context:
        text = said(
            "plan.prompt",
            "A prompt of {prompt:,} tokens leaves no room in a context of {context:,}.",
            prompt=given.wishes.prompt,
            context=context,
        )
        yield Reason(Why.CONTEXT, text, wanted=given.wishes.prompt + 1, has=context)


def _no_room(choice: Choice, given: Given) -> Iterable[Reason]:
    needed, has = round(choice.placement.host * MARGIN), given.memory
    if needed > has:
        beyond = " beside {layers} layers on cards" if choice.placement.cards else ""
        room = "are available" if given.wishes.memory is None else "may be used"
        text = said(
            "plan.memory_beside_cards" if beyond else "plan.memory",
            f"It needs {{wanted}} of memory{beyond}; {{has}} {room}: {{short}} short.",
            wanted=gigabytes(needed),
            has=gigabytes(has),
            short=gigabytes(needed - has),
            layers=choice.placement.offloaded,
        )
        yield Reason(Why.MEMORY, text, wanted=needed, has=has)
    size, free = choice.candidate.size, given.computer.disk.available
    if not choice.candidate.here and size is not None and size > free:
        text = said(
            "plan.disk",
            "Its file has {wanted}; {has} are free on the disk: {short} short.",
            wanted=gigabytes(size),
            has=gigabytes(free),
            short=gigabytes(size - free),
        )
        yield Reason(Why.DISK, text, wanted=size, has=free)


def _too_slow(choice: Choice, wishes: Wishes) -> Iterable[Reason]:
    estimate = choice.estimate
    speed, wait = estimate.tokens_per_second, estimate.first_token
    if wishes.tokens_per_second is not None and speed < wishes.tokens_per_second:
        text = said(
            "plan.tokens_per_second",
            "{has:.2g} tokens/s for each user are estimated, not {wanted:g}.",
            has=speed,
            wanted=wishes.tokens_per_second,
        )
        yield Reason(Why.TOKENS_PER_SECOND, text, wanted=wishes.tokens_per_second, has=speed)
    if wishes.first_token is not None and wait > wishes.first_token:
        text = said(
            "plan.first_token",
            "{has:.3g} s to the first token are estimated, not {wanted:g} s.",
            has=wait,
            wanted=wishes.first_token,
        )
        yield Reason(Why.WAIT, text, wanted=wishes.first_token, has=wait)


def vllm(candidate: Candidate, anatomy: Anatomy, given: Given, context: int) -> str | None:
    """What could be said for the other engine: its weights are the original ones, of 16 bits or as
    they are to become, which must fit the cards beside the caches. None: nothing."""
    cards = [gpu for gpu in given.computer.gpus if gpu.kind is GpuKind.CUDA]
    if not cards or candidate.upstream is None:
        return None
    plain = EngineSettings(CacheConfig(host_bytes=0), 1, MICRO_BATCH)
    users = given.wishes.users
    cache = footprint(anatomy, plain, context, users, repacked=frozenset()).cache
    bits = given.quantization.bits
    needed, has = round(bits / 8 * anatomy.parameters) + cache, sum(gpu.available for gpu in cards)
    if needed * MARGIN > has:
        return None
    return (
        f"vLLM would need {gigabytes(needed)} of the cards for {candidate.upstream}, "
        f"{bits:g} bits a weight (not measured; docs/vllm.md)"
    )


def measured_speed(profile: Profile, users: int, depth: int) -> float | None:
    """Tokens a second for each of ``users`` that was measured, at the depth nearest to ``depth``;
    None: not with so many."""
    if users == 1:
        return profile.after.empty if depth < profile.depth / 2 else profile.after.deep
    return profile.after.many / users if users == profile.users else None


def gigabytes(count: float) -> str:
    """``4.7 GB``, decimal; below a tenth of it in megabytes."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def choice_of(
    candidate: Candidate, given: Given, *, users: int | None = None, context: int | None = None
) -> Choice | Exclusion:
    """The same weighed for other numbers."""
    wishes = given.wishes
    wishes = dataclasses.replace(
        wishes,
        users=wishes.users if users is None else users,
        context=wishes.context if context is None else context,
    )
    return weigh(candidate, dataclasses.replace(given, wishes=wishes))


def fits(weighed: Choice | Exclusion) -> bool:
    """Whether nothing but wishes that are no matter of memory stands in its way."""
    return isinstance(weighed, Choice) or not _kinds(weighed.reasons) & {
        Why.MEMORY,
        Why.CONTEXT,
        Why.ARCHITECTURE,
    }


def _kinds(reasons: Sequence[Reason]) -> set[Why]:
    return {reason.why for reason in reasons}
