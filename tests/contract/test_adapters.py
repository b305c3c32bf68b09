"""Adapters per request: several, scaled, in turns, loaded and unloaded while others answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from freehold.domain.chat import AdapterUse, GenerateRequest
from freehold.engines.base import Adapter
from freehold.engines.llamacpp.messages import AddAdapter, RemoveAdapter
from freehold.engines.llamacpp.scheduler import TURN_STEPS
from tests.support.adapters import write_control_vector, write_lora
from tests.support.endless import write_endless_llama
from tests.support.engine import GREEDY, Answer, Stage, config, difference, staged

pytestmark = pytest.mark.native

WIDTH = 128
PROMPT = tuple(range(30, 90))
SETS = (
    (),
    (AdapterUse("red"),),
    (AdapterUse("red", 0.5),),
    (AdapterUse("red"), AdapterUse("blue", -1.0)),
    (AdapterUse("north"),),
    (AdapterUse("blue"), AdapterUse("north", 2.0)),
)
numbers = itertools.count()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless_llama(tmp_path_factory.mktemp("models") / "endless.gguf")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        write_lora(folder / "red.gguf", width=WIDTH, seed=1),
        write_lora(folder / "blue.gguf", width=WIDTH, seed=2),
        write_control_vector(folder / "north.gguf", width=WIDTH, seed=3),
    ]


@pytest.fixture
def stage(model: Path, adapters: list[Adapter]) -> Iterator[Stage]:
    with staged(model, config(parallel=6)) as stage:
        for adapter in adapters:
            assert tell(stage, AddAdapter(adapter)) is None
        yield stage


def tell(stage: Stage, command: AddAdapter | RemoveAdapter) -> str | None:
    """Why it was refused; None if it was done."""
    stage.inbox.put(command)
    stage.turn()
    reply = stage.replies.pop()
    return reply.refused.message if reply.refused else None


def asked(uses: tuple[AdapterUse, ...], count: int = 24) -> GenerateRequest:
    return GenerateRequest(
        f"request {next(numbers)}", PROMPT, count, GREEDY, adapters=uses, top_logprobs=4
    )


def one(stage: Stage, uses: tuple[AdapterUse, ...]) -> Answer:
    (answer,) = stage.answer_all([asked(uses)])
    return answer


def test_each_set_has_its_own_answer(stage: Stage) -> None:
    answers = [one(stage, uses).tokens for uses in SETS]
    assert all(len(tokens) == 24 for tokens in answers)
    assert len(set(answers)) == len(SETS)


def test_a_scale_of_nothing_changes_nothing(stage: Stage) -> None:
    assert difference(one(stage, ()), one(stage, (AdapterUse("red", 0.0),))) is None


def test_together_is_one_after_the_other(stage: Stage) -> None:
    apart = [one(stage, uses) for uses in SETS]
    together = stage.answer_all([asked(uses) for uses in SETS])
    assert [difference(*pair) for pair in zip(apart, together, strict=True)] == [None] * len(SETS)


def test_no_set_uses_the_prefix_of_another(stage: Stage) -> None:
    for uses in SETS:
        answer = one(stage, uses)
        assert answer.usage is not None
        assert answer.usage.cached_tokens == 0
        again = one(stage, uses)
        assert again.usage is not None
        assert again.usage.cached_tokens == len(PROMPT) - 8
        assert difference(answer, again) is None


def test_nobody_waits_longer_than_the_others_turns(stage: Stage) -> None:
    requests = [asked(uses, 100) for uses in SETS]
    silent = dict.fromkeys((request.request_id for request in requests), 0)
    for request in requests:
        stage.ask(request)
    while not all(answer.over for answer in stage.answers.values()):
        before = {name: len(answer.tokens) for name, answer in stage.answers.items()}
        stage.turn()
        for name, count in before.items():
            answer = stage.answers[name]
            spoke = len(answer.tokens) > count or answer.over
            all_begun = all(other.tokens for other in stage.answers.values())
            silent[name] = 0 if spoke or not all_begun else silent[name] + 1
            assert silent[name] <= TURN_STEPS * (len(SETS) - 1)


def test_unloaded_and_loaded_without_a_restart(
    stage: Stage, adapters: list[Adapter], tmp_path: Path
) -> None:
    before = one(stage, (AdapterUse("red"),))
    assert tell(stage, RemoveAdapter("red")) is None
    refused = one(stage, (AdapterUse("red"),))
    assert refused.failed is not None
    assert "no adapter called 'red'" in refused.failed
    # Another file by the same name: nothing that the first one computed may be used.
    other = write_lora(tmp_path / "red.gguf", width=WIDTH, seed=9)
    assert tell(stage, AddAdapter(other)) is None
    after = one(stage, (AdapterUse("red"),))
    assert after.usage is not None
    assert after.usage.cached_tokens == 0
    assert after.tokens != before.tokens
    assert tell(stage, RemoveAdapter("red")) is None
    assert tell(stage, AddAdapter(adapters[0])) is None
    assert difference(one(stage, (AdapterUse("red"),)), before) is None


def test_one_in_use_stays(stage: Stage) -> None:
    request = asked((AdapterUse("red"),), 200)
    stage.ask(request)
    for _ in range(20):
        stage.turn()
    why = tell(stage, RemoveAdapter("red"))
    assert why is not None
    assert "in use" in why
    stage.play()
    assert stage.answers[request.request_id].failed is None


def test_what_cannot_be_loaded_is_refused(
    stage: Stage, adapters: list[Adapter], model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(Path(adapters[0].path).read_bytes()[:500])
    for adapter, words in [
        (adapters[0], "loaded already"),
        (replace(adapters[0], name="a model", path=str(model)), "not a LoRA adapter"),
        (replace(adapters[0], name="broken", path=str(broken)), "broken.gguf"),
        (replace(adapters[2], name="late", first_layer=5), "layers 1 to 1"),
        (replace(adapters[0], name="vector", path=adapters[2].path), "not a LoRA adapter"),
        (write_lora(tmp_path / "wide.gguf", width=2 * WIDTH), "cannot apply"),
        (write_control_vector(tmp_path / "narrow.gguf", width=64), "needs 128 numbers"),
        (write_control_vector(tmp_path / "deep.gguf", width=WIDTH, layers=9), "no layer"),
    ]:
        why = tell(stage, AddAdapter(adapter))
        assert why is not None, adapter
        assert words in why
    assert one(stage, ()).failed is None
