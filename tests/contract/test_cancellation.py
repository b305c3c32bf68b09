"""Cancelled means stopped: in the middle of a step where it is for nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.domain.chat import GenerateRequest
from freehold.engines.llamacpp.messages import Cancel
from tests.support.endless import write_endless_llama
from tests.support.engine import GREEDY, config, difference, staged

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless_llama(tmp_path_factory.mktemp("models") / "endless.gguf", layers=4)


def test_a_step_for_nobody_is_given_up_and_rolled_back(model: Path) -> None:
    prompt = tuple(number % 256 for number in range(400))
    with staged(model, config(parallel=2)) as stage:
        leaving = GenerateRequest("leaving", prompt, 20, GREEDY, top_logprobs=4)
        stage.ask(leaving)
        stage.turn()
        (sequence,) = stage.loop.scheduler.running
        committed = sequence.committed
        assert 0 < committed < len(prompt)
        # The command comes when the step has been planned already.
        assert stage.loop.drain(wait=False)
        stage.inbox.put(Cancel("leaving"))
        stage.loop.step()
        assert sequence.committed == committed
        assert stage.context.held(0) == committed
        stage.gone.add("leaving")
        del stage.answers["leaving"]
        stage.turn()
        assert stage.loop.scheduler.sequences == ()
        # What was committed is a prefix like any other, and a sound one.
        again = GenerateRequest("again", prompt, 20, GREEDY, top_logprobs=4)
        answer = stage.answer_all([again])[0]
        assert answer.usage is not None
        assert answer.usage.cached_tokens == committed
    with staged(model, config(parallel=2)) as stage:
        assert difference(answer, stage.answer_all([again])[0]) is None


def test_a_step_that_others_are_in_goes_on(model: Path) -> None:
    with staged(model, config(parallel=2)) as stage:
        for name in ("leaving", "staying"):
            stage.ask(GenerateRequest(name, tuple(range(60)), 30, GREEDY))
        while not all(answer.tokens for answer in stage.answers.values()):
            stage.turn()
        said = len(stage.answers["staying"].tokens)
        assert stage.loop.drain(wait=False)
        stage.inbox.put(Cancel("leaving"))
        stage.gone.add("leaving")
        del stage.answers["leaving"]
        stage.loop.step()
        stage.turn()
        assert len(stage.answers["staying"].tokens) > said
        assert len(stage.loop.scheduler.running) == 1
        stage.play()
