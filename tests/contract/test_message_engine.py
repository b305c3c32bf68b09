"""What an engine does that is asked with messages, held against a real server of ours elsewhere.

The sister of `test_engine`, whose engines take token ids. The upstream is `freehold serve` with
llama.cpp and a random model whose answers go on until they are limited.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from freehold.domain.answers import Begun, ContentDelta, Ended, EndReason, Part
from freehold.domain.chat import ChatRequest, Conversation, Message, MessagesRequest, Role
from freehold.domain.errors import (
    DeadlineExceeded,
    InvalidRequest,
    PromptTooLong,
    UpstreamFailed,
    UpstreamUnavailable,
)
from freehold.domain.sampling import Constraint, Grammar, Sampling
from freehold.domain.upstreams import Upstream, UpstreamKind
from freehold.engines.base import Capability, MessageEngine
from freehold.engines.upstream.asking import beginning_of
from freehold.engines.upstream.engine import UpstreamEngine
from freehold.engines.upstream.replicas import Health, Replicas
from tests.support.command import Server, serving
from tests.support.endless import write_endless_llama
from tests.support.running import run, until

pytestmark = pytest.mark.native

CONTEXT = 2048
GREEDY = Sampling(temperature=0)
FLAGS = ("--context", str(CONTEXT), "--parallel", "2", "--threads", "1")
LONG = ("--context", str(2 * CONTEXT), *FLAGS[2:])
# What an engine may have; what it has not is skipped, and said.
SKIPPED: dict[str, list[str]] = {}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "endless.gguf"
    # Slow enough that a whole answer takes seconds.
    return write_endless_llama(path, layers=16, context_length=2 * CONTEXT)


@pytest.fixture(scope="module")
def elsewhere(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), *FLAGS, str(model)) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def matrix(pytestconfig: pytest.Config) -> Iterator[None]:
    """Prints, at the end, what the engine declares and what was skipped for it."""
    yield
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        declared = UpstreamEngine(upstream("http://localhost/v1")).features
        print(f"\n\n  upstream: {', '.join(sorted(declared))}")
        for capability, tests in sorted(SKIPPED.items()):
            print(f"            without {capability}, so not tested: {', '.join(tests)}")


def upstream(*urls: str) -> Upstream:
    return Upstream("far", urls, "endless", UpstreamKind.FREEHOLD)


@contextlib.asynccontextmanager
async def engine_of(*servers: Server) -> AsyncIterator[UpstreamEngine]:
    engine = UpstreamEngine(upstream(*(f"{server.url}/v1" for server in servers)))
    try:
        yield engine
    finally:
        await engine.close()


def needs(engine: MessageEngine, capability: Capability, test: str) -> None:
    if capability not in engine.features:
        SKIPPED.setdefault(capability, []).append(test)
        pytest.skip(f"it does not declare {capability}")


def asked(text: str = "Hello", **fields: Any) -> MessagesRequest:
    given = {"max_tokens": 24, "sampling": GREEDY, **fields}
    conversation = Conversation((Message(Role.USER, text),))
    return MessagesRequest("A", ChatRequest("far", conversation, **given))


@dataclass
class Answered:
    parts: list[Part] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, ContentDelta))

    @property
    def ended(self) -> Ended:
        last = self.parts[-1]
        assert isinstance(last, Ended)
        return last


async def answer(engine: MessageEngine, request: MessagesRequest) -> Answered:
    return Answered([part async for part in engine.generate(request)])


def figure(server: Server, name: str) -> float:
    """Of the upstream's own metrics; 0 where it has not counted any."""
    text = httpx2.get(f"{server.url}/metrics", trust_env=False).text
    found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


# Answers


def test_parts_come_in_order_and_the_counts_are_right(elsewhere: Server) -> None:
    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            found = await answer(engine, asked())
        assert isinstance(found.parts[0], Begun)
        assert all(isinstance(part, ContentDelta) for part in found.parts[1:-1])
        assert found.ended.reason is EndReason.LENGTH
        assert found.ended.usage.completion_tokens == 24
        assert found.ended.usage.prompt_tokens > 5

    run(scenario())


def test_the_same_as_its_server_says_whole(elsewhere: Server) -> None:
    body = {
        "model": "endless",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 24,
        "temperature": 0,
    }
    response = httpx2.post(f"{elsewhere.url}/v1/chat/completions", json=body, trust_env=False)
    whole = response.json()["choices"][0]["message"]["content"]

    async def scenario() -> str:
        async with engine_of(elsewhere) as engine:
            return (await answer(engine, asked())).text

    assert run(scenario()) == whole


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(elsewhere: Server) -> None:
    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            needs(engine, Capability.STOP, "stop")
            free = (await answer(engine, asked())).text
            stop = next(c for c in free[4:] if c != "\ufffd" and c not in free[:4])
            found = await answer(engine, asked(sampling=Sampling(temperature=0, stop=(stop,))))
            assert found.text == free[: free.index(stop)]
            assert found.ended.reason is EndReason.STOP

    run(scenario())


def test_the_same_seed_says_the_same(elsewhere: Server) -> None:
    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            needs(engine, Capability.SEED, "seed")
            texts = [
                (await answer(engine, asked(sampling=Sampling(temperature=1.5, seed=seed)))).text
                for seed in (7, 7, 8)
            ]
            assert texts[0] == texts[1] != texts[2]

    run(scenario())


def test_logprobs(elsewhere: Server) -> None:
    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            needs(engine, Capability.LOGPROBS, "logprobs")
            found = await answer(engine, asked(top_logprobs=3))
            told = [
                each
                for part in found.parts
                if isinstance(part, ContentDelta)
                for each in part.logprobs
            ]
            assert len(told) == found.ended.usage.completion_tokens
            for each in told:
                assert len(each.top) == 3
                assert each.top[0].logprob == each.chosen.logprob <= 0  # greedy
            assert b"".join(each.chosen.piece for each in told).decode("utf-8", "replace")

    run(scenario())


def test_a_schema_holds(elsewhere: Server) -> None:
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    constraint = Constraint(
        Grammar.JSON_SCHEMA, json.dumps({**schema, "additionalProperties": False})
    )

    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            needs(engine, Capability.CONSTRAINTS, "schema")
            found = await answer(engine, asked(constraint=constraint, max_tokens=200))
            assert set(json.loads(found.text)) == {"yes"}
            matching = Constraint(Grammar.REGEX, "(yes|no)")
            found = await answer(engine, asked(constraint=matching))
            assert found.text in ("yes", "no")

    run(scenario())


def test_vectors(elsewhere: Server) -> None:
    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            needs(engine, Capability.EMBED, "embed")
            (one, other, again), tokens = await engine.embed(["Hello", "Bye", "Hello"], None)
            assert math.isclose(math.hypot(*one), 1.0, rel_tol=1e-5)
            # Computed together, so equal up to rounding.
            assert math.dist(one, again) < 1e-3 < math.dist(one, other)
            assert tokens > 5

    run(scenario())


# What cannot be done


def test_a_prompt_that_does_not_fit_is_told_with_the_numbers(elsewhere: Server) -> None:
    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            with pytest.raises(PromptTooLong, match=rf"[0-9]+ tokens .* {CONTEXT}"):
                await answer(engine, asked("word " * CONTEXT))
            with pytest.raises(PromptTooLong, match=f"asks for {CONTEXT} more"):
                await answer(engine, asked(max_tokens=CONTEXT))

    run(scenario())


def test_what_it_cannot_be_asked_is_refused_before_it_is(elsewhere: Server) -> None:
    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            sampling = Sampling(frequency_penalty=1, penalty_window=64)
            with pytest.raises(InvalidRequest) as error:
                await answer(engine, asked(sampling=sampling))
            assert error.value.field == "penalty_window"
            assert engine.figures().replicas[0].requests == 0

    run(scenario())


def test_what_only_its_server_finds_wrong_is_said_in_its_words(elsewhere: Server) -> None:
    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            constraint = Constraint(Grammar.REGEX, "(")
            with pytest.raises(InvalidRequest, match="The upstream far says: ") as error:
                await answer(engine, asked(constraint=constraint))
            assert error.value.field == "response_format"

    run(scenario())


# Leaving


def test_who_leaves_frees_the_sequence_there(elsewhere: Server) -> None:
    cancelled = 'freehold_answers_total{end="cancelled",model="endless"}'
    before = figure(elsewhere, cancelled)

    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            for _ in range(3):  # more than run there at once
                stream = engine.generate(asked(max_tokens=CONTEXT - 100))
                assert isinstance(await anext(stream), Begun)
                await stream.aclose()
            await answer(engine, asked(max_tokens=1))

    run(scenario())
    run(until(lambda: figure(elsewhere, cancelled) == before + 3, seconds=20))


def test_who_leaves_while_the_prompt_is_read(elsewhere: Server) -> None:
    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            waiting = asyncio.create_task(answer(engine, asked("word " * 600, max_tokens=1000)))
            await until(lambda: engine.figures().replicas[0].requests == 1, seconds=20)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            await answer(engine, asked(max_tokens=1))

    run(scenario())


def test_a_deadline_that_passes(elsewhere: Server) -> None:
    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            past = asyncio.get_running_loop().time() - 1
            with pytest.raises(DeadlineExceeded):
                await answer(engine, asked(deadline=past))
            assert engine.figures().replicas[0].health is Health.HEALTHY

    run(scenario())


def test_as_many_as_are_asked_at_once_are_answered(elsewhere: Server) -> None:
    async def scenario() -> None:
        async with engine_of(elsewhere) as engine:
            alone = (await answer(engine, asked())).text
            together = await asyncio.gather(*(answer(engine, asked()) for _ in range(6)))
            assert [each.text for each in together] == [alone] * 6

    run(scenario())


# Dying


def at_home(known: Upstream, replica: int, count: int) -> list[str]:
    """Conversations that go to that replica as long as nobody is busy."""
    replicas, found = Replicas(known.urls), list[str]()
    for number in itertools.count():
        ticket = replicas.choose(beginning_of(asked(f"Conversation {number}").chat), 1)
        assert ticket is not None
        replicas.abandoned(ticket)
        if ticket.replica == replica:
            found.append(f"Conversation {number}")
        if len(found) == count:
            return found
    raise AssertionError


def test_killed_under_load_nothing_is_lost_but_its_begun_streams(
    model: Path, tmp_path: Path
) -> None:
    """Two replicas that run two answers each; two long and six short ones at each; one is killed
    while the long ones run and the short ones wait.
    """

    async def scenario(first: Server, second: Server) -> None:
        async with engine_of(first, second) as engine:
            begun: set[str] = set()

            async def stream(text: str, count: int) -> EndReason:
                async for part in engine.generate(asked(text, max_tokens=count)):
                    if isinstance(part, Begun):
                        begun.add(text)
                    if isinstance(part, Ended):
                        return part.reason
                raise AssertionError("a stream ended without a reason")

            def requests() -> list[int]:
                return [each.requests for each in engine.figures().replicas]

            for each in engine.upstream.urls:  # both are warm
                alone = UpstreamEngine(upstream(each))
                await answer(alone, asked(max_tokens=1))
                await alone.close()
            lost, kept = (at_home(engine.upstream, number, 8) for number in (0, 1))
            long = [asyncio.create_task(stream(each, 3500)) for each in (*lost[:2], *kept[:2])]
            await until(lambda: len(begun) == 4, seconds=30)
            short = [asyncio.create_task(stream(each, 8)) for each in (*lost[2:], *kept[2:])]
            await until(lambda: requests() == [8, 8], seconds=30)
            first.process.kill()
            outcomes = await asyncio.gather(*long, *short, return_exceptions=True)
            assert [type(each) for each in outcomes[:2]] == [UpstreamFailed] * 2
            assert outcomes[2:] == [EndReason.LENGTH] * 14
            figures = engine.figures()
            assert figures.retries == 6
            assert [each.health for each in figures.replicas] == [Health.EJECTED, Health.HEALTHY]
            assert await stream(lost[0], 8) is EndReason.LENGTH

    with (
        serving(tmp_path / "a", *LONG, str(model)) as first,
        serving(tmp_path / "b", *LONG, str(model)) as second,
    ):
        run(scenario(first, second), seconds=120)


def test_the_only_one_killed_in_the_middle_of_an_answer(model: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *FLAGS, str(model)) as server:

        async def scenario() -> None:
            async with engine_of(server) as engine:
                stream = engine.generate(asked(max_tokens=1500))
                assert isinstance(await anext(stream), Begun)
                server.process.kill()
                with pytest.raises(UpstreamFailed, match="broke the connection"):
                    async for _ in stream:
                        pass
                server.process.wait()
                with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
                    await answer(engine, asked())

        run(scenario(), seconds=60)
