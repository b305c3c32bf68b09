"""`freehold bench`: how fast a server answers, under how much load."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import secrets
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import click
import msgspec

from freehold.cli.bench_place import Place, local, remote
from freehold.cli.bench_show import Files, progress_for, show
from freehold.cli.common import JSON_OPTION, OFFLINE_OPTION, notice, settings_from
from freehold.cli.completing import LOCAL_MODEL
from freehold.cli.output import printable
from freehold.domain.errors import InvalidRequest, InvalidSetting, ServerUnreachable
from freehold.domain.settings import Settings, environment
from freehold.lab.bench.ceiling import ceiling
from freehold.lab.bench.dialect import sole_model
from freehold.lab.bench.endpoint import Endpoint
from freehold.lab.bench.records import Limits
from freehold.lab.bench.report import Ending, Report, Target, notes
from freehold.lab.bench.session import Session
from freehold.lab.bench.surroundings import surroundings
from freehold.lab.bench.workload import Workload
from freehold.trust.egress import refuse_egress

_MOST_REQUESTS = 100_000
_MOST_USERS = 1024


class _Numbers(click.ParamType[tuple[float, ...]]):
    """``1,2,4``: numbers above zero, each once."""

    name = "N,N…"

    def __init__(self, most: float, *, whole: bool) -> None:
        self._most = most
        self._whole = whole

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers, as in 1,2,4", param, ctx)
        for number in found:
            if not 0 < number <= self._most or (self._whole and number != int(number)):
                kind = "whole number" if self._whole else "number"
                self.fail(f"{number:g} is no {kind} up to {self._most:g}", param, ctx)
        return tuple(dict.fromkeys(found))


@click.command("bench")
@click.argument("target", metavar="REF|URL", shell_complete=LOCAL_MODEL)
@click.option("--users", type=_Numbers(_MOST_USERS, whole=True), help="Users at once (1,2,4,8).")
@click.option("--rate", type=_Numbers(10_000, whole=False), help="Poisson arrivals a second.")
@click.option("--requests", type=click.IntRange(1, _MOST_REQUESTS), help="Requests in each stage.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Limit of each stage.")
@click.option("--prompt", type=click.IntRange(1, 10_000_000), default=256, show_default=True)
@click.option("--answer", type=click.IntRange(1, 1_000_000), default=48, show_default=True)
@click.option(
    "--shared-prefix", type=click.IntRange(0), default=0, help="Tokens all prompts share."
)
@click.option("--warm-up", type=click.IntRange(0, 100), default=2, show_default=True)
@click.option("--repeats", type=click.IntRange(1, 100), default=1, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of the texts (a fresh one).")
@click.option(
    "--ttft", type=click.FloatRange(0, min_open=True), help="Goodput: seconds to a token."
)
@click.option("--tpot", type=click.FloatRange(0, min_open=True), help="Goodput: ms for each token.")
@click.option("--itl", type=click.FloatRange(0, min_open=True), help="Goodput: ms in any gap.")
@click.option("--model", help="The model to ask a URL for (the one it has).")
@click.option("--key-env", metavar="NAME", help="The variable that holds the URL's API key.")
@click.option("--timeout", type=click.FloatRange(0, 86400, min_open=True), default=300.0)
@click.option("--parallel", type=click.IntRange(1, 256), help="For a server started here.")
@click.option("--context", type=click.IntRange(16), help="For a server started here.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write JSON here.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page here.")
@JSON_OPTION
@OFFLINE_OPTION
def command(
    target: str,
    users: tuple[float, ...] | None,
    rate: tuple[float, ...] | None,
    requests: int | None,
    seconds: float | None,
    prompt: int,
    answer: int,
    shared_prefix: int,
    warm_up: int,
    repeats: int,
    seed: int | None,
    ttft: float | None,
    tpot: float | None,
    itl: float | None,
    model: str | None,
    key_env: str | None,
    timeout: float,
    parallel: int | None,
    context: int | None,
    output: Path | None,
    html: Path | None,
    as_json: bool,
    offline: bool | None,
) -> int:
    """Measure how fast a model here, or any server with OpenAI's API, answers under load.

    A REF is asked of the running server of this store, or of one started for this and stopped
    afterwards. A URL is asked as it is; nothing but made-up words is sent there.
    """
    settings = settings_from(offline=offline)
    workload = Workload(
        users=tuple(map(int, users or (() if rate else (1, 2, 4, 8)))),
        rates=rate or (),
        # Texts of their own for every run: what a server remembers of the last is of no help.
        seed=secrets.randbelow(2**31) if seed is None else seed,
        requests=requests,
        seconds=seconds,
        prompt=prompt,
        answer=answer,
        shared=shared_prefix,
        warm_up=warm_up,
        repeats=repeats,
        silence=timeout,
        limits=Limits(None if ttft is None else ttft * 1000, tpot, itl),
    )
    files = Files(output, html)
    files.require_writable()
    flags = (
        *(("--parallel", str(parallel)) if parallel is not None else ()),
        *(("--context", str(context)) if context is not None else ()),
    )
    place = _place(target, model, key_env, flags, settings)
    if settings.offline:
        refuse_egress()
    report, lost = asyncio.run(_bench(place, workload, settings, files))
    if as_json:
        click.echo(report.encoded(), nl=False)
    else:
        show(report)
    for note in notes(report):
        notice(printable(note))
    files.finish()
    if lost is not None:
        raise lost
    return 130 if report.ending is Ending.INTERRUPTED else 0


def _place(
    target: str,
    model: str | None,
    key_env: str | None,
    flags: tuple[str, ...],
    settings: Settings,
) -> Place:
    """Where to ask. ``flags`` are for a server that is started here, the two before for a URL."""
    if "://" in target:
        if flags:
            raise InvalidRequest("--parallel and --context are for a server that is started here.")
        return remote(target, model, _key(key_env), settings)
    if model is not None or key_env is not None:
        raise InvalidRequest("--model and --key-env are for a URL.")
    return local(target, settings, flags)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = environment().get(variable)
    if not key:
        raise InvalidSetting(f"--key-env names {variable}, which is not set.")
    if not key.isascii() or not key.isprintable():
        raise InvalidSetting(f"{variable} holds what no key can be: it must be printable ASCII.")
    return key


async def _bench(
    place: Place, workload: Workload, settings: Settings, files: Files
) -> tuple[Report, ServerUnreachable | None]:
    """Measure, writing after each stage. The error is that of a server that was lost."""
    async with place as (endpoint, named, ended):
        target = await _with_model(endpoint, named, workload.silence)
        around = await asyncio.to_thread(surroundings, settings.home)
        made_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

        def report(roofline: str | None = None) -> Report:
            vocabulary = session.vocabulary
            return Report(
                made_at=made_at,
                command=_command_line(),
                target=target,
                surroundings=around,
                workload=workload,
                overhead=vocabulary.overhead if vocabulary else None,
                exact_prompts=vocabulary is not None and vocabulary.exact,
                remarks=session.dialect.remarks,
                stages=session.stages,
                ending=session.ending,
                roofline=roofline,
            )

        progress = progress_for(workload.total)
        session = Session(
            endpoint, target.model, workload, progress, keep=lambda: files.write(report())
        )
        async with _interrupted() as stop:
            with progress:
                await session.run(stop)
        if session.ending is Ending.INTERRUPTED and not session.stages:
            raise KeyboardInterrupt
        roofline = None
        if target.settings is not None:  # started for this, with the settings that hold here
            roofline = await asyncio.to_thread(
                ceiling, settings, target.model, workload, session.stages
            )
        found = report(roofline)
        files.write(found)
        return found, _lost(endpoint, ended()) if session.ending is Ending.SERVER_GONE else None


def _lost(endpoint: Endpoint, how: str | None) -> ServerUnreachable:
    return ServerUnreachable(
        f"The server at {endpoint.url} {how or 'stopped answering'} during the measurement.",
        hint="What was measured until then is above.",
    )


async def _with_model(endpoint: Endpoint, target: Target, silence: float) -> Target:
    if target.model:
        return target
    return msgspec.structs.replace(target, model=await sole_model(endpoint, silence))


@contextlib.asynccontextmanager
async def _interrupted() -> AsyncIterator[asyncio.Event]:
    """An event that Ctrl-C sets; the second one does not wait for the measurement to end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _command_line() -> str:
    """As it was typed, without the folder of the program."""
    line = shlex.join(["freehold", *sys.argv[1:]])
    return line.encode("utf-8", "replace").decode()
