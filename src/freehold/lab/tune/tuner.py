"""The search: what is measured in which order, and what comes of it.

    baseline ─▶ effort for the time there is
       │
    cache and kernels ─▶ best few ─▶ micro-batch and threads ─▶ a core for each thread ─▶ best few
       │                                                                                   │
       │                              formats and best few ◀───────────────────────────────┘
       │                                      │                 made where there is disk
       │                                      │
       └────────────▶ final, in turns ◀───────┘  baseline and the fastest of each format
                            │
                         losses ─▶ winner ─▶ profile; what lost is deleted

Every measurement is in the journal before the next begins.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from freehold.domain.errors import DiskFull, EngineError, LoadFailed
from freehold.domain.sentences import Sentence, as_sentence, said
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.tuning_client import compare
from freehold.engines.llamacpp.tuning_messages import Compare, Difference
from freehold.lab.tune import corpus, grid, search
from freehold.lab.tune.budget import (
    WINDOW_BEFORE,
    WINDOW_SCORED,
    Effort,
    Workload,
    early,
    effort_within,
    remaining,
)
from freehold.lab.tune.derive import Derivation
from freehold.lab.tune.grid import Candidate
from freehold.lab.tune.journal import Circumstances, Journal, Losing, opened
from freehold.lab.tune.loss import summarise
from freehold.lab.tune.search import Point
from freehold.lab.tune.source import Source, best_source
from freehold.lab.tune.timing import Timer, configured, settings_of
from freehold.machine.computer import Processor
from freehold.machine.probe import memory
from freehold.machine.profile import Loss, Profile, Speeds
from freehold.runtime.profiles import Here, Profiles
from freehold.weights.library import Library, LocalModel, now


class Watcher(Protocol):
    """Told what goes on. `remaining` may be called any number of times, also upwards."""

    def stage(self, name: str, count: int) -> None:
        """So many measurements follow."""
        ...

    def done(self, what: str) -> None:
        """One of them."""
        ...

    def remaining(self, seconds: float) -> None: ...

    def note(self, told: Sentence) -> None:
        """For the person waiting."""
        ...


_UNSTATED = "how, the file does not say"


@dataclass(frozen=True)
class Wishes:
    """``seconds`` is what the whole may take; ``max_loss`` a mean KL divergence in nats."""

    seconds: float
    max_loss: float
    users: int
    depth: int
    formats: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """``points`` were measured in the final, beside ``baseline``; ``frontier`` are those of all
    that nobody beats at both speed and loss."""

    baseline: Point
    points: tuple[Point, ...]
    frontier: tuple[Point, ...]
    chosen: Point
    profile: Profile


@dataclass
class Tuner:
    """One search for one model. ``fast_kernels`` tells whether the probe lets them be used."""

    library: Library
    model: LocalModel
    base: EngineConfig
    processor: Processor
    here: Here
    wishes: Wishes
    watcher: Watcher
    fast_kernels: bool
    _paths: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._baseline = Candidate(None, settings_of(self.base))
        self._full = Workload(self.wishes.depth, self.wishes.users, 24)
        self._source = Source(self.model)

    async def run(self) -> Outcome:
        """Raises `LoadFailed` where not even the model as it is can be measured."""
        self._source = await asyncio.to_thread(best_source, self.library, self.model)
        circumstances = Circumstances(
            source=self.model.digest,
            computer=self.here.computer,
            build=self.here.build,
            version=version("freehold"),
            baseline=self._baseline,
            depth=self.wishes.depth,
            users=self.wishes.users,
            original=self._source.model.digest if self._source.why else "",
        )
        with opened(self.library.store.home, circumstances) as journal:
            if journal.begun:
                self.watcher.note(
                    said("tuning.goes_on", "Going on where the last search was stopped.")
                )
            timer = Timer(self.base, journal, self.model.size, self._paths)
            async with timer:
                outcome = await self._search(timer, journal)
            Profiles(self.library.store.home).put(outcome.profile)
            Derivation(self.library, self._source.model).forget_all_but(outcome.profile.weights)
            journal.finish()
        return outcome

    async def _search(self, timer: Timer, journal: Journal) -> Outcome:
        short = early(self._full)
        self.watcher.stage("as it is", 1)
        untuned = await self._untuned(timer, short)
        effort = self._effort(untuned)
        measured = await self._stage(
            timer,
            "cache and kernels",
            grid.caches_and_kernels(
                self._baseline.settings, self.processor, fast_kernels=self.fast_kernels
            ),
        )
        leading = search.best(measured, untuned, effort.kept)
        around = grid.micro_batches_and_threads(leading, self.processor)
        measured |= await self._stage(timer, "micro-batch and threads", around)
        measured |= await self._bound(timer, search.best(measured, untuned, 1)[0], measured)
        # What is best for the weights as they are need not be for others: the plain settings too.
        leading = tuple(
            dict.fromkeys((*search.best(measured, untuned, effort.kept), self._baseline))
        )
        made = await self._make_formats()
        measured |= await self._stage(timer, "formats", grid.formats(leading, made))
        running = search.finalists(self._baseline, measured, untuned)
        for name in set(made) - {candidate.quantisation for candidate in running}:
            self.watcher.note(said("tuning.no_gain", "{format} gains nothing here.", format=name))
        self.watcher.remaining(remaining(effort, self._full, untuned, len(running)))
        speeds = await self._final(timer, running, effort)
        await timer.close()
        losses = await self._losses(running, effort, journal)
        points = [Point(c, speeds[c], losses.get(c)) for c in running if c in speeds]
        return self._outcome(points[0], tuple(points[1:]))

    async def _untuned(self, timer: Timer, workload: Workload) -> Speeds:
        timing = await timer.speeds(self._baseline, workload)
        if timing.speeds is None:
            raise LoadFailed(
                f"{self.model.name} cannot be measured as it is: {timing.failure}",
                hint="With less --depth or fewer --users it takes less memory.",
                values={"model": self.model.name},
            )
        self.watcher.done("as it is")
        return self._projected(timing.speeds)

    def _effort(self, untuned: Speeds) -> Effort:
        first = len(
            grid.caches_and_kernels(
                self._baseline.settings, self.processor, fast_kernels=self.fast_kernels
            )
        )
        first += len(grid.on_a_core_each(self._baseline))
        second = len(grid.micro_batches_and_threads([self._baseline], self.processor))
        effort, needed = effort_within(
            self.wishes.seconds, self._full, untuned, (first, second), len(self.wishes.formats)
        )
        if needed > self.wishes.seconds:
            self.watcher.note(
                said(
                    "tuning.needs",
                    "This model needs about {minutes:.0f} minutes for the smallest search; "
                    "with fewer --formats or less --depth it takes less.",
                    minutes=needed / 60,
                )
            )
        self.watcher.remaining(needed)
        return effort

    async def _stage(
        self, timer: Timer, name: str, candidates: Iterable[Candidate]
    ) -> dict[Candidate, Speeds]:
        """Those that could be run."""
        tried = tuple(candidates)
        self.watcher.stage(name, len(tried))
        found = {}
        for candidate in tried:
            timing = await timer.speeds(candidate, early(self._full))
            self.watcher.done(name)
            if timing.speeds is not None:
                found[candidate] = self._projected(timing.speeds)
        return found

    async def _bound(
        self, timer: Timer, leader: Candidate, measured: Mapping[Candidate, Speeds]
    ) -> dict[Candidate, Speeds]:
        """The fastest so far with a core for each thread, where that is faster."""
        bound = await self._stage(timer, "a core each", grid.on_a_core_each(leader))
        return search.worth_binding(bound, measured)

    def _projected(self, speeds: Speeds) -> Speeds:
        return search.projected(speeds, early(self._full).depth, self._full.depth)

    async def _make_formats(self) -> tuple[str, ...]:
        """Requantise, as far as there is disk; returns the formats there are."""
        own = self.model.header.quantisation
        wanted = tuple(name for name in self.wishes.formats if name != own)
        if wanted and len(self.model.paths) > 1:
            self.watcher.note(
                said(
                    "tuning.several_files",
                    "Weights in several files are not requantised; settings are tuned.",
                )
            )
            return ()
        if wanted:
            self._tell_source()
        derivation = Derivation(self.library, self._source.model)
        self.watcher.stage("requantising", len(wanted))
        for name in wanted:
            if self._source.why and name == self._source.model.header.quantisation:
                self._paths[name] = self.library.store.blob_path(self._source.model.digest)
                self.watcher.done("requantising")
                continue
            try:
                manifest = await derivation.make(name, self.base.threads)
                self._paths[name] = self.library.store.blob_path(manifest.files[0].sha256)
            except (DiskFull, EngineError) as error:
                self.watcher.note(
                    said(
                        "tuning.left_out",
                        "{format} is left out: {why}",
                        format=name,
                        why=as_sentence(error.message),
                    )
                )
            self.watcher.done("requantising")
        return tuple(name for name in wanted if name in self._paths)

    def _tell_source(self) -> None:
        source = self._source.model
        kind = source.header.quantisation
        if self._source.why:
            self.watcher.note(
                said(
                    "tuning.better_source",
                    "Requantising starts from {reference} ({format}), the best source here: {why}. "
                    "Losses are against it, those of the weights as they are too.",
                    reference=str(source.reference),
                    format=kind or _UNSTATED,
                    why=self._source.why,
                )
            )
        if self._source.quantised:
            self.watcher.note(
                said(
                    "tuning.quantised_already",
                    "The weights are quantised already ({format}); requantising adds to what was "
                    "lost then.",
                    format=kind or _UNSTATED,
                )
            )

    async def _final(
        self, timer: Timer, running: tuple[Candidate, ...], effort: Effort
    ) -> dict[Candidate, Speeds]:
        """In turns, so that what else the machine does meets all of them; medians."""
        self.watcher.stage("final", len(running) * effort.rounds)
        rounds: dict[Candidate, list[Speeds]] = {}
        for number in range(1, effort.rounds + 1):
            # There and back: none is always the first after another.
            for candidate in running if number % 2 else reversed(running):
                timing = await timer.speeds(candidate, self._full, number, keep=True)
                self.watcher.done("final")
                if timing.speeds is not None:
                    rounds.setdefault(candidate, []).append(timing.speeds)
        whole = {c: search.medians(r) for c, r in rounds.items() if len(r) == effort.rounds}
        if self._baseline not in whole:
            raise LoadFailed(
                f"{self.model.name} as it is cannot be measured {self.wishes.depth} tokens deep.",
                hint="Tune with less --depth.",
                values={"model": self.model.name},
            )
        return whole

    async def _losses(
        self, running: tuple[Candidate, ...], effort: Effort, journal: Journal
    ) -> Mapping[Candidate, Loss]:
        """Of every finalist whose answers are not those of the source. Those that answer as the
        baseline does lose what it has lost."""
        changed = [candidate for candidate in running if grid.changes_answers(candidate)]
        if self._source.why:
            changed = list(dict.fromkeys((self._baseline, *changed)))
        missing = [c for c in changed if journal.losing(c, effort.windows) is None]
        together = len(missing) + 1
        largest = max(self.model.size, self._source.model.size)
        if together * largest > memory().available / 2:
            together = 1
        groups = [missing[at : at + together] for at in range(0, len(missing), together)]
        self.watcher.stage("losses", len(groups) * effort.windows)
        for group in groups:
            read: list[tuple[Difference, ...]] = []
            async for window in compare(self._comparison(group, effort.windows)):
                read.append(window.differences)
                self.watcher.done("losses")
            for candidate, windows in zip(group, zip(*read, strict=True), strict=True):
                journal.add(Losing(candidate, effort.windows, windows))
        found = ((c, journal.losing(c, effort.windows)) for c in changed)
        losses = {c: summarise(known.windows) for c, known in found if known is not None}
        if self._source.why and self._baseline in losses:
            own = losses[self._baseline]
            losses = {c: losses.get(c, own) for c in running}
        return losses

    def _comparison(self, candidates: list[Candidate], windows: int) -> Compare:
        def config(of: Candidate) -> EngineConfig:
            path = None if of.quantisation is None else self._paths[of.quantisation]
            length = WINDOW_BEFORE + WINDOW_SCORED
            return configured(self.base, of, path, context=length, sequences=1)

        return Compare(
            source=self._original(config(self._baseline)),
            others=tuple(map(config, candidates)),
            text=corpus.text(),
            windows=windows,
            before=WINDOW_BEFORE,
            scored=WINDOW_SCORED,
        )

    def _original(self, as_it_is: EngineConfig) -> EngineConfig:
        """What losses are against."""
        if not self._source.why:
            return as_it_is
        return dataclasses.replace(as_it_is, paths=tuple(map(str, self._source.model.paths)))

    def _outcome(self, baseline: Point, others: tuple[Point, ...]) -> Outcome:
        chosen = search.winner(baseline, others, self.wishes.max_loss)
        quantisation = chosen.candidate.quantisation
        weights = self.model.digest
        if quantisation is not None:
            weights = self._paths[quantisation].name
        profile = Profile(
            source=self.model.digest,
            weights=weights,
            computer=self.here.computer,
            build=self.here.build,
            measured_at=now(),
            version=version("freehold"),
            settings=chosen.candidate.settings,
            depth=self.wishes.depth,
            users=self.wishes.users,
            before=baseline.speeds,
            after=chosen.speeds,
            quantisation=quantisation,
            loss=None if chosen.loss is baseline.loss else chosen.loss,
        )
        front = search.frontier(baseline, others)
        return Outcome(baseline, others, front, chosen, profile)
