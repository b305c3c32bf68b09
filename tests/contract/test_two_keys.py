"""Two keys, one prompt: neither text nor cache hit nor time crosses from one to the other.

The engine is llama.cpp, the model small and random.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence

import httpx2
import pytest

from freehold.runtime.access.caller import Terms
from tests.support.gateway import Gateway, gateway
from tests.support.keyed import INFER, issued, sending
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native

ROUNDS = 25
_CANARY = "canary-7f3a"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("two")
    model = write_tiny_llama(folder / "tiny.gguf", context_length=4096)
    # One thread: two that wait for each other measure what else the machine does.
    with gateway(
        folder / "home", (model,), context=4096, parallel=2, threads=1, api_key="secret"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def keys(server: Gateway) -> Iterator[tuple[httpx2.Client, httpx2.Client]]:
    home = server.runtime.settings.home
    texts = [issued(home, name, Terms(INFER)) for name in ("ann", "bob")]
    with sending(server.url, texts[0]) as ann, sending(server.url, texts[1]) as bob:
        yield ann, bob


_DICE = random.Random(5)


def fresh() -> str:
    """A prompt of 2,000 tokens that nobody has asked before."""
    return "".join(_DICE.choices("abcdefghijklmnopqrstuvwxyz ", k=2000))


def ask(client: httpx2.Client, prompt: str) -> tuple[int, float]:
    """Tokens that were in the cache, and seconds until the first token was here."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 1, "temperature": 0}
    began = time.perf_counter()
    answered = client.post("/v1/completions", json=body)
    seconds = time.perf_counter() - began
    assert answered.status_code == 200, answered.text
    return answered.json()["usage"]["prompt_tokens_details"]["cached_tokens"], seconds


def chance(one: Sequence[float], other: Sequence[float]) -> float:
    """Mann and Whitney's U, two-sided, by the normal approximation: how likely samples of one
    distribution differ that much.
    """
    pairs = itertools.product(one, other)
    u = sum((a > b) + (a == b) / 2 for a, b in pairs)
    mean = len(one) * len(other) / 2
    deviation = math.sqrt(mean * (len(one) + len(other) + 1) / 6)
    return math.erfc(abs(u - mean) / deviation / math.sqrt(2))


def test_the_measure_tells_samples_apart() -> None:
    dice = random.Random(1)
    same = [chance(*([dice.random() for _ in range(25)] for _ in range(2))) for _ in range(400)]
    assert 0.02 < sum(p < 0.05 for p in same) / 400 < 0.09
    assert chance([1.0 + n / 100 for n in range(25)], [2.0 + n / 100 for n in range(25)]) < 1e-6


def test_a_prefix_is_reused_within_a_key_and_never_across(
    keys: tuple[httpx2.Client, httpx2.Client],
) -> None:
    """By the engine's own count, and by the clock: at most one of three measurements may find a
    difference at 1 %, which happens by chance in 3 of 10,000.
    """
    ann, bob = keys
    ask(ann, fresh()), ask(bob, fresh())
    suspicious = []
    for _ in range(3):
        crossed: list[float] = []
        control: list[float] = []
        own: list[float] = []
        for _ in range(ROUNDS):
            prompt, other = fresh(), fresh()
            assert ask(ann, prompt)[0] < 20  # a few letters are the same by chance
            hits, seconds = ask(ann, prompt)
            assert hits > 1900
            own.append(seconds)
            for samples, text in _DICE.sample([(crossed, prompt), (control, other)], 2):
                hits, seconds = ask(bob, text)
                assert hits < 20
                samples.append(seconds)
        assert chance(own, control) < 0.01, "the clock would not show a hit"
        suspicious.append(chance(crossed, control) <= 0.01)
        if not suspicious[-1]:
            break
    assert sum(suspicious) < 2


def test_ids_that_clients_choose_share_nothing(keys: tuple[httpx2.Client, httpx2.Client]) -> None:
    prompt = fresh()
    for client in keys:
        body = {
            "model": "tiny",
            "prompt": prompt,
            "max_tokens": 8,
            "user": "same",
            "prompt_cache_key": "same",
        }
        answered = client.post(
            "/v1/completions", json=body, headers={"x-request-id": "the-same-for-both"}
        )
        assert answered.status_code == 200
        assert answered.json()["usage"]["prompt_tokens_details"]["cached_tokens"] < 20


def test_what_one_key_said_the_other_never_sees(
    server: Gateway,
    keys: tuple[httpx2.Client, httpx2.Client],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ann, bob = keys
    caplog.set_level("INFO")
    body = {"model": "tiny", "input": f"Remember {_CANARY}.", "max_output_tokens": 4}
    kept = ann.post("/v1/responses", json=body).json()["id"]
    assert ann.get(f"/v1/responses/{kept}").status_code == 200
    after = {**body, "input": "What was it?", "previous_response_id": kept}
    told = [
        bob.get(f"/v1/responses/{kept}"),
        bob.delete(f"/v1/responses/{kept}"),
        bob.post("/v1/responses", json=after),
    ]
    assert [response.status_code for response in told] == [404, 404, 404]
    talk = ann.post("/freehold/v1/conversations", json={"title": _CANARY}).json()["id"]
    told.append(bob.get(f"/freehold/v1/conversations/{talk}"))
    assert told[-1].status_code == 404
    for path in (
        *("/freehold/v1/conversations", "/metrics", "/v1/models", "/api/ps", "/healthz"),
        "/freehold/v1/models/loaded",
    ):
        told.append(bob.get(path))
        assert told[-1].status_code == 200, path
    assert not [response for response in told if _CANARY in response.text]
    assert ann.get(f"/v1/responses/{kept}").status_code == 200
    secrets = [client.headers["authorization"].removeprefix("Bearer ") for client in keys]
    for secret in (_CANARY, *secrets):
        assert secret not in caplog.text
        assert secret not in server.client.get("/metrics", headers=bob.headers).text
