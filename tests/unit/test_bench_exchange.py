"""What a client reads: server-sent events, and whatever a server may send instead."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.errors import InvalidReference, ServerMisbehaved, ServerUnreachable
from freehold.lab.bench.answer import Answer, Refusal, ask, sentence_of
from freehold.lab.bench.endpoint import Endpoint, parse_endpoint
from freehold.lab.bench.sse import MAX_LINE, Chunked, Events
from tests.support.running import run

# Streams


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


EVENTS = b'data: {"a": 1}\r\n\r\n: ping\n\ndata:{"b": "\xc3\xa9"}\n\ndata: [DONE]\n\n'
cuts = st.lists(st.integers(0, 10_000), max_size=12)


@given(cuts)
def test_events_split_anywhere(places: list[int]) -> None:
    events = Events()
    found = [event for piece in pieces(EVENTS, places) for event in events.feed(piece)]
    assert found == [b'{"a": 1}', b'{"b": "\xc3\xa9"}', b"[DONE]"]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), cuts)
def test_chunked_bodies_split_anywhere(chunks: list[bytes], places: list[int]) -> None:
    message = b"".join(b"%x;name=value\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    message += b"0\r\n\r\n"
    body = Chunked()
    assert b"".join(body.feed(piece) for piece in pieces(message, places)) == b"".join(chunks)
    assert body.ended


@pytest.mark.parametrize("line", [b"zz\r\n", b"-4\r\n", b"\xff\r\n"])
def test_a_length_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(ServerMisbehaved, match="chunked"):
        Chunked().feed(line)


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    events = Events()
    events.feed(b"data: " + b"x" * 1024 * 1024)
    with pytest.raises(ServerMisbehaved, match="a line of more than"):
        events.feed(b"x" * MAX_LINE)


# Addresses


@pytest.mark.parametrize(
    ("text", "url", "here"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1", True),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1", True),
        ("http://[::1]:9", "http://[::1]:9/v1", True),
        ("https://example.org/openai/v1", "https://example.org:443/openai/v1", False),
        ("http://10.0.0.2/v1/chat/completions", "http://10.0.0.2:80/v1", False),
    ],
)
def test_an_address(text: str, url: str, here: bool) -> None:
    endpoint = parse_endpoint(text, "secret")
    assert endpoint.url == url
    assert endpoint.here is here
    assert "secret" not in repr(endpoint)


@pytest.mark.parametrize(
    "text",
    [
        *("ftp://a/v1", "http://", "http://a:99999", "http://me:secret@a/v1", "http://a/v1?x=1"),
        *("http://a/\r\nX: y", "http://a/#b", "http://ä/"),
    ],
)
def test_no_address(text: str) -> None:
    with pytest.raises(InvalidReference) as found:
        parse_endpoint(text)
    assert "secret" not in str(found.value)


# Exchanges with a server that sends exactly what it is told


@contextlib.asynccontextmanager
async def sending(data: bytes, *, then_wait: bool = False) -> AsyncIterator[Endpoint]:
    """A server that answers everything with ``data`` and closes, or leaves the client waiting."""
    left = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        if then_wait:
            await left.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield Endpoint("http", "127.0.0.1", server.sockets[0].getsockname()[1], "/v1")
    finally:
        left.set()
        server.close()
        await server.wait_closed()


def asked(data: bytes, *, silence: float = 5.0, then_wait: bool = False) -> tuple[Answer, object]:
    async def go() -> tuple[Answer, object]:
        answer = Answer()
        async with sending(data, then_wait=then_wait) as endpoint:
            return answer, await ask(endpoint, b"{}", answer, silence)

    return run(go())


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def event(**delta: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"


FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":3}}}\n\ndata: [DONE]\n\n'
)


def test_a_whole_answer() -> None:
    answer, refusal = asked(
        HEAD
        + event(role="assistant")
        + event(reasoning_content="hm")
        + event(content="so")
        + FINISH
        + USAGE
    )
    assert refusal is None
    assert len(answer.chunks) == 2
    assert answer.reasoned
    assert answer.text == ["so"]
    assert answer.first_content == answer.chunks[1]
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (7, 3, 2)
    assert answer.sent is not None
    assert answer.sent <= answer.chunks[0]


def test_a_refusal_says_when_to_come_again() -> None:
    body = b'{"error": {"message": "Too many\\n requests."}}'
    head = b"HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert asked(head + body + b"more")[1] == Refusal(429, "Too many requests.", 7.0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "without an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, "no end to its headers"),
        (HEAD + event(content="so"), "before the answer was complete"),
        (HEAD + b'{"choices": []}', "did not stream"),
        (HEAD + b"data: {\n\n", "what is no chunk"),
        (HEAD + b'data: {"choices": 7}\n\n', "what is no chunk"),
        (HEAD + b'data: {"error": {"message": "It died."}}\n\n', "It died."),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\nshort", "within an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: few\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "within an answer"),
    ],
)
def test_what_no_server_should_send(data: bytes, said: str) -> None:
    with pytest.raises(ServerMisbehaved, match=said):
        asked(data)


def test_a_stalled_answer_is_given_up() -> None:
    with pytest.raises(ServerMisbehaved, match=r"Nothing came from the server for 0\.05 seconds"):
        asked(HEAD + event(content="so"), silence=0.05, then_wait=True)


def test_nobody_there() -> None:
    async def go() -> None:
        async with sending(b"") as endpoint:
            pass
        await ask(endpoint, b"{}", Answer(), 5.0)

    with pytest.raises(ServerUnreachable, match="cannot be reached"):
        run(go())


def test_what_a_server_says_is_one_short_line() -> None:
    assert sentence_of({"detail": "No\n\tsuch   model"}) == "No such model"
    assert sentence_of({"error": {"code": 7}}) == "{'code': 7}"
    assert sentence_of({"message": ""}) == "{'message': ''}"
    assert sentence_of("\ud800") == "?"
    assert sentence_of("<!DOCTYPE HTML>\n<html><p>Not found") == "a page for a browser"
    assert len(sentence_of("x" * 10_000)) < 400
