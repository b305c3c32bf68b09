"""`freehold run`: one answer, or a conversation."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections.abc import AsyncIterator
from typing import Any

import click

from freehold.cli.answer import Answer, Options, Silence, answering
from freehold.cli.backend import Backend, LocalBackend, find_server
from freehold.cli.common import (
    JSON_OPTION,
    OFFLINE_OPTION,
    notice,
    print_json,
    progress,
    settings_from,
)
from freehold.cli.completing import MODEL
from freehold.cli.conversation import Conversation
from freehold.cli.output import Screen, figures, tokens_per_second, why_cut
from freehold.cli.pull import announce, summary
from freehold.cli.upstream_words import require_key, said_of
from freehold.domain.answers import Ended, EndReason
from freehold.domain.chat import Message, Role
from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import DEFAULT_TEMPERATURE, DEFAULT_TOP_P, Sampling
from freehold.domain.settings import Settings
from freehold.domain.upstreams import Upstream
from freehold.process.confine import deny_network
from freehold.runtime.vllm import open_door
from freehold.runtime.wiring import open_runtime
from freehold.trust.acquire import acquire
from freehold.trust.dossier import Dossiers
from freehold.trust.egress import refuse_egress
from freehold.weights.library import Library
from freehold.weights.reference import PathReference


@click.command("run")
@click.argument("reference", shell_complete=MODEL)
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", help="System message before the conversation.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer in tokens.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=DEFAULT_TEMPERATURE,
    show_default=True,
    help="0 is greedy: the same answer every time.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=DEFAULT_TOP_P,
    show_default=True,
    help="Choose among tokens of this total probability.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Make a sampled answer repeatable.")
@click.option("--context", type=int, help="Context in tokens (8192).")
@click.option(
    "--profile/--no-profile", "profiles", default=None, help="Load it as `tune` found best (true)."
)
@JSON_OPTION
@OFFLINE_OPTION
def command(
    reference: str,
    prompt: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int | None,
    context: int | None,
    profiles: bool | None,
    as_json: bool,
    offline: bool | None,
) -> None:
    """Ask REFERENCE one PROMPT, or hold a conversation without one.

    What is piped in is added to the prompt. A model that is not here is fetched first.
    """
    settings = settings_from(context=context, profiles=profiles, offline=offline)
    if settings.offline:
        refuse_egress()
    text = _whole_prompt(prompt)
    if not math.isfinite(temperature):
        raise InvalidRequest("--temperature must be a number from 0 to 2.")
    limit = max_tokens or settings.max_tokens
    options = Options(reference, system, Sampling(temperature, top_p, seed=seed), limit)
    if text is None and as_json:
        raise InvalidRequest("--json needs a prompt.", hint="Give one, or pipe it in.")
    asyncio.run(_run(settings, options, text, as_json))


def _whole_prompt(prompt: str | None) -> str | None:
    """The prompt and what is piped in; None where a conversation is wanted."""
    if sys.stdin is None:
        if prompt is None:
            raise InvalidRequest("There is no prompt, and no terminal to hold a conversation at.")
        return prompt
    if sys.stdin.isatty():
        return prompt
    piped = sys.stdin.buffer.read().decode("utf-8", "replace")
    parts = [part for part in (prompt, piped.strip("\n")) if part]
    if not parts:
        raise InvalidRequest("There is no prompt: none was given, and nothing was piped in.")
    return "\n\n".join(parts)


async def _run(settings: Settings, options: Options, text: str | None, as_json: bool) -> None:
    async with _backend(settings, options) as (backend, model):
        options = Options(model, options.system, options.sampling, options.max_tokens)
        if text is None:
            await Conversation(backend, options).hold()
        else:
            await _answer_once(backend, options, text, as_json)


@contextlib.asynccontextmanager
async def _backend(settings: Settings, options: Options) -> AsyncIterator[tuple[Backend, str]]:
    """A running server if it serves the model, else a runtime of our own."""
    name = settings.aliases.get(options.model, options.model)
    if (upstream := settings.upstreams.get(name)) is not None:
        async with _elsewhere(settings, upstream) as backend:
            yield backend, name
        return
    library = await asyncio.to_thread(Library.open, settings)
    reference = library.reference(options.model)
    if isinstance(reference, PathReference):  # the server may run in another folder
        reference = PathReference(reference.path.absolute())
    server = await find_server(settings, str(reference))
    given = [
        origin.removeprefix("flag ")
        for origin in (settings.origins["context"], settings.origins["profiles"])
        if origin.startswith("flag")
    ]
    if server is not None and given:
        notice(
            f"{' and '.join(given)} given, so a second copy of the model is loaded beside the "
            "server's."
        )
        server = None
    if server is not None:
        notice(f"Answered {server.description}.")
        yield server, str(reference)
        return
    served = (reference.path,) if isinstance(reference, PathReference) else ()
    if not served:
        await asyncio.to_thread(_fetch, library, str(reference))
    door = open_door(settings)  # in this thread: it dies with the one that started it
    if settings.offline:
        deny_network()  # servers have been asked
    async with open_runtime(settings, notice=notice, served_paths=served, door=door) as runtime:
        warming = asyncio.create_task(runtime.text.start())
        try:
            yield LocalBackend(runtime), str(reference)
        finally:
            warming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await warming


@contextlib.asynccontextmanager
async def _elsewhere(settings: Settings, upstream: Upstream) -> AsyncIterator[Backend]:
    """An upstream is asked from here, also where a server runs."""
    require_key(upstream)
    if settings.origins["context"].startswith("flag"):
        raise InvalidRequest(f"{upstream.name} is an upstream, and --context is not ours to set.")
    notice(said_of(upstream, offline=settings.offline))
    async with open_runtime(settings, notice=notice) as runtime:
        yield LocalBackend(runtime)


def _fetch(library: Library, reference: str) -> None:
    if library.is_local(library.reference(reference)):
        return  # what is to be said of it is said when it is loaded
    announce(library, reference)
    acquired = acquire(Dossiers.open(library), reference, progress())
    for line in summary(acquired.manifest.reference, acquired.dossier.verdict):
        notice(line)


async def _answer_once(backend: Backend, options: Options, text: str, as_json: bool) -> None:
    request = options.request((Message(Role.USER, text),), options.system)
    screen = Screen()
    answer = await answering(backend, request, Silence() if as_json else screen)
    if not as_json:
        screen.end_line()
    if answer.ended is None:
        raise KeyboardInterrupt
    if as_json:
        print_json(_as_data(options.model, answer, answer.ended))
        return
    if reason := why_cut(answer.ended, options.max_tokens):
        notice(reason)
    notice(figures(answer.ended))


def _as_data(model: str, answer: Answer, ended: Ended) -> dict[str, Any]:
    usage, timings = ended.usage, ended.timings
    return {
        "model": model,
        "answer": answer.text,
        "reasoning": answer.reasoning or None,
        "finish_reason": "length" if ended.reason is EndReason.LENGTH else "stop",
        "seed": ended.seed,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
        },
        "seconds": {
            "queued": round(timings.queued, 4),
            "prefill": round(timings.prefill, 4),
            "decode": round(timings.decode, 4),
        },
        "tokens_per_second": tokens_per_second(ended),
    }
