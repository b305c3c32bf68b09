"""The three dialects on vLLM, with the official clients and real weights; and what is left of it.

`make test-vllm` runs this: it installs vLLM (CPU) when it is not there.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import ollama
import openai
import psutil
import pytest

from tests.support import vllm
from tests.support.command import Server, freehold, serving

pytestmark = [pytest.mark.vllm, pytest.mark.weights, pytest.mark.native]

MODEL = vllm.MODEL
COUNT: Any = [{"role": "user", "content": "Count from one to five in words."}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = "What is the temperature in Oslo now?"
# How far the log-probability of the same token may lie apart between the engines: llama.cpp rounds
# what it multiplies with quantised weights to 8 bits, vLLM the weights and everything else to
# bfloat16, which keeps 8 bits too. Seen: see docs/vllm.md.
TOLERANCE = 0.5


@pytest.fixture(scope="module")
def home() -> Path:
    return vllm.home()


@pytest.fixture(scope="module")
def stages() -> list[str]:
    """What was told while the server started."""
    return []


@pytest.fixture(scope="module")
def server(home: Path, stages: list[str]) -> Iterator[Server]:
    with serving(home, MODEL, "--vllm", MODEL, "--context", "4096", "--parallel", "4") as running:
        stages += wait_until_ready(running.url)
        yield running


def wait_until_ready(url: str) -> list[str]:
    """The stages that were told meanwhile."""
    end = time.monotonic() + vllm.START_SECONDS
    stages: list[str] = []
    while httpx2.get(f"{url}/readyz", trust_env=False).status_code != 200:
        assert time.monotonic() < end, "vLLM did not get ready"
        told = httpx2.get(f"{url}/freehold/v1/models/loaded", trust_env=False).json()
        stages += [each["stage"] for each in told["models"] if each["stage"] not in (None, *stages)]
        time.sleep(0.2)
    return stages


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def network_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()


def test_chat_streamed_equals_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": COUNT, "temperature": 0, "max_tokens": 40}
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(**asked, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert streamed == whole.choices[0].message.content
    assert "three" in streamed.lower()
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 5


def test_the_same_question_again_is_read_from_the_cache(client: openai.OpenAI) -> None:
    # It keeps prefixes in blocks of 128 tokens.
    long: Any = [{"role": "system", "content": "Be brief. " * 100}, *COUNT]
    asked: dict[str, Any] = {"model": MODEL, "messages": long, "temperature": 0, "max_tokens": 3}
    client.chat.completions.create(**asked)
    again = client.chat.completions.create(**asked)
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens


def test_an_answer_in_a_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Where is the Eiffel tower?"}],
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
        },
    )
    assert json.loads(answer.choices[0].message.content or "") == {"city": "Paris"}


def test_a_tool_is_called(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": WEATHER}],
        temperature=0,
        tool_choice="required",
        parallel_tool_calls=False,
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "temperature",
                    "description": "Tells the temperature of a city.",
                    "parameters": SCHEMA,
                },
            }
        ],
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "temperature"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    assert answer.choices[0].finish_reason == "tool_calls"


def test_too_long_a_prompt_says_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="4096"):
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 6000}]
        )


def test_the_prompts_log_probabilities_by_echo(client: openai.OpenAI) -> None:
    prompt = "The capital of France is"
    answer = client.completions.create(
        model=MODEL, prompt=prompt, temperature=0, max_tokens=2, logprobs=2, echo=True
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert answer.choices[0].text.startswith(prompt)
    tokens, values = found.tokens or [], found.token_logprobs or []
    assert "".join(tokens) == answer.choices[0].text
    known: list[float | None] = [*values]  # the client's type knows of no first token
    assert known[0] is None
    assert all(value is not None and value <= 0 for value in known[1:])
    assert tokens[tokens.index(" France")] == " France"
    assert (values[tokens.index(" is")] or -9.0) > -3  # nothing else is as likely there


def test_its_figures_are_in_our_metrics(server: Server, client: openai.OpenAI) -> None:
    secret = "xylophonic marmalade"
    client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": secret * 60}], max_tokens=2
    )
    told = httpx2.get(f"{server.url}/metrics", trust_env=False).text
    labels = f'{{engine="vllm",model="{MODEL}"}}'
    samples = dict(
        line.rsplit(" ", 1) for line in told.splitlines() if line and not line.startswith("#")
    )
    assert float(samples[f"freehold_engine_running{labels}"]) == 0
    assert float(samples[f"freehold_engine_cache_tokens{labels}"]) >= 4 * 4096
    assert float(samples[f"freehold_engine_queried_tokens_total{labels}"]) > 100
    assert f"freehold_engine_hit_tokens_total{labels}" in samples
    assert float(samples[f'freehold_engine_queue_seconds_count{{model="{MODEL}"}}']) > 0
    assert "marmalade" not in told
    activity = httpx2.get(f"{server.url}/freehold/v1/activity", trust_env=False).json()
    (model,) = activity["models"]
    assert model["engine"]["name"] == "vllm"
    assert model["engine"]["running"] == 0
    assert model["engine"]["held_tokens"] is not None


def test_anthropics_client(server: Server) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        # The client's newest models take no temperature, so it has no word for it any more.
        greedy: Any = {"model": MODEL, "extra_body": {"temperature": 0}}
        with client.messages.stream(max_tokens=40, messages=COUNT, **greedy) as stream:
            said = "".join(stream.text_stream)
        assert "three" in said.lower()
        called: anthropic.types.Message = client.messages.create(
            max_tokens=100,
            messages=[{"role": "user", "content": WEATHER}],
            tools=[{"name": "temperature", "description": "Of a city.", "input_schema": SCHEMA}],
            tool_choice={"type": "tool", "name": "temperature"},
            **greedy,
        )
        uses = [block for block in called.content if block.type == "tool_use"]
        assert [use.input for use in uses] == [{"city": "Oslo"}]


def test_ollamas_client(server: Server) -> None:
    options = {"temperature": 0, "num_predict": 40}
    with ollama.Client(host=server.url, trust_env=False) as client:
        said = "".join(
            part.message.content or ""
            for part in client.chat(MODEL, messages=COUNT, stream=True, options=options)
        )
        assert "three" in said.lower()
        shaped = client.chat(
            MODEL,
            messages=[{"role": "user", "content": "Where is the Eiffel tower?"}],
            format=SCHEMA,
            options=options,
        )
    assert json.loads(shaped.message.content or "") == {"city": "Paris"}


def test_both_engines_agree_on_the_same_weights(home: Path, client: openai.OpenAI) -> None:
    prompts = (
        "def is_leap_year(year):",
        "The capital of France is",
        "Roses are red, violets are",
        "1, 2, 3, 4, 5, 6,",
    )

    ours = [said_by(client, prompt) for prompt in prompts]
    with serving(home, MODEL, "--no-profile") as running:
        wait_until_ready(running.url)
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none") as plain:
            theirs = [said_by(plain, prompt) for prompt in prompts]
    agreed, apart = [], []
    for left, right in zip(ours, theirs, strict=True):
        same = 0
        for one, other in zip(left, right, strict=False):
            if one.token != other.token:  # then it was a near thing for both
                assert one.near(other.token) < TOLERANCE
                assert other.near(one.token) < TOLERANCE
                break
            same += 1
            apart.append(abs(one.logprob - other.logprob))
        agreed.append(same)
    print(f"tokens that agree: {agreed}; log-probabilities apart: at most {max(apart):.3f}")
    assert max(apart) < TOLERANCE


@dataclass(frozen=True)
class Said:
    """A token with its log-probability, and the likeliest in its place."""

    token: str
    logprob: float
    top: dict[str, float]

    def near(self, token: str) -> float:
        """How much less likely another token was."""
        return self.logprob - self.top.get(token, -math.inf)


def said_by(asked: openai.OpenAI, prompt: str) -> list[Said]:
    answer = asked.completions.create(
        model=MODEL, prompt=prompt, temperature=0, max_tokens=24, logprobs=5
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    return [
        Said(token, value or 0.0, dict(top or {}))
        for token, value, top in zip(
            logprobs.tokens or [],
            logprobs.token_logprobs or [],
            logprobs.top_logprobs or [],
            strict=True,
        )
    ]


def test_what_dies_is_started_again(server: Server) -> None:
    asked = {"model": MODEL, "messages": COUNT, "max_tokens": 5}
    with httpx2.Client(base_url=server.url, timeout=vllm.START_SECONDS, trust_env=False) as http:
        assert http.post("/v1/chat/completions", json=asked).status_code == 200
        for process in psutil.Process(server.process.pid).children(recursive=True):
            if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline()):
                process.kill()
        answer = http.post("/v1/chat/completions", json=asked)
        assert answer.status_code == 200, answer.text


def test_its_start_was_told(server: Server, stages: list[str]) -> None:
    assert server.url
    assert "loading Python and PyTorch" in stages
    assert len(stages) >= 3


def test_it_computes_on_every_processor_that_it_is_given(server: Server) -> None:
    """What is forked with OpenMP in it may find itself on one, with one thread."""
    processes = psutil.Process(server.process.pid).children(recursive=True)
    (worker,) = (each for each in processes if each.name() == "VLLM::Worker")
    bound = {frozenset(os.sched_getaffinity(thread.id)) for thread in worker.threads()}
    given = len(os.sched_getaffinity(server.process.pid))
    assert len(frozenset().union(*bound)) == given


def test_it_has_no_network_and_leaves_nothing_behind(server: Server) -> None:
    """The last that asks this server: it is killed."""
    pid = server.process.pid
    started = psutil.Process(pid).children(recursive=True)
    ours = network_of(pid)
    apart = [process for process in started if network_of(process.pid) != ours]
    assert len(apart) >= 2  # the server and what computes for it
    os.kill(pid, signal.SIGKILL)
    server.process.wait()
    _, left = psutil.wait_procs(started, timeout=30)
    assert left == []


def test_what_is_missing_is_said(tmp_path: Path, home: Path) -> None:
    extra = {"FREEHOLD_VLLM": MODEL}
    bare = freehold(tmp_path, "run", MODEL, "x", extra=extra)
    assert bare.status == 5
    assert "freehold engine install vllm" in bare.err
    (tmp_path / "engines").symlink_to(home / "engines")
    pulled = freehold(tmp_path, "import", str(_gguf(home)), "--name", MODEL)
    assert pulled.status == 0, pulled.err
    unconverted = freehold(tmp_path, "run", MODEL, "x", extra=extra)
    assert unconverted.status == 2
    assert f"freehold convert {MODEL} --to safetensors" in unconverted.err


def test_offline_it_answers_and_nothing_of_it_can_leave(home: Path) -> None:
    words = (MODEL, "--vllm", MODEL, "--context", "1024", "--parallel", "2", "--offline")
    with serving(home, *words) as running:
        wait_until_ready(running.url)
        pid = running.process.pid
        # The gateway makes no connection (seccomp), and what computes is in a network of its own.
        assert "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()
        ours = network_of(pid)
        started = psutil.Process(pid).children(recursive=True)
        apart = [each for each in started if network_of(each.pid) != ours]
        assert len(apart) >= 4  # doorkeeper, keeper, the server and what computes for it
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
            said = client.chat.completions.create(
                model=MODEL, messages=COUNT, temperature=0, max_tokens=40
            )
            assert "three" in (said.choices[0].message.content or "").lower()
            stream = client.chat.completions.create(
                model=MODEL, messages=COUNT, max_tokens=900, stream=True
            )
            next(iter(stream))
            stream.close()  # which closes the connection that came through the door
            # What dies is started again, through the same door.
            for process in apart:
                if "EngineCore" in process.name():
                    process.kill()
            again = client.with_options(timeout=vllm.START_SECONDS).chat.completions.create(
                model=MODEL, messages=COUNT, temperature=0, max_tokens=5
            )
            assert again.choices[0].message.content
        everything = psutil.Process(pid).children(recursive=True)
        os.kill(pid, signal.SIGKILL)
        running.process.wait()
        _, left = psutil.wait_procs(everything, timeout=30)
        assert left == []


def test_run_offline(home: Path) -> None:
    done = freehold(
        *(home, "run", MODEL, "Say yes.", "--offline"),
        extra={"FREEHOLD_VLLM": MODEL, "FREEHOLD_CONTEXT": "1024", "FREEHOLD_PARALLEL": "1"},
        timeout=200,
    )
    assert done.status == 0, done.err
    assert done.out.strip()


def _gguf(home: Path) -> Path:
    manifest = json.loads((home / "manifests" / "qwen2.5-coder%3A0.5b.json").read_bytes())
    return home / "blobs" / str(manifest["files"][0]["sha256"])
