"""However an answer is computed, it is the same answer.

Batched or alone, from the cache or fresh, with a shared prefix or its own, guessed ahead or
token by token, preempted or left in peace: equal tokens, up to ties (`support.engine.difference`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from freehold.domain.chat import GenerateRequest
from freehold.domain.engine import CacheConfig, CacheLayout, CacheType
from freehold.engines.llamacpp.prefix import WORTH_SAVING
from freehold.engines.llamacpp.scheduler import Scheduler
from tests.support.endless import write_endless_llama
from tests.support.engine import GREEDY, Answer, Stage, config, difference, staged

pytestmark = pytest.mark.native

PROMPTS = 200
SHORT_CHUNK = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless_llama(tmp_path_factory.mktemp("models") / "endless.gguf")


def requests() -> list[GenerateRequest]:
    """200 prompts of 1 to 300 tokens, many of which begin alike or repeat themselves."""
    dice = random.Random(7)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(dice.randrange(256) for _ in range(count))

    stems = [tokens(dice.choice((40, 90, 200))) for _ in range(12)]
    found = []
    for number in range(PROMPTS):
        stem = dice.choice(stems)[: dice.randrange(1, 200)]
        tail = tokens(dice.randrange(1, 100)) if number % 3 else tokens(5) * dice.randrange(1, 12)
        found.append(
            GenerateRequest(
                f"request {number}",
                (stem + tail)[:300],
                dice.randrange(2, 40),
                GREEDY,
                top_logprobs=4,
            )
        )
    return found


@pytest.fixture(scope="module")
def alone(model: Path) -> list[Answer]:
    """Each by itself, nothing cached, nothing guessed."""
    found = []
    quiet = config(parallel=1, drafts=False, cache=CacheConfig(host_bytes=0))
    with staged(model, quiet) as stage:
        for number, request in enumerate(requests()):
            (answer,) = stage.answer_all([replace(request, cache_scope=f"own {number}")])
            assert answer.processed is not None
            assert answer.processed.cached_tokens == 0
            found.append(answer)
    return found


def assert_same(found: Sequence[Answer], expected: Sequence[Answer]) -> None:
    pairs = zip(found, expected, strict=True)
    different = {number: why for number, pair in enumerate(pairs) if (why := difference(*pair))}
    assert not different


def play(stage: Stage, asked: Sequence[GenerateRequest]) -> list[Answer]:
    answers = stage.answer_all(asked)
    for answer in answers:
        assert answer.failed is None
        assert answer.reason is not None
    return answers


def apart(asked: Sequence[GenerateRequest]) -> list[GenerateRequest]:
    """The same requests, each in a cache scope of its own."""
    return [replace(request, cache_scope=f"own {number}") for number, request in enumerate(asked)]


@pytest.mark.parametrize("layout", CacheLayout)
def test_batched_is_alone(model: Path, alone: list[Answer], layout: CacheLayout) -> None:
    settings = config(parallel=8, drafts=False, cache=CacheConfig(layout=layout))
    with staged(model, settings) as stage:
        assert_same(play(stage, apart(requests())), alone)


def test_small_chunks_are_large_ones(model: Path, alone: list[Answer]) -> None:
    # A target that cannot be met leaves the smallest chunks for prompts.
    with staged(model, config(parallel=8, drafts=False, latency=1e-9)) as stage:
        stage.loop.scheduler.pace.chunk = lambda *_: SHORT_CHUNK  # type: ignore[method-assign]
        assert_same(play(stage, apart(requests())), alone)
        assert stage.inspect().steps > sum(len(r.prompt) for r in requests()) / 64


@pytest.mark.parametrize("layout", CacheLayout)
def test_shared_is_unshared(model: Path, alone: list[Answer], layout: CacheLayout) -> None:
    with staged(model, config(parallel=8, drafts=False, cache=CacheConfig(layout=layout))) as stage:
        answers = play(stage, requests())
        assert_same(answers, alone)
        shared = sum(answer.usage.cached_tokens for answer in answers if answer.usage)
        assert shared > 5000


def test_cached_is_fresh(model: Path, alone: list[Answer]) -> None:
    with staged(model, config(parallel=2, drafts=False)) as stage:
        for number, request in enumerate(requests()[:80]):
            play(stage, [replace(request, request_id=f"before {number}")])
        # By now most are on the shelf, not in a stream.
        again = play(stage, requests()[:80])
        assert_same(again, alone[:80])
        for request, answer in zip(requests(), again, strict=False):
            assert answer.usage is not None
            if len(request.prompt) >= 40:
                # What is fewer than `WORTH_SAVING` tokens longer than its neighbour is not kept.
                assert answer.usage.cached_tokens > len(request.prompt) - 8 - WORTH_SAVING


def _some(rows: int, chance: float, limit: int, *, apart: bool) -> int:
    return max(0, min(limit, 4 + 4 * rows))


@pytest.mark.parametrize("parallel", [1, 8])
def test_guessed_ahead_is_plain(model: Path, alone: list[Answer], parallel: int) -> None:
    with staged(model, config(parallel=parallel)) as stage:
        # Whether guessing pays is a matter of time; here it is a matter of correctness.
        stage.loop.scheduler.pace.draft_length = _some  # type: ignore[method-assign]
        assert_same(play(stage, apart(requests())), alone)
        counts = stage.inspect()
        assert counts.accepted_tokens > 50
        assert counts.drafted_tokens > counts.accepted_tokens


def test_preempted_is_left_in_peace(
    model: Path, alone: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Admitted as if there were always room, so that there often is none.
    monkeypatch.setattr(Scheduler, "_has_room", lambda *_: True)
    cramped = CacheConfig(layout=CacheLayout.UNIFIED, cells=640)
    with staged(model, config(parallel=8, cache=cramped)) as stage:
        assert_same(play(stage, requests()), alone)
        assert stage.inspect().preemptions > 5


@pytest.mark.parametrize("kind", [CacheType.F32, CacheType.F16, CacheType.BF16])
@pytest.mark.parametrize("flash", [False, True])
def test_other_caches(model: Path, alone: list[Answer], kind: CacheType, *, flash: bool) -> None:
    cache = CacheConfig(key_type=kind, value_type=kind, flash_attention=flash)
    with staged(model, config(parallel=8, cache=cache)) as stage:
        assert_same(play(stage, requests()[:40]), alone[:40])


@pytest.fixture
def corruptible(model: Path) -> Iterator[Stage]:
    with staged(model, config(parallel=2, drafts=False)) as stage:
        for number, request in enumerate(requests()[:40]):
            play(stage, [replace(request, request_id=f"before {number}")])
        yield stage


def test_a_corrupted_stream_would_be_noticed(corruptible: Stage, alone: list[Answer]) -> None:
    """What the tests above assert can fail: a cache that holds something else changes answers."""
    stage = corruptible
    for stream in stage.loop.scheduler.streams:
        other = next(item for item in stage.loop.scheduler.shelf if len(item.content) >= 100)
        blob = stage.loop.cache.blobs[other.number]
        stage.context.restore(stream.index, blob, stream.length)
        stream.length = min(stream.length, len(other.content))
    wrong = play(stage, [replace(requests()[number], request_id="x") for number in (39,)])
    assert difference(wrong[0], alone[39]) is not None


def test_a_corrupted_shelf_would_be_noticed(corruptible: Stage, alone: list[Answer]) -> None:
    stage = corruptible
    for blob in stage.loop.cache.blobs.values():
        place = len(blob) // 3  # among the keys, past the header of their layer
        blob[place : place + 256] ^= 0x3C
    wrong = stage.answer_all([replace(r, request_id=f"{r.request_id}!") for r in requests()[:40]])
    assert any(answer.failed or difference(answer, alone[n]) for n, answer in enumerate(wrong))
