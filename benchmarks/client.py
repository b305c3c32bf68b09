"""Closed loops of conversations: each turn sees the answers before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Record, copied_share
from benchmarks.weights import BenchmarkError
from benchmarks.workloads import Conversation, Load
from freehold.domain.errors import FreeholdError
from freehold.lab.bench.answer import Answer, ask
from freehold.lab.bench.endpoint import Endpoint

Message = dict[str, str]
_DECODING = 4  # chunks after which an answer counts as under way
_NO_END = -100.0
_SILENCE = 900.0  # a run has a limit of its own


@dataclass(frozen=True)
class Client:
    """How one server is asked. ``end_tokens`` are made impossible, so all answers are as long.

    ``socket`` is the path of a UNIX socket that is asked instead of the port.
    """

    port: int
    model: str
    end_tokens: Sequence[int]
    socket: str | None = None

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
            if not isinstance(first, BenchmarkError | FreeholdError):
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
        endpoint = Endpoint("http", "127.0.0.1", self.port, "/v1", socket=self.socket)
        refusal = await ask(endpoint, self._body(messages, wanted), answer, _SILENCE)
        if refusal is not None:
            raise BenchmarkError(f"The server answered with {refusal}")
        assert answer.sent is not None
        text = "".join(answer.text)
        record = Record(
            role=role,
            sent=answer.sent,
            chunks=tuple(answer.chunks),
            prompt_tokens=answer.prompt_tokens,
            tokens=_count(answer, wanted),
            wanted=wanted,
            copied=copied_share(text, messages[-1]["content"]),
        )
        return record, text

    def _body(self, messages: Sequence[Message], wanted: int) -> bytes:
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
        return json.dumps(body).encode()


def _count(answer: Answer, wanted: int) -> int:
    """The server's count; without one, what the reason of the end proves, else the chunks."""
    if answer.completion_tokens is not None:
        return answer.completion_tokens
    return wanted if answer.finish == "length" else len(answer.chunks)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
