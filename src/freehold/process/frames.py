"""Length-prefixed msgpack frames of typed messages.

A frame is four bytes, big-endian: the length of the body; then the body, one
msgpack value that decodes to a member of a closed union of tagged structs.
A frame longer than `MAX_FRAME` or a body that is no such message ends the
conversation: there is no resynchronising with a peer that lies.

The child side is blocking (`Channel`), the gateway side is asyncio
(`AsyncChannel`). Both ends of a socket pair are ours and from one build;
`PROTOCOL_VERSION` is checked in each protocol's first message all the same, because a
server may outlive an upgrade of the package on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any, Generic, TypeVar

import msgspec

from freehold.process.decoding import msgpack_decoder

PROTOCOL_VERSION = 1
MAX_FRAME = 32 * 1024 * 1024

_PREFIX = struct.Struct(">I")

In = TypeVar("In")


class WireError(Exception):
    """The peer broke the framing or sent something that is no message of the protocol."""


class MessageTooLarge(WireError):
    """Our own message exceeds `MAX_FRAME`; nothing was sent."""


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of everything that crosses the wire. The tag is the class name."""


_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """One whole frame."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise MessageTooLarge(f"a {type(message).__name__} of {len(body)} bytes")
    return _PREFIX.pack(len(body)) + body


def _body_length(prefix: bytes) -> int:
    (length,) = _PREFIX.unpack(prefix)
    if length > MAX_FRAME:
        raise WireError(f"a frame of {length} bytes; at most {MAX_FRAME} are allowed")
    return int(length)


def _decode(decoder: msgspec.msgpack.Decoder[In], body: bytes) -> In:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from error


class Channel(Generic[In]):
    """The blocking end. One thread may receive while another sends; no more than one each."""

    def __init__(self, sock: socket.socket, incoming: Any) -> None:
        self._sock = sock
        self._decoder: msgspec.msgpack.Decoder[In] = msgpack_decoder(incoming)

    def send(self, message: Message) -> None:
        self._sock.sendall(encode(message))

    def receive(self) -> In | None:
        """The next message, or None when the peer has closed."""
        prefix = self._exactly(_PREFIX.size)
        if prefix is None:
            return None
        body = self._exactly(_body_length(prefix))
        return None if body is None else _decode(self._decoder, body)

    def _exactly(self, size: int) -> bytes | None:
        chunks = bytearray()
        while len(chunks) < size:
            chunk = self._sock.recv(min(size - len(chunks), 1 << 20))
            if not chunk:
                return None
            chunks += chunk
        return bytes(chunks)


class AsyncChannel(Generic[In]):
    """The asyncio end. Owned by one event loop."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, incoming: Any
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder: msgspec.msgpack.Decoder[In] = msgpack_decoder(incoming)

    @classmethod
    async def open(cls, sock: socket.socket, incoming: Any) -> AsyncChannel[In]:
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        return cls(reader, writer, incoming)

    def send_soon(self, message: Message) -> None:
        """Queue a message. Bytes wait in the transport's buffer if the peer is slow."""
        self._writer.write(encode(message))

    async def receive(self) -> In | None:
        """The next message, or None when the peer has closed or died."""
        try:
            prefix = await self._reader.readexactly(_PREFIX.size)
            body = await self._reader.readexactly(_body_length(prefix))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return _decode(self._decoder, body)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
