"""An upstream that does well, one that does not, and one that means harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from freehold.domain.answers import (
    AnswerUsage,
    Begun,
    ContentDelta,
    Ended,
    EndReason,
    Part,
)
from freehold.domain.chat import ChatRequest, Conversation, Message, MessagesRequest, Role
from freehold.domain.errors import (
    DeadlineExceeded,
    FreeholdError,
    InvalidRequest,
    PromptTooLong,
    UpstreamFailed,
    UpstreamLimited,
    UpstreamUnavailable,
)
from freehold.domain.upstreams import Upstream
from freehold.engines.upstream import client
from freehold.engines.upstream.engine import Rhythm, UpstreamEngine
from freehold.engines.upstream.replicas import Health
from tests.support.fake_upstream import (
    DONE,
    HEAD,
    SAID,
    Answer,
    FakeUpstream,
    begins,
    chunk,
    event,
    fakes,
    hangs,
    last,
    refuses,
    streams,
    well,
)
from tests.support.running import run, until

KEY = "sk-do-not-show-me"
QUICK = Rhythm(check=0.05, silence=30.0, patience=20.0)
SLOW = Rhythm(check=60.0, silence=30.0, patience=0.05)


def asked(text: str = "Hello", **fields: Any) -> MessagesRequest:
    conversation = Conversation((Message(Role.USER, text),))
    return MessagesRequest("r", ChatRequest("big", conversation, **fields))


@contextlib.asynccontextmanager
async def engine_of(
    servers: list[FakeUpstream], rhythm: Rhythm = SLOW, **fields: Any
) -> AsyncIterator[UpstreamEngine]:
    urls = tuple(each.url for each in servers)
    engine = UpstreamEngine(Upstream("big", urls, "there", **fields), rhythm)
    try:
        yield engine
    finally:
        await engine.close()


async def answered(engine: UpstreamEngine, request: MessagesRequest | None = None) -> list[Part]:
    return [part async for part in engine.generate(request or asked())]


def text_of(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, ContentDelta))


def one(
    answer: Answer, request: MessagesRequest | None = None, rhythm: Rhythm = SLOW, **fields: Any
) -> list[Part]:
    """What one replica's ``answer`` comes to."""

    async def scenario() -> list[Part]:
        async with fakes() as servers, engine_of(servers, rhythm, **fields) as engine:
            servers[0].answer = answer
            return await answered(engine, request)

    return run(scenario())


def test_an_answer() -> None:
    parts = one(well)
    assert parts[:-1] == [Begun(0, 0), ContentDelta("All "), ContentDelta("well.")]
    ended = parts[-1]
    assert isinstance(ended, Ended)
    assert ended.reason is EndReason.STOP
    assert ended.usage == AnswerUsage(7, 3, 2, 1)


def test_what_is_sent_and_to_where() -> None:
    async def scenario() -> None:
        async with fakes() as servers, engine_of(servers, key=KEY) as engine:
            await answered(engine)
        (sent,) = servers[0].asked
        assert (sent.method, sent.path) == ("POST", "/v1/chat/completions")
        assert sent.headers["authorization"] == f"Bearer {KEY}"
        assert sent.json["model"] == "there"
        assert "cookie" not in sent.headers

    run(scenario())


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert text_of(one(well)) == "All well."


# What it refuses


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (
            refuses(400, {"error": {"message": "top_p is\n odd.", "param": "top_p"}}),
            InvalidRequest,
            "The upstream big says: top_p is odd.",
        ),
        (refuses(422, {"message": "No."}), InvalidRequest, "The upstream big says: No."),
        (refuses(400), InvalidRequest, "The upstream big says: HTTP 400."),
        (refuses(413, {"error": "too large"}), InvalidRequest, "too large"),
        (
            refuses(400, {"error": {"message": "Too long.", "code": "context_length_exceeded"}}),
            PromptTooLong,
            "The upstream big says: Too long.",
        ),
        (
            refuses(400, {"message": "This model's maximum context length is 8 tokens."}),
            PromptTooLong,
            "maximum context length is 8 tokens",
        ),
        (refuses(401, {"error": {"message": KEY}}), UpstreamUnavailable, "does not let us in"),
        (refuses(403), UpstreamUnavailable, "does not let us in"),
        (refuses(404), UpstreamUnavailable, "does not have its model"),
        (refuses(429), UpstreamLimited, "too much to do"),
        (refuses(503), UpstreamUnavailable, "cannot answer now"),
        (refuses(500, {"error": {"message": KEY}}), UpstreamFailed, "HTTP 500"),
        (refuses(302, None, Location="http://192.0.2.1/"), UpstreamFailed, "sends us elsewhere"),
        (refuses(200, {"choices": []}), UpstreamFailed, "another form than a stream"),
    ],
)
def test_refusals(answer: Answer, kind: type[FreeholdError], told: str) -> None:
    with pytest.raises(kind, match=told) as error:
        one(answer, key=KEY)
    assert KEY not in f"{error.value} {error.value.hint}"


def test_how_long_to_wait_is_passed_on() -> None:
    with pytest.raises(UpstreamLimited) as limited:
        one(refuses(429, None, Retry_After="17"))
    assert limited.value.retry_after == 17
    with pytest.raises(UpstreamUnavailable) as unavailable:
        one(refuses(503, None, Retry_After="99999999"))
    assert unavailable.value.retry_after == 5


def test_our_key_in_its_sentence_is_not_passed_on() -> None:
    with pytest.raises(InvalidRequest, match="the key … is"):
        one(refuses(400, {"error": {"message": f"the key {KEY} is"}}), key=KEY)


def test_a_refusal_of_a_request_says_nothing_about_the_replica() -> None:
    async def scenario() -> None:
        async with fakes(2) as servers, engine_of(servers) as engine:
            for each in servers:
                each.answer = refuses(400, {"message": "No."})
            for _ in range(5):
                with pytest.raises(InvalidRequest):
                    await answered(engine)
            assert sum(len(each.asked) for each in servers) == 5
            assert {each.health for each in engine.figures().replicas} == {Health.HEALTHY}

    run(scenario())


def test_a_key_that_is_not_there_is_said_before_anything_is_sent() -> None:
    with pytest.raises(UpstreamUnavailable, match="the variable BIG_KEY is not set"):
        one(well, key_variable="BIG_KEY")


def test_neither_what_was_said_nor_the_key_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "the treasure lies under the oak"
    echo = {"error": {"message": f"{secret} {KEY}"}}
    for answer in (
        *(refuses(status, echo) for status in (400, 401, 404, 429, 500, 503)),
        streams(*SAID, event(echo)),
        well,
    ):
        with contextlib.suppress(FreeholdError):
            one(answer, asked(secret), key=KEY)
    logged = caplog.text + "".join(str(record.args) for record in caplog.records)
    assert "HTTP 401" in logged
    assert secret not in logged
    assert KEY not in logged


# What makes no sense


async def _dribbles(_: Any, writer: asyncio.StreamWriter) -> None:
    """A byte now and then, and never a whole event."""
    writer.write(HEAD + SAID[1] + b"data: ")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def _floods(_: Any, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + SAID[1] + b"data: ")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (streams(*SAID), "its stream ends in the middle"),
        (streams(*SAID, b"data: [DONE]\n\n"), "its stream ends in the middle"),
        (streams(*SAID, b"data: nonsense\n\n"), "a chunk that is none"),
        (streams(*SAID, b'data: {"choices": 7}\n\n'), "a chunk that is none"),
        (streams(*SAID, event({"error": {"message": KEY}})), "an error in the middle"),
        (streams(*SAID, last("content_filter")), "an end that is none of ours"),
        (begins(*SAID), "fell silent"),
        (_dribbles, "fell silent"),
        (_floods, "more than an answer can be"),
        (streams(b"", head=b"nonsense\r\n\r\n"), "broke the connection"),
        (streams(b"", head=b"HTTP/1.1 200 OK\r\nContent-Le"), "broke the connection"),
        (
            streams(head=HEAD.replace(b"text/event-stream", b"text/html")),
            "another form than a stream",
        ),
        (
            streams(head=HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")),
            "it compresses",
        ),
    ],
)
def test_what_makes_no_sense_ends_the_answer(
    answer: Answer, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_BYTES", 1024 * 1024)
    with pytest.raises(UpstreamFailed, match=told) as error:
        one(answer, rhythm=replace(SLOW, silence=0.2 if told == "fell silent" else 30.0))
    assert KEY not in str(error.value)


def test_lines_may_come_in_any_pieces() -> None:
    whole = b": a comment\r\n\r\n" + b"".join((*SAID, last(), DONE)).replace(b"\n", b"\r\n")
    assert text_of(one(streams(*(bytes([each]) for each in whole)))) == "All well."


def test_what_it_does_not_count_is_counted_by_deltas() -> None:
    ended = one(streams(*SAID, last(), b"data: [DONE]\n\n"))[-1]
    assert isinstance(ended, Ended)
    assert ended.usage == AnswerUsage(0, 0, 2)


# Several replicas


@pytest.mark.parametrize(
    "answer",
    [
        refuses(500),
        refuses(401),
        refuses(404),
        refuses(429),
        refuses(503),
        streams(head=b""),
        streams(chunk(role="assistant", content="")),
        streams(b"data: nonsense\n\n"),
    ],
)
def test_before_the_first_token_another_replica_is_asked(answer: Answer) -> None:
    async def scenario() -> None:
        # Whichever is home errs, and the other one does not.
        async with fakes(2) as servers, engine_of(servers) as engine:
            await answered(engine)
            home = next(each for each in servers if each.asked)
            home.answers = [answer]
            parts = await answered(engine)
            assert text_of(parts) == "All well."
            assert sum(isinstance(part, Begun) for part in parts) == 1
            assert engine.figures().retries == 1

    run(scenario())


def test_after_the_first_token_nobody_else_is_asked() -> None:
    async def scenario() -> None:
        async with fakes(2) as servers, engine_of(servers) as engine:
            for each in servers:
                each.answer = streams(*SAID)
            with pytest.raises(UpstreamFailed):
                await answered(engine)
            assert sum(len(each.asked) for each in servers) == 1

    run(scenario())


def test_a_request_that_breaks_two_replicas_is_taken_to_no_third() -> None:
    async def scenario() -> None:
        async with fakes(4) as servers, engine_of(servers) as engine:
            for each in servers:
                each.answer = streams(head=b"")
            with pytest.raises(UpstreamFailed, match="broke the connection"):
                await answered(engine)
            assert sum(len(each.asked) for each in servers) == 2

    run(scenario())


def test_where_nobody_is_everybody_is_tried() -> None:
    async def scenario() -> None:
        async with fakes(4) as servers, engine_of(servers) as engine:
            await answered(engine)
            kept = next(each for each in servers if each.asked)
            for each in servers:
                if each is not kept:
                    await each.close()
            for number in range(20):
                await answered(engine, asked(f"Conversation {number}"))
            assert len(kept.asked) == 21

    run(scenario())


def test_one_that_dies_is_ejected_and_readmitted_when_it_is_back() -> None:
    async def scenario() -> None:
        async with fakes(2) as servers, engine_of(servers, QUICK) as engine:
            await servers[0].close()

            def healths() -> list[Health]:
                return [each.health for each in engine.figures().replicas]

            for number in range(10):
                await answered(engine, asked(f"{number}"))
            assert healths() == [Health.EJECTED, Health.HEALTHY]
            assert len(servers[1].asked) == 10
            await servers[0].open()
            await until(lambda: healths()[0] is Health.ON_PROBATION, seconds=20)
            for number in range(10):
                await answered(engine, asked(f"{number}"))
            assert healths() == [Health.HEALTHY, Health.HEALTHY]
            assert servers[0].asked
            assert engine.figures().replicas[0].ejections == 1

    run(scenario())


def test_where_the_only_one_dies_requests_wait_for_it_a_while() -> None:
    async def scenario() -> None:
        async with fakes() as servers, engine_of(servers, QUICK) as engine:
            await servers[0].close()
            with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
                await answered(engine)
            waiting = asyncio.create_task(answered(engine))
            await servers[0].open()
            assert text_of(await waiting) == "All well."

    run(scenario())


def test_where_nobody_comes_back_they_are_told_when_to_come() -> None:
    async def scenario() -> None:
        async with fakes() as servers, engine_of(servers) as engine:
            await servers[0].close()
            with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
                await answered(engine)
            with pytest.raises(UpstreamUnavailable, match="No replica of the upstream") as error:
                await answered(engine)
            assert error.value.retry_after == 1

    run(scenario())


def test_one_that_hangs_is_found_out_by_checks_and_its_requests_go_elsewhere() -> None:
    async def scenario() -> None:
        async with fakes(2) as servers, engine_of(servers, QUICK) as engine:
            await answered(engine)
            home = next(each for each in servers if each.asked)
            home.answer = hangs
            waiting = asyncio.create_task(answered(engine))
            home.arrived.clear()
            await home.arrived.wait()
            home.models = refuses(500)
            assert text_of(await waiting) == "All well."
            await home.departed.wait()

    run(scenario())


def test_a_conversation_stays_where_its_beginning_is() -> None:
    async def scenario() -> None:
        async with fakes(4) as servers, engine_of(servers) as engine:
            for number in range(12):
                first = Message(Role.USER, f"Conversation {number}")
                turns: tuple[Message, ...] = (first,)
                before = [len(each.asked) for each in servers]
                for _ in range(3):
                    chat = ChatRequest("big", Conversation(turns))
                    await answered(engine, MessagesRequest("r", chat))
                    turns = (*turns, Message(Role.ASSISTANT, "A"), Message(Role.USER, "B"))
                after = [len(each.asked) for each in servers]
                assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0, 0, 0, 3]
            assert sum(bool(each.asked) for each in servers) > 1

    run(scenario())


# Leaving


@pytest.mark.parametrize("answer", [begins(*SAID), hangs])
def test_who_leaves_closes_the_connection_at_once(answer: Answer) -> None:
    async def scenario() -> None:
        async with fakes() as servers, engine_of(servers) as engine:
            servers[0].answer = answer
            task = asyncio.create_task(answered(engine))
            await servers[0].arrived.wait()
            task.cancel()
            await servers[0].departed.wait()
            with pytest.raises(asyncio.CancelledError):
                await task
            (replica,) = engine.figures().replicas
            assert (replica.requests, replica.health) == (0, Health.HEALTHY)

    run(scenario())


def test_closing_the_iterator_closes_the_connection() -> None:
    async def scenario() -> None:
        async with fakes() as servers, engine_of(servers) as engine:
            servers[0].answer = begins(*SAID)
            stream = engine.generate(asked())
            assert isinstance(await anext(stream), Begun)
            await stream.aclose()
            await servers[0].departed.wait()

    run(scenario())


@pytest.mark.parametrize("answer", [hangs, begins(chunk(role="assistant", content=""))])
def test_a_deadline_is_for_the_first_token(answer: Answer) -> None:
    async def scenario() -> None:
        deadline = asyncio.get_running_loop().time() + 0.05
        async with fakes() as servers, engine_of(servers) as engine:
            servers[0].answer = answer
            with pytest.raises(DeadlineExceeded):
                await answered(engine, asked(deadline=deadline))
            # It may have passed before anything was sent.
            await until(lambda: servers[0].left == len(servers[0].asked), seconds=20)
            (replica,) = engine.figures().replicas
            assert (replica.requests, replica.health) == (0, Health.HEALTHY)

    run(scenario())


def test_closing_ends_the_checks() -> None:
    async def scenario() -> None:
        async with fakes() as servers:
            async with engine_of(servers, QUICK) as engine:
                engine.start()
                await until(lambda: servers[0].checks > 2, seconds=20)
            await engine.close()
            with pytest.raises(UpstreamUnavailable, match="stopping"):
                await answered(engine)

    run(scenario())


def test_its_context_is_learnt_from_its_list_of_models() -> None:
    async def scenario() -> None:
        async with fakes() as servers, engine_of(servers) as engine:
            servers[0].models = refuses(200, {"data": [{"id": "there", "max_model_len": 4096}]})
            learnt = [engine.context]
            await engine.check()
            assert [*learnt, engine.context] == [None, 4096]
        async with fakes() as servers, engine_of(servers, context=1000) as engine:
            await engine.check()
            assert engine.context == 1000

    run(scenario())


# Vectors


def vectors(*found: list[float]) -> Answer:
    data = [{"index": number, "embedding": each} for number, each in enumerate(found)]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 5}}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    return streams(body, head=head)


def test_vectors_have_length_1() -> None:
    async def scenario() -> None:
        async with fakes() as servers, engine_of(servers) as engine:
            servers[0].answer = vectors([3.0, 4.0], [0.0, 2.0])
            found, tokens = await engine.embed(["a", "b"], None)
            assert tokens == 5
            assert all(math.isclose(math.hypot(*each), 1.0) for each in found)
            assert servers[0].asked[0].json == {"model": "there", "input": ["a", "b"]}
            for answer in (vectors([1.0]), streams(b"nonsense", head=HEAD), vectors([], [])):
                servers[0].answer = answer
                with pytest.raises(UpstreamFailed):
                    await engine.embed(["a", "b"], None)

    run(scenario())
