"""Everything one `freehold bench` found, as it is stored, and what a reader should know of it."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator

import msgspec

from freehold.lab.bench.records import Outcome, Record
from freehold.lab.bench.statistics import median
from freehold.lab.bench.summary import Middle, Summary
from freehold.lab.bench.watch import Client
from freehold.lab.bench.workload import Kind, Stage, Workload
from freehold.machine.computer import Processor

REPORT_FORMAT = 1

_CACHED_SHARE = 0.05  # of a prompt beyond what the template brings along
_CLIENT_CORES = 0.5
_LATE_MS = 20.0
_FEWEST = 3  # requests in a third


class Ending(enum.StrEnum):
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    SERVER_GONE = "server_gone"


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``ours``: a freehold server of this store, on this machine. ``settings``: the flags it
    was started with by this run; None: it was there already."""

    url: str
    model: str
    ours: bool
    settings: tuple[str, ...] | None = None


class Surroundings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the client ran. ``memory`` is in bytes, ``commit`` that of the source it ran from."""

    system: str
    processor: Processor
    memory: int
    gpus: tuple[str, ...]
    versions: dict[str, str]
    commit: str | None


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One repeat of a stage."""

    summary: Summary
    most_in_flight: int
    client: Client
    records: tuple[Record, ...]


class StageResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``middles``: the median of each figure over the runs, with its extremes."""

    stage: Stage
    runs: tuple[Run, ...]
    middles: dict[str, Middle]

    def median(self, figure: str) -> float | None:
        """One of `summary.FIGURES`; None where nothing was measured."""
        found = self.middles.get(figure)
        return None if found is None else found.median

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(record for run in self.runs for record in run.records)


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``overhead``: tokens that each prompt has beside its own words, the template's among them.
    ``exact_prompts``: lengths were made to the token. ``roofline``: see `machine.roofline`."""

    made_at: str
    command: str
    target: Target
    surroundings: Surroundings
    workload: Workload
    overhead: int | None
    exact_prompts: bool
    remarks: tuple[str, ...]
    stages: tuple[StageResult, ...]
    ending: Ending
    roofline: str | None = None
    format: int = REPORT_FORMAT

    def encoded(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def notes(report: Report) -> tuple[str, ...]:
    """What makes the figures mean less, or something else, than they seem to."""
    return (*_general(report), *(note for each in report.stages for note in _of_stage(each)))


def _general(report: Report) -> Iterator[str]:
    if report.ending is Ending.INTERRUPTED:
        yield "The run was interrupted: what follows is what was measured until then."
    if report.ending is Ending.SERVER_GONE:
        yield "The server was gone before the run was over."
    yield from report.remarks
    records = [record for each in report.stages for record in each.records]
    done = [record for record in records if record.outcome is Outcome.COMPLETED]
    yield from _lengths(report, done)
    for message, count in Counter(r.error for r in records if r.error).most_common(3):
        yield f"{count} of {len(records)} requests: {message}"


def _lengths(report: Report, done: list[Record]) -> Iterator[str]:
    prompts = [record.prompt_tokens for record in done if record.prompt_tokens is not None]
    if prompts and {*prompts} != {report.workload.prompt}:
        yield (
            f"Prompts were {min(prompts)} to {max(prompts)} tokens long, not "
            f"{report.workload.prompt}: this server's words are not single tokens."
        )
    shorter = [record for record in done if record.completion_tokens < record.wanted_tokens]
    if shorter:
        least = min(record.completion_tokens for record in shorter)
        yield (
            f"{len(shorter)} of {len(done)} answers ended before the {report.workload.answer} "
            f"tokens asked for; the shortest has {least}."
        )
    read = sum(prompts)
    beyond = max(report.overhead or 0, report.workload.shared)
    cached = sum(max(0, (record.cached_tokens or 0) - beyond) for record in done)
    if read and cached > _CACHED_SHARE * read:
        yield (
            f"{cached / read:.0%} of the prompts' tokens were in a cache already, beyond what was "
            "to be shared: another --seed asks for texts the server has not seen."
        )


def _of_stage(each: StageResult) -> Iterator[str]:
    for run in each.runs:
        if run.client.cores > _CLIENT_CORES or run.client.late_ms > _LATE_MS:
            yield (
                f"{each.stage.title}: the client took {run.client.cores:.0%} of a core and was up "
                f"to {run.client.late_ms:.0f} ms late; moments are no more exact than that."
            )
            break
    if each.stage.kind is Kind.RATE and any(map(_falls_behind, each.runs)):
        yield (
            f"{each.stage.title}: the last requests took more than twice as long as the first. "
            "More came than the server completed; a longer run would show longer times."
        )


def _falls_behind(run: Run) -> bool:
    """Whether the last third of the arrivals was answered much more slowly than the first."""
    done = [record for record in run.records if record.outcome is Outcome.COMPLETED]
    times = [each.ended_s - each.sent_s for each in sorted(done, key=lambda each: each.sent_s)]
    third = len(times) // 3
    first, last = median(times[:third]), median(times[-third:] if third else ())
    return third >= _FEWEST and first is not None and last is not None and last > 2 * first
