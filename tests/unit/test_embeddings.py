"""Embeddings: what dialects accept and say, the crash rules, and slices between steps."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import ValidationError

from freehold.api.large import SMALL_NUMBERS, as_json, written
from freehold.api.ollama import embed_convert as ollama
from freehold.api.ollama.embed_schema import EmbeddingsRequest as OllamaLegacyRequest
from freehold.api.ollama.embed_schema import EmbedRequest as OllamaRequest
from freehold.api.openai import embeddings_convert as openai
from freehold.api.openai.embeddings_schema import EmbeddingList, EmbeddingsRequest
from freehold.domain.chat import EmbedRequest, GenerateRequest
from freehold.domain.embedding import Embeddings, shortened
from freehold.domain.errors import InvalidRequest, PoisonRequest, PromptTooLong
from freehold.engines.base import Capabilities, Capability, EngineConfig, require_possible
from freehold.engines.scripted import Script, ScriptedEngine
from freehold.runtime.lifecycle import Supervisor
from tests.support.running import run

# OpenAI's words


def asked_of_openai(**fields: Any) -> EmbeddingsRequest:
    return EmbeddingsRequest.model_validate({"model": "m", **fields})


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("one", ("one",)),
        (["one", "two"], ("one", "two")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["one", [3]], ("one", (3,))),
    ],
)
def test_every_form_of_input(given: Any, inputs: tuple[Any, ...]) -> None:
    body = asked_of_openai(input=given)
    asked = openai.embedding_request(body, cache_scope="local", deadline=5.0)
    assert asked.inputs == inputs
    assert asked.deadline == 5.0


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("", "item 0 is empty"),
        ([], "not empty"),
        (["a", ""], "item 1 is empty"),
        ([[]], "item 0 is empty"),
        (5, "not empty"),
        (None, "not empty"),
        ([1, "a"], "item 0 is neither"),
        ([[1, True]], "item 0 is neither"),
        ([-1], "cannot be one"),
        ([2**31], "cannot be one"),
        (["a"] * 2049, "at most 2048"),
        ("a" * (2**20 + 1), "more than 1048576 characters"),
    ],
)
def test_what_is_no_input(given: Any, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint) as caught:
        asked_of_openai(input=given)
    assert caught.value.errors()[0]["loc"] == ("input",)


FOUND = Embeddings("tiny", ((0.6, 0.8), (1.0, 0.0)), prompt_tokens=7, loaded=0.25)


def test_floats_and_base64_say_the_same() -> None:
    plain = list(openai.embeddings(FOUND, asked_of_openai(input="x")))
    assert [each.embedding for each in plain] == [[0.6, 0.8], [1.0, 0.0]]
    assert [each.index for each in plain] == [0, 1]
    frame = openai.frame(FOUND)
    assert frame.usage.model_dump() == {"prompt_tokens": 7, "total_tokens": 7}
    whole = EmbeddingList.model_validate_json(written(frame, "data", plain))
    assert whole == frame.model_copy(update={"data": plain})
    packed = openai.embeddings(FOUND, asked_of_openai(input="x", encoding_format="base64"))
    first = next(packed).embedding
    assert isinstance(first, str)
    assert struct.unpack("<2f", base64.b64decode(first)) == pytest.approx((0.6, 0.8))


@pytest.mark.parametrize("numbers", [SMALL_NUMBERS, SMALL_NUMBERS + 1])
def test_large_answers_are_written_beside_the_event_loop(numbers: int) -> None:
    threads: list[threading.Thread] = []

    def items() -> Iterator[tuple[float, ...]]:
        for _ in range(2):
            threads.append(threading.current_thread())
            yield (0.5, -0.25)

    frame = ollama.frame(FOUND, asked_of_ollama(model='"embeddings":[]', input="x"), 1.5)
    answer = json.loads(run(as_json(frame, "embeddings", items(), numbers=numbers)))
    assert (answer["model"], answer["embeddings"]) == ('"embeddings":[]', [[0.5, -0.25]] * 2)
    here = {thread is threading.current_thread() for thread in threads}
    assert here == {numbers <= SMALL_NUMBERS}


def test_fewer_dimensions_have_length_1_again() -> None:
    assert shortened((0.6, 0.0, 0.8), 2) == (1.0, 0.0)
    assert shortened((0.6, 0.8), 2) == (0.6, 0.8)
    for vector, dimensions in (((0.6, 0.8), 3), ((0.0, 1.0), 1)):
        with pytest.raises(InvalidRequest) as caught:
            shortened(vector, dimensions)
        assert caught.value.field == "dimensions"


# Ollama's words


def asked_of_ollama(**fields: Any) -> OllamaRequest:
    return OllamaRequest.model_validate({"model": "m", **fields})


def test_ollama_asks_and_is_answered() -> None:
    body = asked_of_ollama(input=["a", "b"], dimensions=2, keep_alive="0s")
    asked = ollama.embedding_request(body, "ours", cache_scope="local", deadline=5.0)
    assert (asked.model, asked.inputs, asked.dimensions) == ("ours", ("a", "b"), 2)
    assert asked.keep_alive == 0
    answer = written(ollama.frame(FOUND, body, 1.5), "embeddings", FOUND.vectors)
    assert json.loads(answer) == {
        "model": "m",
        "embeddings": [[0.6, 0.8], [1.0, 0.0]],
        "total_duration": 1_500_000_000,
        "load_duration": 250_000_000,
        "prompt_eval_count": 7,
    }
    legacy = OllamaLegacyRequest(model="m", prompt="a", keep_alive="5m")
    assert ollama.embedding_request(legacy, "m", cache_scope="local", deadline=0).keep_alive == 300
    assert ollama.embedding_request(legacy, "m", cache_scope="local", deadline=0).inputs == ("a",)
    assert ollama.embeddings_response(FOUND).embedding == [0.6, 0.8]


@pytest.mark.parametrize(("truncate", "told"), [(None, True), (True, True), (False, False)])
def test_who_may_expect_cutting_is_told_that_nothing_is_cut(
    truncate: bool | None, told: bool
) -> None:
    body = asked_of_ollama(input="a", truncate=truncate)
    message = ollama.too_long(body, PromptTooLong("It has 9 tokens of 8.")).message
    assert message.startswith("It has 9 tokens of 8.")
    assert ("truncated" in message) is told


@pytest.mark.parametrize("given", ["", [], [""], [1], None, ["a"] * 2049])
def test_what_is_no_input_for_ollama(given: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        asked_of_ollama(input=given)
    assert caught.value.errors()[0]["loc"] == ("input",)


def test_a_context_larger_than_loaded_is_refused() -> None:
    body = asked_of_ollama(input="a", options={"num_ctx": 512})
    ollama.require_context(body, 512)
    with pytest.raises(InvalidRequest) as caught:
        ollama.require_context(body, 511)
    assert caught.value.field == "options.num_ctx"


# Engines


def test_a_model_that_only_embeds_is_not_asked_to_write() -> None:
    capabilities = Capabilities(frozenset({Capability.EMBED}), 128, 1)
    with pytest.raises(InvalidRequest, match="does not write any") as caught:
        require_possible(GenerateRequest("A", (1,), 1), capabilities)
    assert caught.value.field == "model"


class House:
    """A supervisor whose engines meet one script each, the last for ever."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.engines: list[ScriptedEngine] = []
        self.supervisor = Supervisor("tiny", self._make, sleep=lambda _: asyncio.sleep(0))

    def _make(self) -> ScriptedEngine:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.engines.append(ScriptedEngine(lambda _: script))
        return self.engines[-1]


CRASH = Script(crash_after=0)


def test_embedding_is_tried_once_more_after_a_crash() -> None:
    async def scenario() -> None:
        house = House(CRASH, Script())
        (vector,) = await house.supervisor.embed(EmbedRequest("A", ((1, 2),)))
        assert math.hypot(*vector) == pytest.approx(1)
        assert [len(engine.embedded) for engine in house.engines] == [1, 1]

    run(scenario())


def test_inputs_in_flight_in_two_crashes_are_poison() -> None:
    async def scenario() -> None:
        house = House(CRASH, CRASH, Script())
        for name in ("A", "again"):
            with pytest.raises(PoisonRequest):
                await house.supervisor.embed(EmbedRequest(name, ((1, 2),)))
        assert len(await house.supervisor.embed(EmbedRequest("B", ((1, 3),)))) == 1
        assert [len(engine.embedded) for engine in house.engines] == [1, 1, 1]

    run(scenario())


# Slices: the worker's part, on tiny models


@dataclass
class Bench:
    """An embedder without a loop: the test turns it."""

    embedder: Any
    outbox: Any
    found: dict[str, list[bytes]] = field(default_factory=dict)
    failed: dict[str, str | None] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    def turn(self, spent: float | None = None) -> int:
        """How many vectors came of one turn."""
        self.embedder.turn(spent)
        return self.listen()

    def listen(self) -> int:
        count = 0
        while not self.outbox.empty:
            message = self.outbox.take()
            count += len(message.vectors)
            self.order += [message.request_id] * len(message.vectors)
            self.found.setdefault(message.request_id, []).extend(message.vectors)
            if message.failed is not None:
                self.failed[message.request_id] = message.failed.field
        return count

    def finish(self) -> None:
        for _ in range(1000):
            if not self.embedder.busy:
                return
            self.turn()
        raise AssertionError("it goes on for ever")


CONTEXT = 2048
Benches = Callable[[], Bench]


@pytest.fixture(scope="module", params=["encoder", "decoder", "recurrent"])
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Benches]:
    from freehold.engines.llamacpp.binding import Model
    from freehold.engines.llamacpp.embedding import Embedder
    from freehold.engines.llamacpp.outbox import Outbox
    from freehold.text.vocabulary import start_native
    from tests.support.bert import BertShape, write_tiny_bert
    from tests.support.tiny_mamba import write_tiny_mamba
    from tests.support.tiny_model import write_tiny_llama

    start_native()
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    if request.param == "encoder":
        write_tiny_bert(path, BertShape(context=CONTEXT))
    elif request.param == "decoder":
        write_tiny_llama(path, context_length=CONTEXT)
    else:
        write_tiny_mamba(path)
    config = EngineConfig("tiny", (str(path),), CONTEXT, 1, threads=1)
    model = Model(config)
    cached = request.param != "encoder"
    pooling = model.pooling(cached=cached)
    assert pooling is not None
    made: list[Embedder] = []

    def make() -> Bench:
        outbox = Outbox()
        made.append(Embedder(model, config, pooling, outbox, cached=cached))
        return Bench(made[-1], outbox)

    yield make
    for embedder in made:
        embedder.close()
    model.close()


def texts(count: int, length: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(5 + (n + 3 * m) % 50 for m in range(length)) for n in range(count))


@pytest.mark.native
def test_requests_take_turns_and_inputs_keep_their_order(bench: Benches) -> None:
    crowd, alone = bench(), bench()
    crowd.embedder.add(EmbedRequest("many", texts(150, 20)))
    crowd.embedder.add(EmbedRequest("few", texts(2, 20)))
    crowd.finish()
    assert crowd.order.index("few") < 40
    for number, tokens in enumerate(texts(150, 20)):
        alone.embedder.add(EmbedRequest(f"{number}", (tokens,)))
    alone.finish()
    for number, vector in enumerate(crowd.found["many"]):
        assert dot(vector, alone.found[f"{number}"][0]) > 0.9999
    assert dot(crowd.found["few"][1], crowd.found["many"][1]) > 0.9999


def dot(left: bytes, right: bytes) -> float:
    count = len(left) // 4
    pairs = zip(struct.unpack(f"<{count}f", left), struct.unpack(f"<{count}f", right), strict=True)
    return float(sum(x * y for x, y in pairs))


@pytest.mark.native
def test_beside_streams_the_first_slice_is_small(bench: Benches) -> None:
    here = bench()
    here.embedder.add(EmbedRequest("A", texts(100, 16)))
    assert here.turn(0.0) <= 64 // 16
    here.finish()
    assert len(here.found["A"]) == 100


@pytest.mark.native
def test_a_long_text_makes_room(bench: Benches) -> None:
    here = bench()
    short, long = texts(1, 30)[0], texts(1, 1500)[0]
    for name, tokens in (("A", short), ("B", long), ("C", short)):
        here.embedder.add(EmbedRequest(name, (tokens,)))
        here.finish()
    assert here.failed == {}
    assert dot(here.found["A"][0], here.found["C"][0]) > 0.9999
    assert dot(here.found["A"][0], here.found["B"][0]) < 0.9999


@pytest.mark.native
def test_what_nobody_waits_for_is_not_computed(bench: Benches) -> None:
    here = bench()
    here.embedder.add(EmbedRequest("gone", texts(500, 100)))
    here.embedder.add(EmbedRequest("here", texts(3, 100)))
    here.turn(0.0)
    here.embedder.cancel("gone")
    begun = len(here.found.get("gone", ()))
    here.finish()
    assert len(here.found["here"]) == 3
    assert len(here.found.get("gone", ())) == begun
    assert dot(here.found["here"][0], here.found["here"][0]) == pytest.approx(1, abs=1e-5)


@pytest.mark.native
@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_token_that_is_not_there_fails_its_request_alone(bench: Benches, token: int) -> None:
    here = bench()
    here.embedder.add(EmbedRequest("bad", ((5, token),)))
    here.embedder.add(EmbedRequest("good", texts(1, 9)))
    here.finish()
    here.listen()
    assert here.failed == {"bad": "input"}
    assert len(here.found["good"]) == 1
