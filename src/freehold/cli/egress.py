"""`freehold doctor --egress`: run a model under observation and list whom anything turned to.

A server of its own is started with the network allowed, asked for one streamed answer, and
stopped. What is observed is all of its life.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from freehold.cli.backend import ServerBackend
from freehold.domain.answers import Ended
from freehold.domain.chat import ChatRequest, Conversation, Message, Role
from freehold.domain.errors import ServerUnreachable
from freehold.domain.sampling import Sampling
from freehold.domain.settings import Settings, environment
from freehold.engines.llamacpp.probe_model import write_probe_model
from freehold.trust.attempts import Attempt
from freehold.trust.observation import Observation, observation

TOKENS = 32
# A large model on a slow disk, under a tracer.
SECONDS = 900.0
_STOP_SECONDS = 30.0
_WORDS_KEPT = 20


@dataclass(frozen=True)
class Report:
    """``tokens`` were streamed; ``unseen`` is what the means of observation cannot show."""

    model: str
    means: str
    unseen: str | None
    tokens: int
    attempts: tuple[Attempt, ...]

    @property
    def left(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.leaves)

    @property
    def stayed(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if not attempt.leaves)

    def as_data(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "observed_by": self.means,
            "not_observed": self.unseen,
            "tokens": self.tokens,
            "left": len(self.left),
            "attempts": [attempt.as_data() for attempt in self.attempts],
        }


def check(settings: Settings, model: str | None) -> Report:
    """Load, generate and stream; ``model`` None: a tiny one that means nothing."""
    with _reference(model) as (name, reference):
        watch = observation()
        tokens = asyncio.run(_observed(watch, settings, reference))
        return Report(name, watch.means, watch.unseen, tokens, watch.attempts())


@contextlib.contextmanager
def _reference(model: str | None) -> Iterator[tuple[str, str]]:
    """A model's name for people, and for the server."""
    if model is not None:
        path = Path(model)
        yield model, str(path.absolute()) if path.is_file() else model
        return
    with tempfile.TemporaryDirectory(prefix="freehold-egress-") as folder:
        path = Path(folder) / "test.gguf"
        write_probe_model(path)
        yield "a tiny one written for this", str(path)


async def _observed(watch: Observation, settings: Settings, model: str) -> int:
    async with asyncio.timeout(SECONDS), _server(watch, model) as url:
        backend = ServerBackend(url, settings.api_key)
        request = ChatRequest(
            model,
            Conversation((Message(Role.USER, "Say something."),)),
            Sampling(temperature=0),
            max_tokens=TOKENS,
        )
        tokens = 0
        async with contextlib.aclosing(backend.answer(request)) as parts:
            async for part in parts:
                if isinstance(part, Ended):
                    tokens = part.usage.completion_tokens
        return tokens


@contextlib.asynccontextmanager
async def _server(watch: Observation, model: str) -> AsyncIterator[str]:
    """Its address. When the block is left the server has ended."""
    arguments = ("serve", "--host", "127.0.0.1", "--port", "0", "--parallel", "1", model)
    process = await asyncio.create_subprocess_exec(
        *watch.command("freehold.cli.main", *arguments),
        pass_fds=watch.descriptors,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        # An attempt that is refused before it is made could not be observed. What is sent to an
        # upstream leaves because somebody said so; this is about everything else.
        env={**environment(), "FREEHOLD_OFFLINE": "0", "FREEHOLD_UPSTREAMS": "none"},
    )
    watch.started()
    assert process.stderr is not None
    reading: asyncio.Task[None] | None = None
    try:
        url = await _address(process.stderr)
        reading = asyncio.create_task(_drain(process.stderr))
        yield url
    finally:
        await _stop(process, watch)
        if reading is not None:
            await reading


async def _address(stderr: asyncio.StreamReader) -> str:
    words: collections.deque[str] = collections.deque(maxlen=_WORDS_KEPT)
    async for line in stderr:
        words.append(line.decode("utf-8", "replace").strip())
        if match := re.search(r"Serving on (http://\S+)", words[-1]):
            return match[1]
    raise ServerUnreachable(
        "The server to be observed did not start.", hint=f"It said: {' '.join(words) or 'nothing'}"
    )


async def _drain(stderr: asyncio.StreamReader) -> None:
    async for _ in stderr:
        pass


async def _stop(process: asyncio.subprocess.Process, watch: Observation) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(psutil.Error, IndexError, ProcessLookupError):
        psutil.Process(watch.program(process.pid)).send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
