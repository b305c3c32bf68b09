"""The loop over a context that only pretends: what it says when things end badly."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pytest

from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import EngineError
from freehold.domain.events import FinishReason, PromptProcessed
from freehold.domain.sampling import Sampling
from freehold.engines.llamacpp.messages import Cancel, FromGateway, Generate, SequenceDelta
from freehold.engines.llamacpp.outbox import STALL_SECONDS, Outbox

pytestmark = pytest.mark.native  # the loop's neighbour is the binding

END = 0


class PretendedVocabulary:
    """Token n is the n-th letter; 0 ends the turn."""

    def is_end(self, token: int) -> bool:
        return token == END

    def piece(self, token: int) -> bytes:
        return bytes([96 + token])


class PretendedContext:
    """Chooses the token after the last one; calls ``before`` with the number of each step."""

    context = 64

    def __init__(self, before: Callable[[int], None]) -> None:
        self.vocabulary = PretendedVocabulary()
        self.truncated: list[tuple[int, int]] = []
        self._before = before
        self._steps = 0

    def truncate(self, slot: int, keep: int) -> int:
        self.truncated.append((slot, keep))
        return keep

    def decode(self, entries: Sequence[object]) -> list[object]:
        from freehold.engines.llamacpp.binding import Entry

        self._steps += 1
        self._before(self._steps)
        rows: list[object] = []
        for entry in entries:
            assert isinstance(entry, Entry)
            if entry.wants_logits:
                logits = np.zeros(27, dtype=np.float32)
                logits[(entry.tokens[-1] + 1) % 27] = 1
                rows.append(logits)
        return rows


class Inbox(queue.SimpleQueue[FromGateway | None]):
    """One that ends instead of waiting."""

    def get(self, block: bool = True, timeout: float | None = None) -> FromGateway | None:
        try:
            return super().get(block=False)
        except queue.Empty:
            if block:
                return None
            raise


class Stage:
    """A loop with everything around it; `play` runs it until nobody is left to talk."""

    def __init__(self, *, slots: int = 2) -> None:
        from freehold.engines.llamacpp.binding import Context
        from freehold.engines.llamacpp.loop import Loop

        self.now = 0.0
        self.at_step: dict[int, Callable[[], None]] = {}
        self.inbox = Inbox()
        self.outbox = Outbox(lambda: self.now)
        self.context = PretendedContext(self._before)
        self.loop = Loop(cast("Context", self.context), slots, self.inbox, self.outbox)

    def _before(self, step: int) -> None:
        if step > 200:
            raise AssertionError("the loop goes on for ever")
        if action := self.at_step.get(step):
            action()

    def ask(
        self, name: str, *prompt: int, max_tokens: int = 50, stop: tuple[str, ...] = ()
    ) -> None:
        sampling = Sampling(temperature=0, stop=stop)
        self.inbox.put(Generate(GenerateRequest(name, prompt, max_tokens, sampling)))

    def play(self) -> dict[str, SequenceDelta]:
        """What was said to each request, merged."""
        self.loop.run()
        self.outbox.close()
        said = self.outbox.take()
        return {delta.request_id: delta for delta in said.deltas} if said else {}


def test_an_ordinary_answer() -> None:
    stage = Stage()
    stage.ask("A", 20, 21)
    said = stage.play()["A"]
    assert said.processed == PromptProcessed(2, 0)
    assert said.text == "vwxyz"
    assert said.tokens == (22, 23, 24, 25, 26)
    assert said.finished is not None
    assert said.finished.reason is FinishReason.STOP
    assert said.finished.usage.completion_tokens == 5


@pytest.mark.parametrize(
    ("max_tokens", "stop", "text", "reason"),
    [
        (3, (), "bcd", FinishReason.LENGTH),
        (50, ("de",), "bc", FinishReason.STOP),
        (3, ("de",), "bcd", FinishReason.LENGTH),
        (4, ("de",), "bc", FinishReason.STOP),
        (1, (), "b", FinishReason.LENGTH),
    ],
)
def test_limits(max_tokens: int, stop: tuple[str, ...], text: str, reason: FinishReason) -> None:
    stage = Stage()
    stage.ask("A", 1, max_tokens=max_tokens, stop=stop)
    said = stage.play()["A"]
    assert said.text == text
    assert said.finished is not None
    assert said.finished.reason is reason


def test_the_end_of_the_context() -> None:
    stage = Stage()
    stage.ask("A", *[1] * 60)
    said = stage.play()["A"]
    assert len(said.tokens) == 4
    assert said.finished is not None
    assert said.finished.reason is FinishReason.LENGTH


def test_the_cancelled_say_no_more() -> None:
    stage = Stage()
    stage.ask("A", 1)
    stage.at_step[5] = lambda: stage.inbox.put(Cancel("A"))
    said = stage.play()["A"]
    assert said.tokens == (2, 3, 4, 5, 6)
    assert said.finished is None


def test_cancelling_whom_nobody_knows_is_ignored() -> None:
    stage = Stage()
    stage.inbox.put(Cancel("nobody"))
    stage.ask("A", 24)
    assert stage.play()["A"].text == "yz"


def test_a_failed_step_ends_its_requests_and_empties_their_slots() -> None:
    stage = Stage(slots=1)

    def fail() -> None:
        raise EngineError("The step failed.")

    stage.at_step[3] = fail
    stage.ask("A", 1, 2)
    stage.ask("B", 1, 2, max_tokens=1)
    said = stage.play()
    assert said["A"].failed is not None
    assert said["A"].failed.message == "The step failed."
    assert said["A"].text == "cd"
    assert said["B"].finished is not None
    assert said["B"].finished.usage.cached_tokens == 0
    assert stage.context.truncated[:3] == [(0, 0), (0, 0), (0, 0)]


def test_a_gateway_that_reads_again_learns_that_its_streams_have_ended() -> None:
    stage = Stage()

    def pass_time() -> None:
        stage.now += STALL_SECONDS + 1
        stage.inbox.put(None)

    stage.ask("A", 1)
    stage.ask("B", 1)
    stage.at_step[3] = pass_time
    said = stage.play()
    for name in "AB":
        assert said[name].failed is not None
        assert said[name].finished is None
