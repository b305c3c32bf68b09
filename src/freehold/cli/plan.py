"""`freehold plan`: which models fit this machine and a wish, and how fast they should be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, progress, settings_from
from freehold.cli.completing import MODEL
from freehold.domain.errors import InvalidRequest, UnknownArchitecture
from freehold.domain.settings import Settings, environment
from freehold.process.decoding import from_values

if TYPE_CHECKING:
    from freehold.machine.calibration import Calibration
    from freehold.machine.computer import Computer
    from freehold.machine.wishes import Wishes
    from freehold.runtime.planning import Stock

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)
# Libraries a build of llama.cpp has when it can use a graphics processor.
_ACCELERATED = ("cuda", "metal", "hip", "vulkan", "sycl")


class _Size(click.ParamType[int]):
    """``16GB``, ``15.5 GiB``, ``2000000000``; bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _SIZE.fullmatch(str(value).strip())
        if match is None or not float(match[1]):
            self.fail(f"{value!r} is no size; write it like 16GB or 15.5GiB.", param, ctx)
        units = _BINARY if match[3] else _UNITS
        return int(float(match[1]) * units[match[2].upper()])


@click.command("plan")
@click.argument("reference", metavar="[REF|PATH]", required=False, shell_complete=MODEL)
@click.option(
    "--users", type=click.IntRange(1, 256), default=1, help="How many ask at the same time."
)
@click.option(
    "--context", type=click.IntRange(1, 10**8), help="Tokens each of them has, prompt and answer."
)
@click.option(
    "--prompt", type=click.IntRange(1, 10**8), default=512, help="Tokens of a prompt (512)."
)
@click.option(
    "--ttft", type=click.FloatRange(0, min_open=True), help="Most seconds to the first token."
)
@click.option(
    "--tokens-per-second", type=click.FloatRange(0, min_open=True), help="Least speed, each."
)
@click.option("--memory", type=_Size(), metavar="SIZE", help="Use no more memory than this.")
@click.option("--task", metavar="TASK", help="Only models for it: chat, code, reasoning …")
@click.option(
    "--licence",
    multiple=True,
    type=click.Choice(["run=ok", "serve=ok"]),
    help="Only models whose licence allows this use.",
)
@click.option("--cpu", is_flag=True, help="Plan for the processor alone.")
@click.option(
    "--machine",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Plan for another machine: what `plan --json` printed there.",
)
@click.option("--calibrate", is_flag=True, help="Measure this machine first (half a minute).")
@JSON_OPTION
def command(
    reference: str | None,
    users: int,
    context: int | None,
    prompt: int,
    ttft: float | None,
    tokens_per_second: float | None,
    memory: int | None,
    task: str | None,
    licence: tuple[str, ...],
    cpu: bool,
    machine: Path | None,
    calibrate: bool,
    as_json: bool,
) -> None:
    """Say which models fit this machine and these wishes, best first, and why the others do not;
    with REF, what that model takes and how far it goes here.

    Estimates are arithmetic; what `freehold tune` has measured stands in a column of its own.
    Nothing is fetched and nobody is asked.
    """
    # Imported only now, so that `--help` is instant.
    from freehold.machine.wishes import Wishes
    from freehold.trust.verdict import Use

    if calibrate and machine is not None:
        raise InvalidRequest("Only this machine can be calibrated.", field="machine")
    settings = settings_from()
    wishes = Wishes(
        users=users,
        context=context,
        prompt=prompt,
        first_token=ttft,
        tokens_per_second=tokens_per_second,
        memory=memory,
        task=task,
        uses=frozenset(Use(each.partition("=")[0]) for each in licence),
    )
    computer = _computer(settings, machine, cpu)
    stock, calibration = _here(settings, computer, calibrate)
    if machine is None and computer.gpus and not _accelerated():
        notice(
            "This build of llama.cpp uses the processor alone. `--cpu` plans for it as it is; "
            "docs/configuration.md says how to build it for a graphics processor."
        )
    if reference is None:
        _plan(stock, computer, wishes, calibration, as_json)
    else:
        _explain(stock, reference, computer, wishes, calibration, as_json)


def _computer(settings: Settings, machine: Path | None, cpu: bool) -> Computer:
    if machine is None:
        from freehold.machine.probe import probe

        computer = probe(settings.home, environment())
    else:
        import msgspec

        from freehold.machine.computer import Computer

        try:
            said = msgspec.json.decode(machine.read_bytes())
            said = said.get("computer", said) if isinstance(said, dict) else said
            computer = from_values(said, Computer)
        except msgspec.DecodeError as error:
            raise InvalidRequest(
                f"{machine} describes no computer: {error}.",
                field="machine",
                hint="It is what `freehold plan --json` prints there.",
            ) from error
    if not cpu:
        return computer
    import msgspec

    return msgspec.structs.replace(computer, gpus=())


def _here(
    settings: Settings, computer: Computer, calibrate: bool
) -> tuple[Stock, Calibration | None]:
    from freehold.engines.llamacpp.build import installed
    from freehold.runtime import calibration
    from freehold.runtime.planning import Stock
    from freehold.runtime.profiles import Here
    from freehold.weights.library import Library

    build = installed()
    here = Here(computer.fingerprint, build.identity if build else "")
    stock = Stock.open(Library.open(settings), here)
    if calibrate:
        import asyncio

        return stock, asyncio.run(calibration.calibrate(settings, progress()))
    return stock, calibration.recall(settings.home, here.computer, here.build)


def _accelerated() -> bool:
    from freehold.engines.llamacpp.build import installed

    build = installed()
    names = [path.name for path in build.libraries] if build else []
    return any(word in name for name in names for word in _ACCELERATED)


def _plan(
    stock: Stock,
    computer: Computer,
    wishes: Wishes,
    calibration: Calibration | None,
    as_json: bool,
) -> None:
    from freehold.cli import plan_words
    from freehold.machine.plan import plan

    candidates = stock.all()
    known = {task for each in candidates for task in each.tasks}
    if wishes.task is not None and wishes.task not in known:
        raise InvalidRequest(
            f"No model is known to be for {wishes.task!r}.",
            field="task",
            hint=f"Known are: {', '.join(sorted(known))}.",
        )
    made = plan(candidates, stock.given(computer, wishes, calibration, candidates))
    if as_json:
        print_json(plan_words.plan_data(made))
    else:
        plan_words.print_plan(made)


def _explain(
    stock: Stock,
    reference: str,
    computer: Computer,
    wishes: Wishes,
    calibration: Calibration | None,
    as_json: bool,
) -> None:
    from freehold.cli import plan_words
    from freehold.machine.explain import explain

    checkpoint = stock.in_safetensors(reference)
    if checkpoint is not None:
        from freehold.cli import plan_vllm_words
        from freehold.runtime.planning_vllm import plan_vllm

        by_vllm = plan_vllm(stock.library, checkpoint, wishes, computer)
        if as_json:
            print_json(plan_vllm_words.data(by_vllm, computer))
        else:
            plan_vllm_words.show(by_vllm, computer)
        return
    candidate = stock.one(reference)
    if candidate.anatomy is None:
        raise UnknownArchitecture(plan_words.not_known(candidate))
    given = stock.given(computer, wishes, calibration, (candidate,))
    explained = explain(candidate, given)
    if as_json:
        print_json(plan_words.explanation_data(explained, given))
    else:
        plan_words.print_explanation(explained, given)
