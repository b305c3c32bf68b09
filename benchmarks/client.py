"""Closed-loop clients over plain asyncio streams."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import Record, copied_share
from benchmarks.sse import Chunked, Events
from benchmarks.weights import BenchmarkError
from benchmarks.workloads import Conversation, Load

Message = dict[str, str]
_DECODING = 4  # chunks after which an answer counts as under way
_NO_END = -100.0


@dataclass
class Answer:
    """One answer as it comes in."""

    on_chunk: Callable[[], None]
    chunks: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    finish: str | None = None
    usage: Mapping[str, Any] | None = None

    def feed(self, data: bytes, now: float) -> None:
        """Take one event in."""
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise BenchmarkError(f"The server ended an answer with an error: {event['error']}")
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices", ()):
            self.finish = choice.get("finish_reason") or self.finish
            content = choice.get("delta", {}).get("content")
            if content:
                self.chunks.append(now)
                self.text.append(content)
                self.on_chunk()


@dataclass(frozen=True)
class Client:
    """How one server is asked. ``end_tokens`` are made impossible, so all answers are as long."""

    port: int
    model: str
    end_tokens: Sequence[int]

    async def run(self, load: Load, limit: float) -> list[Record]:
        """Ask everything in ``load``; at most ``limit`` seconds."""
        queue = iter(load.conversations)
        under_way = asyncio.Semaphore(0)
        records: list[Record] = []
        try:
            async with asyncio.timeout(limit), asyncio.TaskGroup() as group:
                for _ in range(load.clients):
                    group.create_task(self._converse(queue, records, under_way))
                if load.arrival is not None:
                    for _ in range(load.clients):
                        await under_way.acquire()
                    arriving = iter([load.arrival])
                    group.create_task(self._converse(arriving, records, under_way, "arrival"))
        except TimeoutError:
            raise BenchmarkError(f"The answers took longer than {limit:.0f} seconds.") from None
        except BaseExceptionGroup as errors:
            first = _first(errors)
            if not isinstance(first, BenchmarkError | OSError | EOFError):
                raise
            raise BenchmarkError(str(first)) from errors
        return records

    async def _converse(
        self,
        queue: Iterator[Conversation],
        records: list[Record],
        under_way: asyncio.Semaphore,
        role: str = "client",
    ) -> None:
        for conversation in queue:
            messages: list[Message] = []
            if conversation.system is not None:
                messages.append({"role": "system", "content": conversation.system})
            for turn in conversation.turns:
                messages.append({"role": "user", "content": turn})
                record, text = await self._ask(messages, conversation.answer, under_way, role)
                records.append(record)
                messages.append({"role": "assistant", "content": text})

    async def _ask(
        self, messages: Sequence[Message], wanted: int, under_way: asyncio.Semaphore, role: str
    ) -> tuple[Record, str]:
        def on_chunk() -> None:
            if len(answer.chunks) == _DECODING:
                under_way.release()

        answer = Answer(on_chunk)
        request = self._request(messages, wanted)
        sent = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            await _read_answer(reader, answer)
        finally:
            writer.close()
        text = "".join(answer.text)
        usage = answer.usage or {}
        record = Record(
            role=role,
            sent=sent,
            chunks=tuple(answer.chunks),
            prompt_tokens=usage.get("prompt_tokens"),
            tokens=_count(answer, wanted),
            wanted=wanted,
            copied=copied_share(text, messages[-1]["content"]),
        )
        return record, text

    def _request(self, messages: Sequence[Message], wanted: int) -> bytes:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": wanted,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.end_tokens:
            body["logit_bias"] = {str(token): _NO_END for token in self.end_tokens}
        encoded = json.dumps(body).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{self.port}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(encoded)}\r\n"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + encoded


async def _read_answer(reader: asyncio.StreamReader, answer: Answer) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    status, _, fields = head.partition(b"\r\n")
    if status.split()[1:2] != [b"200"]:
        body = (await reader.read()).decode("utf-8", "replace")
        raise BenchmarkError(f"The server answered {status.decode()}: {body[:400]}")
    body_of = Chunked().feed if b"chunked" in fields.lower() else bytes
    events = Events()
    while data := await reader.read(65536):
        now = time.perf_counter()
        for event in events.feed(body_of(data)):
            answer.feed(event, now)
    if answer.finish is None:
        raise BenchmarkError("The server closed the connection before the answer was complete.")


def _count(answer: Answer, wanted: int) -> int:
    """The server's count; without one, what the reason of the end proves, else the chunks."""
    if answer.usage is not None:
        return int(answer.usage["completion_tokens"])
    return wanted if answer.finish == "length" else len(answer.chunks)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
