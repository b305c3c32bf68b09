"""Frames: what goes in comes out, and a peer that lies is not listened to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.chat import (
    AdapterUse,
    Conversation,
    EmbedRequest,
    GenerateRequest,
    ReasoningWish,
    Role,
    Tool,
    ToolCall,
)
from freehold.domain.chat import Message as ChatMessage
from freehold.domain.engine import Kernels
from freehold.domain.events import Finished, FinishReason, PromptProcessed, Timings, Usage
from freehold.domain.sampling import Sampling
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp import messages as worker
from freehold.process import frames
from freehold.process.frames import (
    MAX_FRAME,
    AsyncChannel,
    Channel,
    Message,
    MessageTooLarge,
    WireError,
    encode,
)
from freehold.text import messages as text
from tests.support.running import run


class Said(Message, frozen=True):
    words: str
    count: int = 0


class Blob(Message, frozen=True):
    data: bytes


Anything = Said | Blob

words = st.text(max_size=40)
numbers = st.integers(0, 2**31)
seconds = st.floats(0, 1e9)
token_ids = st.lists(numbers, max_size=30).map(tuple)
sources = st.builds(text.VocabularySource, words, st.lists(words, max_size=3).map(tuple), words)
requests = st.builds(
    GenerateRequest,
    request_id=words,
    prompt=token_ids,
    max_tokens=numbers,
    sampling=st.builds(
        Sampling,
        temperature=seconds,
        top_p=st.floats(0, 1),
        top_k=numbers,
        seed=st.none() | st.integers(0, 2**63 - 1),
        stop=st.lists(words, max_size=3).map(tuple),
    ),
    cache_scope=words,
    deadline=st.none() | seconds,
    adapters=st.lists(st.builds(AdapterUse, words, st.floats(-2, 2)), max_size=2).map(tuple),
)
deltas = st.builds(
    worker.SequenceDelta,
    request_id=words,
    processed=st.none() | st.builds(PromptProcessed, numbers, numbers),
    text=words,
    tokens=token_ids,
    finished=st.none()
    | st.builds(
        Finished,
        st.sampled_from(FinishReason),
        st.builds(Usage, numbers, numbers, numbers),
        st.builds(Timings, seconds, seconds, seconds),
        numbers,
    ),
    failed=st.none() | st.builds(worker.Failure, words),
)
configs = st.builds(
    EngineConfig,
    words,
    st.lists(words, max_size=3).map(tuple),
    numbers,
    numbers,
    numbers,
    st.sampled_from(Kernels),
)
calls = st.lists(st.builds(ToolCall, words, words, words), max_size=2).map(tuple)
turns = st.builds(
    ChatMessage,
    st.sampled_from(Role),
    words,
    st.none() | words,
    calls,
    st.none() | words,
    st.none() | words,
)
conversations = st.builds(
    Conversation,
    st.lists(turns, max_size=4).map(tuple),
    st.lists(st.builds(Tool, words, words, words), max_size=2).map(tuple),
    st.builds(ReasoningWish, st.none() | st.booleans(), st.none() | words, st.none() | numbers),
    st.booleans(),
)
vectors = st.lists(st.binary(max_size=16), max_size=3)
embeddings = st.builds(EmbedRequest, words, st.lists(token_ids, max_size=3).map(tuple))

PROTOCOLS = [
    (text.FromGateway, st.builds(text.Render, sources, conversations)),
    (
        text.FromGateway,
        st.builds(
            text.Tokenize,
            source=sources,
            text=words,
            special=st.booleans(),
            suffix=st.none() | words,
        ),
    ),
    (text.FromGateway, st.builds(text.Detokenize, sources, token_ids)),
    (text.FromChild, st.builds(text.Ready)),
    (
        text.FromChild,
        st.builds(
            text.Rendered, words, st.lists(numbers, max_size=30), token_ids, st.none() | numbers
        ),
    ),
    (text.FromChild, st.builds(text.Detokenized, vectors)),
    (text.FromChild, st.builds(text.Failed, words, words, st.none() | words)),
    (worker.FromGateway, st.builds(worker.Load, configs)),
    (worker.FromGateway, st.builds(worker.Generate, requests)),
    (worker.FromGateway, st.builds(worker.Cancel, words)),
    (worker.FromGateway, st.builds(worker.Embed, embeddings)),
    (
        worker.FromWorker,
        st.builds(
            worker.Embedded, words, vectors.map(tuple), st.none() | st.builds(worker.Failure, words)
        ),
    ),
    (worker.FromWorker, st.builds(worker.Loaded, numbers, words)),
    (worker.FromWorker, st.builds(worker.Refused, words, st.none() | words)),
    (worker.FromWorker, st.builds(worker.Step, st.lists(deltas, max_size=3).map(tuple))),
]
spoken = st.one_of([st.tuples(st.just(protocol), said) for protocol, said in PROTOCOLS])


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    theirs.settimeout(5)
    with ours, theirs:
        yield ours, theirs


def heard(data: bytes, incoming: object = Anything) -> list[object]:
    """What the blocking end makes of these bytes, before the peer closes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        channel: Channel[object] = Channel(ours, incoming)
        return [*iter(channel.receive, None)]


async def heard_async(data: bytes, incoming: object = Anything) -> list[object]:
    """The same at the asyncio end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = await AsyncChannel[object].open(ours, incoming)
    with theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        found: list[object] = []
        try:
            while (message := await channel.receive()) is not None:
                found.append(message)
        finally:
            await channel.close()
        return found


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@given(spoken)
def test_every_message_of_every_protocol_comes_out_as_it_went_in(
    said: tuple[object, Message],
) -> None:
    protocol, message = said
    assert heard(encode(message) * 2, protocol) == [message, message]


@given(spoken)
def test_the_asyncio_end_reads_the_same(said: tuple[object, Message]) -> None:
    protocol, message = said
    assert run(heard_async(encode(message) * 2, protocol)) == [message, message]


@given(st.binary(max_size=200))
def test_noise_is_a_wire_error_or_an_end(noise: bytes) -> None:
    with contextlib.suppress(WireError):
        assert all(isinstance(message, Message) for message in heard(framed(noise)))


@given(spoken, st.data())
def test_a_changed_byte_is_a_wire_error_or_another_message(
    said: tuple[object, Message], data: st.DataObject
) -> None:
    protocol, message = said
    body = bytearray(encode(message)[4:])
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        heard(framed(bytes(body)), protocol)


@given(spoken, st.data())
def test_a_truncated_frame_is_an_end(said: tuple[object, Message], data: st.DataObject) -> None:
    protocol, message = said
    frame = encode(message)
    cut = data.draw(st.integers(0, len(frame) - 1))
    assert heard(frame[:cut], protocol) == []
    assert run(heard_async(frame + frame[:cut], protocol)) == [message]


def test_a_frame_too_large_to_send_is_refused_before_a_byte_of_it() -> None:
    with pytest.raises(MessageTooLarge, match="a Blob of"):
        encode(Blob(bytes(MAX_FRAME)))
    assert len(encode(Blob(bytes(MAX_FRAME - 64)))) <= MAX_FRAME + 4


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 2**32 - 1])
def test_a_frame_that_announces_too_much_is_not_read(length: int) -> None:
    prefix = struct.pack(">I", length)
    with pytest.raises(WireError, match=str(length)):
        heard(prefix)
    with pytest.raises(WireError, match=str(length)):
        run(heard_async(prefix))


def test_our_limit_holds_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = encode(Said("a" * 100))
    monkeypatch.setattr(frames, "MAX_FRAME", 50)
    with pytest.raises(WireError):
        heard(frame)
    with pytest.raises(MessageTooLarge):
        encode(Said("a" * 100))


class Stranger(Message, frozen=True):
    words: str


class SaidMore(Message, frozen=True, tag="Said"):
    words: str
    count: int = 0
    volume: int = 11


class SaidLess(Message, frozen=True, tag="Said"):
    count: int = 0


class SaidWrongly(Message, frozen=True, tag="Said"):
    words: int


@pytest.mark.parametrize(
    "message", [Stranger("hi"), SaidMore("hi"), SaidLess(), SaidWrongly(3)], ids=repr
)
def test_a_message_of_another_protocol_is_a_wire_error(message: Message) -> None:
    with pytest.raises(WireError):
        heard(encode(message))
    with pytest.raises(WireError):
        run(heard_async(encode(message)))


def test_what_came_before_the_lie_is_heard() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel: Channel[Anything] = Channel(ours, Anything)
        theirs.sendall(encode(Said("true")) + encode(Stranger("lie")))
        assert channel.receive() == Said("true")
        with pytest.raises(WireError):
            channel.receive()


def test_frames_that_arrive_byte_by_byte(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair

    def drip() -> None:
        for byte in encode(Said("drop", 1)) + encode(Said("by drop", 2)):
            theirs.sendall(bytes([byte]))

    dripping = threading.Thread(target=drip)
    dripping.start()
    channel: Channel[Anything] = Channel(ours, Anything)
    assert [channel.receive(), channel.receive()] == [Said("drop", 1), Said("by drop", 2)]
    dripping.join()


def test_both_ends_talk_over_one_socket() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    large = "x" * 3_000_000  # more than the socket's buffer

    def echo() -> None:
        with theirs:
            channel: Channel[Anything] = Channel(theirs, Anything)
            while (message := channel.receive()) is not None:
                channel.send(message)

    echoing = threading.Thread(target=echo)
    echoing.start()

    async def talk() -> list[object]:
        channel = await AsyncChannel[Anything].open(ours, Anything)
        for number in range(3):
            channel.send_soon(Said(large, number))
        answers = [await channel.receive() for _ in range(3)]
        await channel.close()
        return [*answers]

    try:
        assert run(talk()) == [Said(large, number) for number in range(3)]
    finally:
        echoing.join(5)


def test_the_asyncio_end_learns_that_the_peer_has_gone() -> None:
    async def talk() -> object:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        channel = await AsyncChannel[Anything].open(ours, Anything)
        receiving = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        theirs.close()
        message = await receiving
        channel.send_soon(Said("to nobody"))  # no error: the end is told by `receive`
        await channel.close()
        return message

    assert run(talk()) is None


def test_closing_twice_is_safe() -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            channel = await AsyncChannel[Anything].open(ours, Anything)
            await channel.close()
            await channel.close()

    run(talk())
