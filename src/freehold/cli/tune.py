"""`freehold tune`: measure a model here, and keep what is best as its profile."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import sys
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from freehold.cli.common import (
    JSON_OPTION,
    notice,
    print_json,
    print_table,
    progress,
    settings_from,
)
from freehold.cli.completing import LOCAL_MODEL
from freehold.cli.tune_report import Share, headings, rows, shares, tuning, verdict
from freehold.cli.tune_watchers import EventWatcher, LineWatcher, TerminalWatcher
from freehold.domain.engine import Kernels
from freehold.domain.errors import FreeholdError, InvalidRequest
from freehold.domain.sentences import as_sentence, said
from freehold.domain.settings import Settings, environment
from freehold.lab.tune.grid import DEFAULT_FORMATS, FORMATS
from freehold.lab.tune.tuner import Outcome, Tuner, Watcher, Wishes
from freehold.machine.calibration import Calibration
from freehold.machine.probe import probe
from freehold.machine.tuning import Tuning
from freehold.process.inside import die_with_parent
from freehold.runtime import native
from freehold.runtime.calibration import calibrate, recall
from freehold.runtime.profiles import Here
from freehold.runtime.tuned import Tuned
from freehold.runtime.vllm import run_by_vllm
from freehold.runtime.wiring import engine_config, require_gguf
from freehold.trust.dossier import Dossiers
from freehold.trust.verdict import Use
from freehold.weights.library import Library, LocalModel

_DEPTH = 2048
# A calibration takes half a minute: a search that is to be shorter than this does without.
_WORTH_CALIBRATING = 300.0


@click.command("tune")
@click.argument("reference", shell_complete=LOCAL_MODEL)
@click.option(
    "--minutes",
    type=click.FloatRange(0.1, 24 * 60),
    default=20,
    show_default=True,
    help="What the search may take, about.",
)
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 10),
    default=0.02,
    show_default=True,
    help="Mean KL divergence (nats) up to which other weights are taken.",
)
@click.option(
    "--users", type=click.IntRange(1, 256), help="Sequences at once to tune for (parallel: 4)."
)
@click.option(
    "--depth",
    type=click.IntRange(64, 1024 * 1024),
    help="Tokens of prompt to tune for (2048, or as many as the model was trained for).",
)
@click.option(
    "--formats",
    metavar="NAME,…",
    help=f"Formats to try ({','.join(DEFAULT_FORMATS)}); none: leave the weights as they are.",
)
@JSON_OPTION
@click.option(
    "--events", is_flag=True, help="Print progress and result as lines of JSON, for programs."
)
def command(
    reference: str,
    minutes: float,
    max_loss: float,
    users: int | None,
    depth: int | None,
    formats: str | None,
    as_json: bool,
    events: bool,
) -> None:
    """Find out which format and settings run REFERENCE fastest on this machine.

    The winner is kept as the model's profile, which `run` and `serve` use from then on. A search
    that was stopped goes on when the command is given again.
    """
    with _watching(events) as watcher:
        wanted = _formats(formats)
        settings = settings_from()
        library = Library.open(settings)
        model = library.local(reference, progress=progress())
        _require_tunable(library, model)
        Dossiers.open(library).require(model, Use.RUN)
        wishes = Wishes(
            seconds=minutes * 60,
            max_loss=max_loss,
            users=users or settings.parallel,
            depth=_possible(depth, model),
            formats=wanted,
        )
        try:
            outcome, calibration = asyncio.run(_tune(settings, library, model, wishes, watcher))
        except KeyboardInterrupt:
            watcher.close()
            notice(f"What was measured is kept. To go on: freehold tune {reference}")
            raise
        watcher.close()
        limits = shares(library, model, outcome, calibration) if calibration else ()
        found = tuning(model.name, outcome, max_loss)
        Tuned(settings.home).put(found)
        if isinstance(watcher, EventWatcher):
            watcher.result(_data(found, limits))
        else:
            _print(model, outcome, limits, found, as_json)


@contextlib.contextmanager
def _watching(events: bool) -> Iterator[LineWatcher | TerminalWatcher | EventWatcher]:
    """Who is told. A program that started us hears of errors too, and takes us with it."""
    if not events:
        watcher = TerminalWatcher() if sys.stderr.isatty() else LineWatcher()
        try:
            yield watcher
        finally:
            watcher.close()
        return
    die_with_parent()
    # A shell may have had our parent ignore it; it is how we are stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    told = EventWatcher()
    try:
        yield told
    except FreeholdError as error:
        told.failed(error)
        raise


def _formats(text: str | None) -> tuple[str, ...]:
    if text is None:
        return DEFAULT_FORMATS
    names = tuple(name.strip().upper() for name in text.split(",") if name.strip())
    if names == ("NONE",):
        return ()
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise InvalidRequest(
            f"--formats names {', '.join(unknown) or 'no format'}, which cannot be made here.",
            hint=f"Known are: {', '.join(FORMATS)}; none leaves the weights as they are.",
        )
    return tuple(dict.fromkeys(names))


def _require_tunable(library: Library, model: LocalModel) -> None:
    """Formats, caches and profiles are llama.cpp's: what vLLM runs has none."""
    require_gguf(
        model,
        hint="tune finds settings for llama.cpp alone. With the model under vllm in "
        f"freehold.toml, `freehold bench {model.reference}` measures it as vLLM runs it.",
    )
    if model.reference in run_by_vllm(library):
        notice(
            f"vLLM runs {model.reference} (the setting vllm); what is found here is for llama.cpp, "
            "and counts when the model is no longer named there."
        )


def _possible(depth: int | None, model: LocalModel) -> int:
    trained = model.header.context_length
    most = _DEPTH if trained is None else max(64, trained - 64)
    if depth is None:
        return min(_DEPTH, most)
    if trained is not None and depth > most:
        raise InvalidRequest(
            f"--depth {depth} is too much: {model.name} was trained for {trained} tokens.",
            hint=f"At most {most} can be measured.",
        )
    return depth


async def _tune(
    settings: Settings, library: Library, model: LocalModel, wishes: Wishes, watcher: Watcher
) -> tuple[Outcome, Calibration | None]:
    build = await native.check(settings.home / "state", notice=notice)
    computer = await asyncio.to_thread(probe, settings.home, environment())
    tuner = Tuner(
        library=library,
        model=model,
        base=engine_config(settings, model, build.kernels),
        processor=computer.processor,
        here=Here.now(settings.home),
        wishes=wishes,
        watcher=watcher,
        fast_kernels=build.kernels is Kernels.FAST,
    )
    outcome = await tuner.run()
    known = recall(settings.home, tuner.here.computer, tuner.here.build)
    if known is None and wishes.seconds >= _WORTH_CALIBRATING:
        try:
            known = await calibrate(settings, progress())
        except FreeholdError as error:
            watcher.note(
                said(
                    "tuning.not_calibrated",
                    "What the machine could do is not known: {why}",
                    why=as_sentence(error.message),
                )
            )
    return outcome, known


def _data(found: Tuning, limits: tuple[Share, ...]) -> dict[str, Any]:
    roofline = [dataclasses.asdict(share) for share in limits]
    return {**msgspec.to_builtins(found), "roofline": roofline}


def _print(
    model: LocalModel,
    outcome: Outcome,
    limits: tuple[Share, ...],
    found: Tuning,
    as_json: bool,
) -> None:
    if as_json:
        print_json(_data(found, limits))
        return
    print_table(headings(outcome.profile), rows(outcome, found.max_loss))
    for line in verdict(model.name, outcome, found.max_loss):
        click.echo(line)
    for share in limits:
        click.echo(share.text)
