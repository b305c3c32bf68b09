"""Predicted beside measured: `python -m benchmarks.planning`.

Calibrates this computer, predicts speed and memory of ten points (model, quantisation, context)
before any of these models is loaded, then measures them: llama.cpp's steps beside the
calibration's yardstick (`engines.llamacpp.bench_steps`), which tells how good the arithmetic is
whatever the machine does meanwhile; and answers through our engine in its worker, which is what
people get, each file right after a calibration of its own, in tokens per second and beside the
yardstick as well. Every point is saved at once; the same command goes on where it stopped.
``--calibrate-only`` does no more than the first step.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from benchmarks.weights import CACHE, ROOT, BenchmarkError, model_file, source_file
from freehold.domain.chat import GenerateRequest
from freehold.domain.engine import CacheConfig, Kernels
from freehold.domain.events import Finished, Timings
from freehold.domain.sampling import Sampling
from freehold.domain.settings import Settings, environment, resolve
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.bench_steps import Clock, Timed, Units, Yardsticks
from freehold.engines.llamacpp.binding import Context
from freehold.engines.llamacpp.build import installed
from freehold.engines.llamacpp.calibrating import open_yardsticks
from freehold.engines.llamacpp.client import LlamaCppEngine
from freehold.machine.calibration import Calibration
from freehold.machine.computer import Computer
from freehold.machine.dissect import anatomy_of_header
from freehold.machine.footprint import footprint, repacked_types
from freehold.machine.probe import probe
from freehold.machine.profile import EngineSettings
from freehold.machine.speed import largest_chunk, predict, reading_chunk, time_to_first_token
from freehold.process.child import child_environment
from freehold.runtime.calibration import calibrate, recall
from freehold.text.vocabulary import start_native
from freehold.weights.gguf import read_header
from freehold.weights.progress import Silent

ANSWER = 32
# Of short and of long prompts.
REPEATS, LONG_REPEATS, LONG = 5, 2, 1024
# How often the yardsticks are laid before and after an answer.
YARDS = 9
MICRO_BATCH = 512
BEGIN, END = "<!-- planning: begin -->", "<!-- planning: end -->"
PAGE = ROOT / "docs" / "benchmarks.md"
# Where further models are that ``freehold pull`` has fetched, by the digest of their files.
STORES = (ROOT / ".cache" / "bench-home", ROOT / ".cache" / "test-home-gemma")
MIDDLE = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
SMALL = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


@dataclass(frozen=True)
class Subject:
    """One file and the prompts it is measured with, in tokens."""

    name: str
    path: Path
    prompts: tuple[int, ...]


class Point(msgspec.Struct, frozen=True):
    """Tokens per second, or tokens per yardstick; medians of the repeats."""

    model: str
    prompt: int
    predicted_prefill: float
    prefill: float
    predicted_decode: float
    decode: float

    @property
    def errors(self) -> tuple[float, float]:
        """Of prefill and decode: by how much the prediction is too high, as a share."""
        return (
            self.predicted_prefill / self.prefill - 1,
            self.predicted_decode / self.decode - 1,
        )


class Memory(msgspec.Struct, frozen=True):
    """Bytes: the largest resident size of the worker whose context was full."""

    model: str
    context: int
    predicted: int
    peak: int


class Results(msgspec.Struct):
    """All that was found."""

    computer: Computer
    calibration: Calibration
    # By the file's name: what its tokens per second were predicted from.
    just_before: dict[str, Calibration] = {}
    beside: list[Point] = []
    answers: list[Point] = []  # through the engine, in yardsticks
    points: list[Point] = []  # and in seconds
    memory: list[Memory] = []


def subjects() -> tuple[Subject, ...]:
    return (
        Subject("qwen2.5-coder 0.5B Q4_K_M", source_file(), (256, 2048)),
        Subject("qwen2.5-coder 0.5B Q8_0", model_file("q8_0"), (256, 2048)),
        Subject("qwen2.5-coder 0.5B Q4_0", model_file("q4_0"), (256, 3072)),
        Subject("qwen2.5-coder 1.5B Q4_K_M", _pulled(MIDDLE, "qwen2.5-coder:1.5b"), (256, 2048)),
        Subject("gemma 3 270M Q4_K_M", _pulled(SMALL, "gemma3:270m"), (256, 2048)),
    )


def _pulled(digest: str, reference: str) -> Path:
    for store in STORES:
        if (store / "blobs" / digest).exists():
            return store / "blobs" / digest
    raise BenchmarkError(f"Fetch it first: FREEHOLD_HOME={STORES[0]} freehold pull {reference}")


class Planner:
    """What is predicted, before anything is loaded."""

    def __init__(self, computer: Computer, calibration: Calibration, subject: Subject) -> None:
        self._here = (computer, calibration)
        self._anatomy = anatomy_of_header(read_header(subject.path))
        self.context = max(subject.prompts) + ANSWER
        # Prefixes of finished answers are no part of what is predicted.
        self.settings = EngineSettings(CacheConfig(host_bytes=0), calibration.threads, MICRO_BATCH)
        self.chunk = reading_chunk(self._anatomy, calibration, computer, self.settings)

    def prefill(self, prompt: int) -> float:
        computer, calibration = self._here
        seconds = time_to_first_token(self._anatomy, calibration, computer, self.settings, prompt)
        return prompt / seconds

    def decode(self, prompt: int) -> float:
        computer, calibration = self._here
        depth = prompt + ANSWER // 2
        return predict(self._anatomy, calibration, computer, self.settings, depth).decode

    def bare_decode(self, prompt: int) -> float:
        """Without what the worker, the wire and we take of each step."""
        computer, calibration = self._here
        alone = msgspec.structs.replace(calibration, step=0.0)
        return predict(self._anatomy, alone, computer, self.settings, prompt - 1).decode

    def memory(self) -> int:
        computer, calibration = self._here
        kinds = repacked_types(computer.processor.instruction_sets)
        chunk = largest_chunk(self._anatomy, calibration, computer, self.settings)
        return footprint(
            self._anatomy, self.settings, self.context, 1, repacked=kinds, chunk=chunk
        ).total


def measure_beside(
    subject: Subject, planner: Planner, yardsticks: Yardsticks, results: Results, save: Saver
) -> None:
    """All points of one file, in yardsticks: its steps here, without the engine around them."""
    wanted = [p for p in subject.prompts if not _done(results.beside, subject.name, p)]
    if not wanted:
        return
    context = Context(_config(subject, planner))
    units = units_of(results.calibration)
    timed, reading = Timed(context, yardsticks), yardsticks.many
    for prompt in wanted:
        timed.step(planner.chunk, 0, 1)  # what comes first is slower
        read = sum(
            timed.step(min(planner.chunk, prompt - start), start, 3, reading)
            for start in range(0, prompt, planner.chunk)
        )
        results.beside.append(
            Point(
                model=subject.name,
                prompt=prompt,
                predicted_prefill=planner.prefill(prompt) * units.many,
                prefill=prompt / read,
                predicted_decode=planner.bare_decode(prompt) * units.one,
                decode=1 / timed.step(1, prompt - 1, 25),
            )
        )
        save()
    context.close()


def units_of(known: Calibration) -> Units:
    return Units(known.yardstick, known.reading_yardstick)


def _config(subject: Subject, planner: Planner) -> EngineConfig:
    settings = planner.settings
    return EngineConfig(
        "planning",
        (str(subject.path),),
        planner.context,
        1,
        settings.threads,
        cache=settings.cache,
        drafts=False,
    )


@dataclass(frozen=True)
class Answered:
    """One answer of the engine, and what the yardsticks took at that time."""

    timings: Timings
    units: Units


async def measure(
    subject: Subject, settings: Settings, yardsticks: Yardsticks, results: Results, save: Saver
) -> None:
    """All points of one file, in one worker, right after calibrating."""
    wanted = [p for p in subject.prompts if not _done(results.points, subject.name, p)]
    if not wanted:
        return
    known = results.just_before[subject.name] = await calibrate(settings, Silent())
    planner = Planner(results.computer, known, subject)
    engine = LlamaCppEngine(_config(subject, planner))
    await engine.load()
    try:
        await _ask(engine, 64, "warm")
        for prompt in wanted:
            repeats = REPEATS if prompt < LONG else LONG_REPEATS
            found = []
            for number in range(repeats):
                before = _lay(yardsticks)
                timings = await _ask(engine, prompt, f"{prompt} {number}")
                after = _lay(yardsticks)
                middle = Units((before.one + after.one) / 2, (before.many + after.many) / 2)
                found.append(Answered(timings, middle))
            results.answers.append(_beside(subject.name, prompt, planner, known, found))
            results.points.append(_point(subject.name, prompt, planner, found))
            save()
        results.memory.append(
            Memory(subject.name, planner.context, planner.memory(), _peak(engine.pid))
        )
        save()
    finally:
        await engine.close()


def _lay(yardsticks: Yardsticks) -> Units:
    return Units(yardsticks.one.lay(YARDS), yardsticks.many.lay(YARDS))


def _done(points: Sequence[Point], model: str, prompt: int) -> bool:
    return any((p.model, p.prompt) == (model, prompt) for p in points)


def _point(name: str, prompt: int, planner: Planner, answers: Sequence[Answered]) -> Point:
    return Point(
        model=name,
        prompt=prompt,
        predicted_prefill=planner.prefill(prompt),
        prefill=statistics.median(prompt / each.timings.prefill for each in answers),
        predicted_decode=planner.decode(prompt),
        decode=statistics.median((ANSWER - 1) / each.timings.decode for each in answers),
    )


def _beside(
    name: str, prompt: int, planner: Planner, known: Calibration, answers: Sequence[Answered]
) -> Point:
    """The same in yardsticks: those of then, and those by which it was predicted."""
    units = units_of(known)
    return Point(
        model=name,
        prompt=prompt,
        predicted_prefill=planner.prefill(prompt) * units.many,
        prefill=statistics.median(it.units.many * prompt / it.timings.prefill for it in answers),
        predicted_decode=planner.decode(prompt) * units.one,
        decode=statistics.median(it.units.one * (ANSWER - 1) / it.timings.decode for it in answers),
    )


async def _ask(engine: LlamaCppEngine, prompt: int, name: str) -> Timings:
    """Greedy, random tokens, nothing that an earlier request could have left."""
    dice = random.Random(name)
    request = GenerateRequest(
        name,
        tuple(dice.randrange(1000, 100_000) for _ in range(prompt)),
        max_tokens=ANSWER,
        sampling=Sampling(temperature=0, ignore_end=True),
        cache_scope=name,
    )
    async for event in engine.generate(request):
        if isinstance(event, Finished):
            return event.timings
    raise BenchmarkError("An answer did not end.")


def _peak(pid: int | None) -> int:
    """Linux's high-water mark of a process's resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


# The page


def table(results: Results) -> str:
    found, known = results.calibration, results.computer.processor
    lines = [
        f"Measured {found.measured_at[:10]} on {known.name}, {found.threads} threads; build "
        f"`{found.build[:12]}`. The calibration took {found.seconds:.0f} s: "
        f"{found.bandwidth / 1e9:.1f} GB/s read, {found.matrix_rate / 1e9:.0f} GFLOP/s, "
        f"{found.step * 1e6:.0f} µs a step, {found.layer * 1e6:.0f} µs a layer.",
        "",
        "The steps, beside the yardstick:",
        "",
        *_speeds("tokens per yardstick", results.beside, digits=3),
        "",
        "Answers of the engine, beside the yardstick:",
        "",
        *_speeds("tokens per yardstick", results.answers, digits=3),
        "",
        "The same answers by the clock:",
        "",
        *_speeds("tok/s", results.points, digits=1),
        "",
        "| model | context | MB, predicted | peak | error |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {it.model} | {it.context:,} | {it.predicted / 1e6:,.0f} | {it.peak / 1e6:,.0f} "
        f"| {it.predicted / it.peak - 1:+.1%} |"
        for it in results.memory
    ]
    return "\n".join(lines)


def _speeds(unit: str, points: Sequence[Point], digits: int) -> list[str]:
    lines = [
        f"| model | prompt | prefill, {unit}, predicted | measured | error "
        f"| decode, {unit}, predicted | measured | error |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for point in points:
        prefill, decode = point.errors
        lines.append(
            f"| {point.model} | {point.prompt:,} | {point.predicted_prefill:.{digits}f} "
            f"| {point.prefill:.{digits}f} | {prefill:+.0%} | {point.predicted_decode:.{digits}f} "
            f"| {point.decode:.{digits}f} | {decode:+.0%} |"
        )
    near = [max(map(abs, point.errors)) <= 0.2 for point in points]
    return [*lines, "", f"Both within 20 % at {sum(near)} of {len(near)} points."]


def write_page(results: Results, page: Path = PAGE) -> None:
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}")


@dataclass(frozen=True)
class Saver:
    results: Results
    path: Path

    def __call__(self) -> None:
        self.path.write_bytes(msgspec.json.format(msgspec.json.encode(self.results)) + b"\n")


async def _run(path: Path, *, fresh: bool, only: bool) -> None:
    settings = resolve({"home": str(CACHE / "planning-home")})
    computer, build = probe(settings.home, environment()), installed()
    identity = build.identity if build else ""
    known = recall(settings.home, computer.fingerprint, identity)
    if known is None or fresh or only:
        known = await calibrate(settings, Silent())
    if only:
        click.echo(msgspec.json.format(msgspec.json.encode(known)).decode())
        return
    # Where it was measured is nobody's business; on which disk changes nothing.
    place = msgspec.structs.replace(computer.disk, path=Path(computer.disk.path).name)
    results = Results(msgspec.structs.replace(computer, disk=place), known)
    if path.exists() and not fresh:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
    saver = Saver(results, path)
    with tempfile.TemporaryDirectory(prefix="freehold-planning-") as folder:
        yardsticks = open_yardsticks(Path(folder), known.threads, Kernels.FAST, Clock())
    for subject in subjects():
        planner = Planner(results.computer, results.calibration, subject)
        measure_beside(subject, planner, yardsticks, results, saver)
    for subject in subjects():
        await measure(subject, settings, yardsticks, results, saver)
    yardsticks.one.context.close()
    click.echo(table(results))


@click.command(help=__doc__)
@click.option("--fresh", is_flag=True, help="Calibrate and measure everything again.")
@click.option("--calibrate-only", "only", is_flag=True)
@click.option("--render", is_flag=True, help="Only write the page anew.")
@click.option("--output", type=click.Path(path_type=Path), help="Keep the results there.")
def main(fresh: bool, only: bool, render: bool, output: Path | None) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = output or ROOT / "benchmarks" / "results" / f"{today}-planning.json"
    if not render:
        # Threads wait for each other as they do in workers, whose costs these are.
        os.environ.update(child_environment(os.environ))
        start_native()
        asyncio.run(_run(path, fresh=fresh, only=only))
    if not only and output is None:
        write_page(msgspec.json.decode(path.read_bytes(), type=Results))


if __name__ == "__main__":
    main()
