"""What every engine does, held for each of them alike."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from freehold.domain.chat import AdapterUse, EmbedRequest, GenerateRequest
from freehold.domain.errors import (
    DeadlineExceeded,
    EngineCrashed,
    EngineError,
    InvalidRequest,
    LoadFailed,
    PromptTooLong,
    RefusedFile,
)
from freehold.domain.events import (
    Event,
    Finished,
    FinishReason,
    PromptProcessed,
    TextDelta,
    TokenLogprob,
    Usage,
)
from freehold.domain.sampling import Constraint, Grammar, Sampling
from freehold.engines.base import Adapter, Capability, Engine, EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine
from freehold.engines.scripted import Script, ScriptedEngine
from tests.support import running
from tests.support import vllm as vllm_support
from tests.support.adapters import write_lora
from tests.support.endless import write_endless_llama
from tests.support.running import collect, until

CONTEXT = 8192
# One number for all tests in which several run at once, and another for all that embed: a vLLM
# server is started for each (context, parallel), so tests that ask for the same stand together.
MANY = 3
EMBEDDED = 1024
# What starts a vLLM server waits for it: half a minute, and several where the machine is busy.
run = functools.partial(running.run, seconds=vllm_support.START_SECONDS)
# What has learnt to end its turn goes on all the same.
GREEDY = Sampling(temperature=0, ignore_end=True)
MAY_END = Sampling(temperature=0)
PROMPT = tuple(range(65, 65 + 26))


@dataclass
class Subject:
    """One engine under test. Its answers go on for seconds unless they are limited."""

    name: str
    make: Callable[[int, int], Engine]  # context, parallel
    broken: Callable[[], Engine]  # one that cannot be loaded
    kill: Callable[[Engine], None]
    # One that may be killed or closed; None: as ``make``.
    own: Callable[[int, int], Engine] | None = None
    # Seconds in which a short answer comes, behind the step that runs.
    short: float = 1.0
    # Prompts are so many times as long where prefixes are kept in blocks of many tokens.
    grain: int = 1
    # How near two tokens' log-probabilities are if the order of sums decides between them; None:
    # it never does, with such a model.
    tie: float | None = None
    # What two vectors of the same text have in common at least.
    alike: float = 0.9999
    # One that embeds, where those that write cannot; None: as ``make``.
    embedder: Callable[[int, int], Engine] | None = None
    # Writes a LoRA adapter for it: (folder, seed).
    lora: Callable[[Path, int], Adapter] | None = None
    skipped: dict[str, list[str]] = field(default_factory=dict)
    embeds_apart: bool = False  # whether the one that embeds was asked for

    def expendable(self, context: int, parallel: int) -> Engine:
        """One that the test ends."""
        return (self.own or self.make)(context, parallel)


def scripted() -> Subject:
    pieces = tuple(f"word {number}, " for number in range(9000))

    def kill(engine: Engine) -> None:
        assert isinstance(engine, ScriptedEngine)
        engine.crash()

    return Subject(
        "scripted",
        lambda context, parallel: ScriptedEngine(
            lambda _: Script(pieces=pieces, token_seconds=0.001),
            context=context,
            parallel=parallel,
        ),
        lambda: ScriptedEngine(lambda _: Script(load_error="The script says no.")),
        kill,
    )


def llama_cpp(folder: Path) -> Subject:
    # Slow enough that a whole answer takes seconds.
    model = write_endless_llama(folder / "endless.gguf", layers=16, context_length=CONTEXT)
    broken = folder / "broken.gguf"
    broken.write_bytes(model.read_bytes()[:1000])

    def kill(engine: Engine) -> None:
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)

    return Subject(
        "llama.cpp",
        lambda context, parallel: LlamaCppEngine(
            EngineConfig("endless", (str(model),), context, parallel, threads=1)
        ),
        lambda: LlamaCppEngine(EngineConfig("broken", (str(broken),), 128, 1, threads=1)),
        kill,
        lora=lambda folder, seed: write_lora(
            folder / f"adapter-{seed}.gguf", width=128, layers=16, seed=seed
        ),
    )


def vllm(folder: Path) -> Subject:
    made = CLEANUP.enter_context(vllm_support.servers(vllm_support.home()))
    return Subject(
        "vLLM",
        made.make,
        lambda: made.broken(folder),  # an empty folder
        vllm_support.kill,
        own=made.own,
        short=8.0,
        grain=10,  # blocks of 128
        tie=0.25,  # bfloat16 keeps 8 bits: 1/256 of a logit of some 20, in each of many sums
        alike=0.999,  # batched and alone, in bfloat16
        embedder=made.embedder,
        lora=vllm_support.write_lora,
    )


SUBJECTS: dict[str, Subject] = {}
CLEANUP = contextlib.ExitStack()
MAKERS: dict[str, Callable[[Path], Subject]] = {
    "scripted": lambda _: scripted(),
    "llama.cpp": llama_cpp,
    "vLLM": vllm,
}


@pytest.fixture(
    params=[
        "scripted",
        pytest.param("llama.cpp", marks=pytest.mark.native),
        pytest.param("vLLM", marks=pytest.mark.vllm),
    ],
)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    name: str = request.param
    if name not in SUBJECTS:
        SUBJECTS[name] = MAKERS[name](tmp_path_factory.mktemp("models"))
    return SUBJECTS[name]


@pytest.fixture(scope="module", autouse=True)
def matrix(pytestconfig: pytest.Config) -> Iterator[None]:
    """Prints, at the end, what each engine declares and what was skipped for it."""
    yield
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n")
        for subject in SUBJECTS.values():
            features = _declared(subject.make(CONTEXT, 1))
            print(f"{subject.name:>10}: {', '.join(sorted(features))}")
            if subject.embedder is not None and subject.embeds_apart:
                features = _declared(subject.embedder(EMBEDDED, 1))
                print(f"{'':>10}  or, started to embed: {', '.join(sorted(features))}")
            for capability, tests in sorted(subject.skipped.items()):
                print(f"{'':>10}  without {capability}, so not tested: {', '.join(tests)}")
    CLEANUP.close()


def _declared(engine: Engine) -> frozenset[Capability]:
    async def ask() -> frozenset[Capability]:
        await engine.load()
        features = engine.capabilities.features
        await engine.close()
        return features

    return run(ask())


@contextlib.asynccontextmanager
async def loaded(
    subject: Subject,
    *,
    parallel: int = 1,
    context: int = CONTEXT,
    make: Callable[[int, int], Engine] | None = None,
) -> AsyncIterator[Engine]:
    engine = (make or subject.make)(context, parallel)
    await engine.load()
    try:
        yield engine
    finally:
        await engine.close()


def needs(subject: Subject, engine: Engine, capability: Capability, test: str) -> None:
    if capability not in engine.capabilities.features:
        subject.skipped.setdefault(capability, []).append(test)
        pytest.skip(f"{subject.name} does not declare {capability}")


def asked(
    name: str = "A",
    prompt: tuple[int, ...] = PROMPT,
    max_tokens: int = 24,
    sampling: Sampling = GREEDY,
    *,
    scope: str = "local",
    deadline: float | None = None,
) -> GenerateRequest:
    return GenerateRequest(name, prompt, max_tokens, sampling, cache_scope=scope, deadline=deadline)


@dataclass(frozen=True)
class Answered:
    text: str
    tokens: tuple[int, ...]
    usage: Usage
    reason: FinishReason
    seed: int | None


async def answer(engine: Engine, request: GenerateRequest) -> Answered:
    events = await collect(engine.generate(request))
    deltas = [event for event in events if isinstance(event, TextDelta)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    return Answered(
        "".join(delta.text for delta in deltas),
        tuple(token for delta in deltas for token in delta.tokens),
        finished.usage,
        finished.reason,
        finished.seed,
    )


async def begun(engine: Engine, name: str = "endless") -> AsyncGenerator[Event, None]:
    """A stream that has begun and has seconds to go."""
    stream = engine.generate(asked(name, max_tokens=CONTEXT - 100))
    assert isinstance(await anext(stream), PromptProcessed)
    assert isinstance(await anext(stream), TextDelta)
    return stream


@contextlib.asynccontextmanager
async def embedding(subject: Subject) -> AsyncIterator[Engine]:
    subject.embeds_apart = subject.embedder is not None
    async with loaded(subject, context=EMBEDDED, make=subject.embedder) as engine:
        yield engine


def cosine(left: tuple[float, ...], right: tuple[float, ...]) -> float:
    """Of vectors of length 1."""
    return sum(x * y for x, y in zip(left, right, strict=True))


async def served(engine: Engine, name: str = "next") -> float:
    """Seconds a short request takes."""
    started = time.monotonic()
    result = await answer(engine, asked(name, max_tokens=3))
    assert result.usage.completion_tokens == 3
    return time.monotonic() - started


# What is said


def test_events_come_in_order(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            events = await collect(engine.generate(asked()))
            first, *deltas, last = events
            assert isinstance(first, PromptProcessed)
            assert isinstance(last, Finished)
            assert deltas
            assert all(isinstance(delta, TextDelta) for delta in deltas)

    run(scenario())


def test_the_counts_are_right(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            events = await collect(engine.generate(asked()))
            first, last = events[0], events[-1]
            assert isinstance(first, PromptProcessed)
            assert isinstance(last, Finished)
            tokens = [t for e in events if isinstance(e, TextDelta) for t in e.tokens]
            assert first.prompt_tokens == last.usage.prompt_tokens == len(PROMPT)
            assert first.cached_tokens == last.usage.cached_tokens == 0
            assert last.usage.completion_tokens == len(tokens) == 24
            timings = last.timings
            assert min(timings.queued, timings.prefill, timings.decode) >= 0
            assert timings.decode > 0

    run(scenario())


@pytest.mark.parametrize("count", [1, 2, 30])
def test_max_tokens_ends_the_answer(subject: Subject, count: int) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            result = await answer(engine, asked(max_tokens=count))
            assert result.reason is FinishReason.LENGTH
            assert len(result.tokens) == result.usage.completion_tokens == count

    run(scenario())


def test_the_context_ends_the_answer(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject, context=64) as engine:
            assert engine.capabilities.context == 64
            result = await answer(engine, asked(max_tokens=1000))
            assert result.reason is FinishReason.LENGTH
            assert len(result.tokens) == 64 - len(PROMPT)

    run(scenario())


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            needs(subject, engine, Capability.STOP, "stop strings")
            whole = await answer(engine, asked())
            stop = whole.text[9:13]
            assert len(stop) == 4
            cut = await answer(engine, asked(sampling=Sampling(temperature=0, stop=(stop,))))
            assert cut.reason is FinishReason.STOP
            assert cut.text == whole.text[: whole.text.find(stop)]
            assert cut.tokens == whole.tokens[: len(cut.tokens)]
            assert cut.usage.completion_tokens == len(cut.tokens) < len(whole.tokens)
            other = Sampling(temperature=0, stop=("never said", whole.text[-1] + "never"))
            assert (await answer(engine, asked(sampling=other))).text == whole.text

    run(scenario())


# The same again


def test_the_same_seed_says_the_same(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            needs(subject, engine, Capability.SEED, "seeds")
            seeded = Sampling(temperature=1.0, seed=42)
            first = await answer(engine, asked(sampling=seeded, scope="first"))
            second = await answer(engine, asked(sampling=seeded, scope="second"))
            assert first == second
            assert first.seed == 42

    run(scenario())


def test_the_seed_that_is_told_can_be_given(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            needs(subject, engine, Capability.SEED, "fresh seeds")
            first = await answer(engine, asked(sampling=Sampling(temperature=1.0), scope="first"))
            again = Sampling(temperature=1.0, seed=first.seed)
            assert await answer(engine, asked(sampling=again, scope="second")) == first

    run(scenario())


def test_greedy_says_the_same_cached_or_fresh(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            fresh = [await answer(engine, asked(scope=scope, max_tokens=48)) for scope in "AB"]
            cached = [await answer(engine, asked(scope="B", max_tokens=48)) for _ in range(3)]
            assert {result.tokens for result in [*fresh, *cached]} == {fresh[0].tokens}
            assert {result.text for result in [*fresh, *cached]} == {fresh[0].text}

    run(scenario())


def _tokens(events: list[Event]) -> list[int]:
    return [token for event in events if isinstance(event, TextDelta) for token in event.tokens]


def _logprobs(events: list[Event]) -> list[TokenLogprob]:
    return [one for event in events if isinstance(event, TextDelta) for one in event.logprobs]


# Many at once


def test_as_many_run_at_once_as_declared_and_the_rest_wait(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject, parallel=MANY) as engine:
            assert engine.capabilities.parallel == MANY
            streams = [await begun(engine, str(number)) for number in range(MANY)]
            another = asyncio.create_task(served(engine))
            for stream in streams * 3:
                assert isinstance(await anext(stream), TextDelta)
            assert not another.done()
            first, *others = streams
            await first.aclose()
            assert await another < 5 * subject.short
            for stream in others:
                assert isinstance(await anext(stream), TextDelta)
                await stream.aclose()

    run(scenario())


def test_a_seed_holds_where_the_prompt_is_read_in_several_steps(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject, parallel=MANY) as engine:
            needs(subject, engine, Capability.SEED, "seeds and long prompts")
            long = tuple(number % 200 for number in range(700))
            seeded = Sampling(temperature=1.0, seed=42)

            def ask(scope: str) -> GenerateRequest:
                return asked(f"{scope} long", long, sampling=seeded, scope=scope)

            first = await answer(engine, ask("one"))
            again = await answer(engine, ask("two"))
            assert first.tokens == again.tokens
            # Others read theirs in the same steps; then sums may come out otherwise, and the
            # answers may part, but all of them come.
            for result in await asyncio.gather(*(answer(engine, ask(scope)) for scope in "ABC")):
                assert result.seed == 42
                assert result.usage.completion_tokens > 0

    run(scenario())


def test_greedy_says_the_same_batched_or_alone(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject, parallel=MANY) as engine:
            prompts = [PROMPT, tuple(range(100, 170)), (7, 8, 9) * 15]
            top = None if subject.tie is None else 5

            def ask(when: str, number: int) -> GenerateRequest:
                asking = asked(str(number), prompts[number], 48, scope=f"{when} {number}")
                return replace(asking, top_logprobs=top)

            alone = [
                await collect(engine.generate(ask("alone", number)))
                for number in range(len(prompts))
            ]
            together = await asyncio.gather(
                *(
                    collect(engine.generate(ask("together", number)))
                    for number in range(len(prompts))
                )
            )
            for one, other in zip(alone, together, strict=True):
                require_same(_tokens(one), _tokens(other), _logprobs(one), subject.tie)

    run(scenario())


def require_same(
    one: list[int], other: list[int], logprobs: list[TokenLogprob], tie: float | None
) -> None:
    """Equal; or, with a ``tie``, equal up to a token that came as near as that."""
    if tie is None:
        assert one == other
        return
    for left, right, seen in zip(one, other, logprobs, strict=False):
        if left != right:
            near = {each.token: each.logprob for each in seen.top}
            assert near.get(right, -math.inf) >= seen.chosen.logprob - tie
            return


def test_a_prefix_is_computed_once_and_never_shared_across_scopes(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject, parallel=MANY) as engine:
            short = PROMPT * subject.grain
            long = short * 3
            cached = [
                (await answer(engine, asked(prompt=prompt, scope=scope))).usage.cached_tokens
                for prompt, scope in [
                    (short, "ours"),
                    (long, "ours"),
                    (long, "ours"),
                    (long, "theirs"),
                    (long, "nobody's"),
                    (long, "anybody's"),
                    (long, "ours"),
                ]
            ]
            if Capability.PREFIX_CACHE not in engine.capabilities.features:
                assert cached == [0] * 7
            needs(subject, engine, Capability.PREFIX_CACHE, "prefix cache")
            first, longer, again, *others, late = cached
            assert first == 0
            assert others == [0] * MANY  # as many as there are streams
            assert late == again  # its stream was needed meanwhile, and it was kept elsewhere
            assert 0 < longer <= len(short)
            assert longer < again < len(long)

    run(scenario())


def test_adapters_change_the_answers_of_who_names_them(subject: Subject, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with loaded(subject, parallel=MANY) as engine:
            needs(subject, engine, Capability.ADAPTERS, "adapters in force")
            assert subject.lora is not None
            adapters = [subject.lora(tmp_path, seed) for seed in (1, 2)]
            uses = ((), *((AdapterUse(each.name),) for each in adapters))

            def ask(use: tuple[AdapterUse, ...], scope: str) -> GenerateRequest:
                return replace(asked(f"{use} {scope}", scope=scope), adapters=use)

            bare = await answer(engine, ask((), "before"))
            for adapter in adapters:
                await engine.add_adapter(adapter)
            with pytest.raises(InvalidRequest):
                await engine.add_adapter(adapters[0])
            apart = [await answer(engine, ask(use, "apart")) for use in uses]
            assert len({each.tokens for each in apart}) == 3
            assert apart[0].tokens == bare.tokens
            together = await asyncio.gather(*(answer(engine, ask(use, "apart")) for use in uses))
            if subject.tie is None:
                assert [each.tokens for each in together] == [each.tokens for each in apart]
            await engine.remove_adapter(adapters[0].name)
            with pytest.raises(InvalidRequest) as caught:
                await answer(engine, ask(uses[1], "after"))
            assert caught.value.field == "adapters"
            # Another under the same name is another, whatever is kept of the first.
            other = replace(adapters[1], name=adapters[0].name)
            await engine.add_adapter(other)
            assert (await answer(engine, ask(uses[1], "apart"))).tokens == apart[2].tokens
            for name in (adapters[0].name, adapters[1].name):
                await engine.remove_adapter(name)
            assert (await answer(engine, ask((), "after"))).tokens == bare.tokens

    run(scenario())


# Cancelled means stopped


def test_closing_the_iterator_frees_the_sequence(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            for number in range(3):
                stream = await begun(engine, str(number))
                await stream.aclose()
                assert await served(engine) < subject.short

    run(scenario())


def test_cancelled_while_it_reads_the_prompt(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            long = tuple(number % 250 for number in range(CONTEXT - 200))
            reading = asyncio.create_task(answer(engine, asked("long", long)))
            await asyncio.sleep(0.01)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert await served(engine) < subject.short

    run(scenario())


def test_cancelled_while_it_waits(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            stream = await begun(engine)
            waiting = asyncio.create_task(answer(engine, asked("waits")))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert isinstance(await anext(stream), TextDelta)
            await stream.aclose()
            assert await served(engine) < subject.short

    run(scenario())


# Deadlines


def test_a_deadline_that_has_passed(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            now = asyncio.get_running_loop().time()
            with pytest.raises(DeadlineExceeded):
                await collect(engine.generate(asked(deadline=now - 1)))
            assert await served(engine) < subject.short

    run(scenario())


def test_a_deadline_that_passes_in_the_queue(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            stream = await begun(engine)
            soon = asyncio.get_running_loop().time() + 0.05
            with pytest.raises(DeadlineExceeded):
                await collect(engine.generate(asked("late", deadline=soon)))
            assert isinstance(await anext(stream), TextDelta)
            await stream.aclose()
            assert await served(engine) < subject.short

    run(scenario())


def test_a_deadline_is_for_the_beginning(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            wait = subject.short / 2
            soon = asyncio.get_running_loop().time() + wait
            stream = engine.generate(asked(max_tokens=CONTEXT - 100, deadline=soon))
            await anext(stream)
            await asyncio.sleep(wait + 0.1)
            assert isinstance(await anext(stream), TextDelta)
            assert isinstance(await anext(stream), TextDelta)
            await stream.aclose()

    run(scenario())


# Refusals


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 1, 3 * CONTEXT])
def test_a_prompt_that_does_not_fit(subject: Subject, length: int) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            with pytest.raises(PromptTooLong) as caught:
                await collect(engine.generate(asked(prompt=(65,) * length)))
            assert str(length) in caught.value.message
            assert await served(engine) < subject.short

    run(scenario())


def test_an_empty_prompt(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            with pytest.raises(InvalidRequest):
                await collect(engine.generate(asked(prompt=())))
            assert await served(engine) < subject.short

    run(scenario())


@pytest.mark.parametrize("token", [288, 10**6, -1])
def test_tokens_that_are_none_end_that_request_only(subject: Subject, token: int) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            with contextlib.suppress(EngineError, InvalidRequest):
                await collect(engine.generate(asked(prompt=(65, token, 65))))
            assert engine.failure is None
            assert await served(engine) < subject.short

    run(scenario())


# What is declared works, and what is not is refused


def test_embedding(subject: Subject) -> None:
    async def scenario() -> None:
        async with embedding(subject) as engine:
            if Capability.EMBED not in engine.capabilities.features:
                with pytest.raises(InvalidRequest):
                    await engine.embed(EmbedRequest("E", (PROMPT,)))
            needs(subject, engine, Capability.EMBED, "embedding")
            # One longer than a slice, among short ones.
            inputs = (PROMPT, PROMPT[:1], PROMPT * 30, PROMPT[::-1], PROMPT)
            together = await engine.embed(EmbedRequest("E", inputs))
            assert len(together) == len(inputs)
            for number, (tokens, vector) in enumerate(zip(inputs, together, strict=True)):
                assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
                (alone,) = await engine.embed(EmbedRequest(f"E{number}", (tokens,)))
                assert cosine(alone, vector) > subject.alike
            assert cosine(together[0], together[2]) < subject.alike

    run(scenario())


def test_what_cannot_be_embedded_is_refused(subject: Subject) -> None:
    async def scenario() -> None:
        async with embedding(subject) as engine:
            needs(subject, engine, Capability.EMBED, "refused embedding")
            await engine.embed(EmbedRequest("fits", ((65,) * EMBEDDED,)))
            long = EMBEDDED + 1
            expected = rf"Input 1 has {long} tokens .* holds {EMBEDDED}\."
            with pytest.raises(PromptTooLong, match=expected):
                await engine.embed(EmbedRequest("long", (PROMPT, (65,) * long)))
            for inputs in ((), (PROMPT, ())):
                with pytest.raises(InvalidRequest) as caught:
                    await engine.embed(EmbedRequest("empty", inputs))
                assert caught.value.field == "input"

    run(scenario())


def test_embedding_and_generating_take_turns(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            needs(subject, engine, Capability.EMBED, "embedding beside streams")
            stream = await begun(engine)
            (vector,) = await engine.embed(EmbedRequest("E", (PROMPT,)))
            assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
            assert isinstance(await anext(stream), TextDelta)
            await stream.aclose()

    run(scenario())


def test_an_embedding_nobody_waits_for_is_dropped(subject: Subject) -> None:
    async def scenario() -> None:
        async with embedding(subject) as engine:
            needs(subject, engine, Capability.EMBED, "dropped embedding")
            many = EmbedRequest("many", (PROMPT * 10,) * 1000)  # tens of seconds of work
            task = asyncio.create_task(engine.embed(many))
            await asyncio.sleep(0.2)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            started = time.monotonic()
            await engine.embed(EmbedRequest("one", (PROMPT,)))
            assert time.monotonic() - started < subject.short

    run(scenario())


def test_who_only_embeds_writes_nothing(subject: Subject) -> None:
    async def scenario() -> None:
        if subject.embedder is None:
            pytest.skip(f"{subject.name} embeds and writes in one")
        async with embedding(subject) as engine:
            with pytest.raises(InvalidRequest):
                await collect(engine.generate(asked()))

    run(scenario())


def test_an_adapter_that_is_not_there(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            request = replace(asked(max_tokens=3), adapters=(AdapterUse("x"),))
            with pytest.raises((InvalidRequest, EngineError)) as caught:
                await collect(engine.generate(request))
            assert isinstance(caught.value, InvalidRequest)
            assert caught.value.field == "adapters"
            needs(subject, engine, Capability.ADAPTERS, "adapters")
            with pytest.raises(InvalidRequest):
                await engine.remove_adapter("x")

    run(scenario())


def test_what_is_no_adapter_is_refused(subject: Subject, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            needs(subject, engine, Capability.ADAPTERS, "refused adapters")
            assert subject.lora is not None
            adapter = subject.lora(tmp_path, 1)
            path = Path(adapter.path)
            path.write_bytes(path.read_bytes()[:-100])
            with pytest.raises((InvalidRequest, RefusedFile, EngineError)):
                await engine.add_adapter(adapter)
            path.write_bytes(b"\x80\x04" + bytes(1000))  # a pickle
            with pytest.raises((InvalidRequest, RefusedFile, EngineError)):
                await engine.add_adapter(adapter)
            assert await served(engine) < subject.short

    run(scenario())


def test_log_probabilities_of_the_prompt(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            needs(subject, engine, Capability.LOGPROBS, "log-probabilities of the prompt")
            events = await collect(engine.generate(replace(asked(), top_logprobs=3)))
            said = [each.chosen for each in _logprobs(events)]
            prompt = (*PROMPT, *(each.token for each in said))
            again = replace(asked("again", prompt, max_tokens=2), prompt_logprobs=3)
            first, *_, last = await collect(engine.generate(again))
            assert isinstance(first, PromptProcessed)
            assert isinstance(last, Finished)
            assert [each.chosen.token for each in first.logprobs] == list(prompt[1:])
            assert all(len(each.top) == 3 for each in first.logprobs)
            assert all(
                [one.logprob for one in each.top] == sorted(o.logprob for o in each.top)[::-1]
                for each in first.logprobs
            )
            # What was said has, as a prompt, the probabilities that it was said with.
            apart = [
                abs(read.chosen.logprob - wrote.logprob)
                for read, wrote in zip(first.logprobs[-len(said) :], said, strict=True)
            ]
            assert max(apart) < (subject.tie or 0.02)

    run(scenario())


def test_logprobs(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            request = replace(asked(max_tokens=5, sampling=MAY_END), top_logprobs=3)
            if Capability.LOGPROBS not in engine.capabilities.features:
                with pytest.raises(InvalidRequest):
                    await collect(engine.generate(request))
            needs(subject, engine, Capability.LOGPROBS, "log-probabilities")
            events = await collect(engine.generate(request))
            told = _logprobs(events)
            assert [one.chosen.token for one in told] == _tokens(events) != []
            for one in told:
                best = [each.logprob for each in one.top]
                assert best == sorted(best, reverse=True)
                assert len(best) == 3
                assert one.chosen.logprob == pytest.approx(best[0])  # greedy
                assert sum(map(math.exp, best)) <= 1.001

    run(scenario())


def test_a_schema_holds(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            schema = Constraint(Grammar.JSON_SCHEMA, '{"enum": ["no such word"]}')
            request = replace(asked(max_tokens=60, sampling=MAY_END), constraint=schema)
            if Capability.CONSTRAINTS not in engine.capabilities.features:
                with pytest.raises(InvalidRequest):
                    await collect(engine.generate(request))
            needs(subject, engine, Capability.CONSTRAINTS, "schemas")
            said = await answer(engine, request)
            assert json.loads(said.text) == "no such word"
            assert said.reason is FinishReason.STOP

    run(scenario())


def test_everything_can_be_generated_from(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject) as engine:
            assert Capability.GENERATE in engine.capabilities.features

    run(scenario())


# Ends


def test_closing_what_was_never_loaded(subject: Subject) -> None:
    run(subject.make(CONTEXT, 1).close())


def test_closing_ends_every_stream_and_may_be_done_twice(subject: Subject) -> None:
    async def scenario() -> None:
        engine = subject.expendable(CONTEXT, 1)
        await engine.load()
        pid = engine.pid
        stream = await begun(engine)
        waiting = asyncio.create_task(answer(engine, asked("waits")))
        await asyncio.sleep(0.01)
        await engine.close()
        with pytest.raises(EngineCrashed):
            await collect(stream)
        with pytest.raises(EngineCrashed):
            await waiting
        with pytest.raises(EngineCrashed):
            await collect(engine.generate(asked("late")))
        await engine.close()
        assert pid is None or not psutil.pid_exists(pid)

    run(scenario())


def test_when_it_dies_every_stream_ends_with_that(subject: Subject) -> None:
    async def scenario() -> None:
        engine = subject.expendable(CONTEXT, 2)
        await engine.load()
        before: object = engine.failure
        assert before is None
        streams = [await begun(engine, name) for name in "AB"]
        waiting = asyncio.create_task(answer(engine, asked("waits")))
        await asyncio.sleep(0.01)
        subject.kill(engine)
        for stream in streams:
            with pytest.raises(EngineCrashed):
                await collect(stream)
        with pytest.raises(EngineCrashed):
            await waiting
        assert isinstance(engine.failure, EngineCrashed)
        with pytest.raises(EngineCrashed):
            await collect(engine.generate(asked("late")))
        await engine.close()

    run(scenario())


def test_a_death_while_idle_is_noticed(subject: Subject) -> None:
    async def scenario() -> None:
        async with loaded(subject, make=subject.expendable) as engine:
            assert await served(engine) < subject.short
            subject.kill(engine)
            await until(lambda: engine.failure is not None)

    run(scenario())


def test_what_cannot_be_loaded_says_why(subject: Subject) -> None:
    async def scenario() -> None:
        engine = subject.broken()
        with pytest.raises(LoadFailed) as caught:
            await engine.load()
        assert caught.value.message.endswith(".")
        assert len(caught.value.message.split()) > 3
        pid = engine.pid
        await engine.close()
        assert pid is None or not psutil.pid_exists(pid)

    run(scenario())


@pytest.mark.native
def test_a_worker_that_dies_while_it_loads() -> None:
    async def scenario() -> None:
        engine = LlamaCppEngine(EngineConfig("model", ("/nowhere.gguf",), 128, 1, threads=1))
        loading = asyncio.create_task(engine.load())
        await until(lambda: engine.pid is not None)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineCrashed, match="SIGKILL") as caught:
            await loading
        assert caught.value.hint is not None
        await engine.close()

    run(scenario())


@pytest.mark.native
@pytest.mark.parametrize("content", [None, b"", b"GGUF", b"not a model" * 1000])
def test_files_that_are_no_models(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "thing.gguf"
    if content is not None:
        path.write_bytes(content)

    async def scenario() -> None:
        engine = LlamaCppEngine(EngineConfig("thing", (str(path),), 128, 1, threads=1))
        with pytest.raises(LoadFailed, match=r"thing\.gguf"):
            await engine.load()
        await engine.close()

    run(scenario())
