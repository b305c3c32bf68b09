"""The outbox: merged while nobody listens, in order, and never in the way of decoding."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.events import (
    Alternative,
    Finished,
    FinishReason,
    PromptProcessed,
    Timings,
    TokenLogprob,
    Usage,
)
from freehold.engines.llamacpp.messages import (
    AdapterReply,
    Failure,
    FromWorker,
    SequenceDelta,
    Step,
)
from freehold.engines.llamacpp.outbox import STALL_SECONDS, Outbox

FINISHED = Finished(FinishReason.STOP, Usage(1, 0, 2), Timings(0, 0, 0), 0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(outbox: Outbox) -> tuple[SequenceDelta, ...]:
    step = outbox.take()
    assert isinstance(step, Step)
    return step.deltas


def logprob(token: int) -> TokenLogprob:
    return TokenLogprob(Alternative(token, b"", -1.0), ())


lives = st.lists(st.tuples(st.text(max_size=5), st.integers(0, 300)), max_size=10)


@given(lives, st.booleans(), st.sets(st.integers(0, 10)))
def test_merged_or_not_the_same_is_said(
    life: list[tuple[str, int]], fails: bool, pauses: set[int]
) -> None:
    outbox = Outbox()
    outbox.post([SequenceDelta("A", processed=PromptProcessed(3, 1))])
    heard: list[SequenceDelta] = []
    for number, (text, token) in enumerate(life):
        if number in pauses and number:
            heard += taken(outbox)
        delta = SequenceDelta("A", text=text, tokens=(token,), logprobs=(logprob(token),))
        outbox.post([delta])
    outbox.post(
        [
            SequenceDelta("A", failed=Failure("It broke."))
            if fails
            else SequenceDelta("A", text="!", finished=FINISHED)
        ]
    )
    heard += taken(outbox)
    assert "".join(delta.text for delta in heard) == "".join(t for t, _ in life) + "!" * (not fails)
    tokens = [token for _, token in life]
    assert [token for delta in heard for token in delta.tokens] == tokens
    assert [each for delta in heard for each in delta.logprobs] == [*map(logprob, tokens)]
    assert heard[0].processed == PromptProcessed(3, 1)
    assert all(delta.processed is None for delta in heard[1:])
    assert all(delta.finished is None and delta.failed is None for delta in heard[:-1])
    assert heard[-1].failed == (Failure("It broke.") if fails else None)
    assert heard[-1].finished == (None if fails else FINISHED)


def test_one_frame_carries_every_sequence_that_moved() -> None:
    outbox = Outbox()
    outbox.post([SequenceDelta(name, text=name.lower()) for name in "AB"])
    outbox.post([SequenceDelta("A", text="a")])
    assert outbox.take() == Step((SequenceDelta("A", text="aa"), SequenceDelta("B", text="b")))


def test_what_was_taken_is_not_said_again() -> None:
    outbox = Outbox()
    outbox.post([SequenceDelta("A", text="1")])
    assert taken(outbox) == (SequenceDelta("A", text="1"),)
    outbox.post([SequenceDelta("A", text="2")])
    assert taken(outbox) == (SequenceDelta("A", text="2"),)


def test_a_step_in_which_nothing_was_said_is_no_frame() -> None:
    outbox = Outbox()
    outbox.post([])
    outbox.close()
    assert outbox.take() is None


def test_replies_are_sent_whole_in_order_and_first() -> None:
    outbox = Outbox()
    outbox.post([SequenceDelta("A", text="a")])
    replies = [AdapterReply("x"), AdapterReply("x", Failure("No.")), AdapterReply("y")]
    for reply in replies:
        outbox.answer(reply)
    outbox.close()
    heard = []
    while (said := outbox.take()) is not None:
        heard.append(said)
    assert heard == [*replies, Step((SequenceDelta("A", text="a"),))]


def test_stalled_when_the_oldest_has_waited_too_long() -> None:
    clock = Clock()
    outbox = Outbox(clock)
    assert not outbox.stalled()
    outbox.post([SequenceDelta("A", text="old")])
    clock.now += STALL_SECONDS
    outbox.post([SequenceDelta("A", text="new")])
    assert not outbox.stalled()
    clock.now += 0.1
    assert outbox.stalled()
    outbox.take()
    assert not outbox.stalled()


def test_silence_is_no_stall() -> None:
    clock = Clock()
    outbox = Outbox(clock)
    outbox.post([SequenceDelta("A", text="x")])
    outbox.take()
    clock.now += 10 * STALL_SECONDS
    outbox.post([])
    assert not outbox.stalled()
    outbox.post([SequenceDelta("A", text="y")])
    assert not outbox.stalled()


def test_closed_after_what_was_left_is_said() -> None:
    outbox = Outbox()
    outbox.post([SequenceDelta("A", text="last words")])
    outbox.close()
    assert taken(outbox) == (SequenceDelta("A", text="last words"),)
    assert outbox.take() is None


def test_a_waiting_sender_is_woken() -> None:
    outbox = Outbox()
    heard: list[FromWorker | None] = []
    reply_was_heard = threading.Event()

    def send() -> None:
        while (said := outbox.take()) is not None:
            heard.append(said)
            reply_was_heard.set()
        heard.append(None)

    sender = threading.Thread(target=send)
    sender.start()
    outbox.answer(AdapterReply("x"))
    assert reply_was_heard.wait(5)
    outbox.post([SequenceDelta("A", text="x")])
    outbox.close()
    sender.join(5)
    assert heard == [AdapterReply("x"), Step((SequenceDelta("A", text="x"),)), None]
