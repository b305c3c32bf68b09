"""vLLM's words and ours: what is asked, what is heard, and answers in two phases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import EngineError, InvalidRequest
from freehold.domain.events import Event, Finished, FinishReason, PromptProcessed, TextDelta
from freehold.domain.sampling import Constraint, Dry, Grammar, Sampling
from freehold.engines.vllm import asking, launch
from freehold.engines.vllm.hearing import Chunk, chunk_of, error_of
from freehold.engines.vllm.installation import Build
from freehold.engines.vllm.launch import VllmConfig
from freehold.engines.vllm.telling import Telling
from freehold.text.token_table import TokenTable

END, THINK, THOUGHT, HIDDEN = 256, 257, 258, 259
# Bytes, and four tokens with a meaning.
TABLE = TokenTable(
    [*(bytes([value]) for value in range(256)), b"<end>", b"<think>", b"</think>", b"<hidden>"],
    frozenset({END, THINK, THOUGHT, HIDDEN}),
    (END,),
)
SCHEMA = Constraint(Grammar.JSON_SCHEMA, '{"type": "object"}')
REASONED = Constraint(Grammar.JSON_SCHEMA, "{}", after="</think>")
MAYBE_REASONED = Constraint(Grammar.JSON_SCHEMA, "{}", after="</think>", begin="<think>")


def request(**changes: Any) -> GenerateRequest:
    given: dict[str, Any] = {
        "request_id": "A",
        "prompt": (1, 2, 3),
        "max_tokens": 100,
        "sampling": Sampling(temperature=0, seed=7),
        "shown": (THINK, THOUGHT),
    }
    return GenerateRequest(**{**given, **changes})


def telling(asked: GenerateRequest, context: int = 1000) -> Telling:
    return Telling(asked, TABLE, context, began=0.0)


def chunk(*tokens: int, reason: str | None = None) -> Chunk:
    choice = {"index": 0, "token_ids": list(tokens), "finish_reason": reason}
    said = chunk_of("data: " + json.dumps({"request_id": "x", "choices": [choice]}))
    assert said is not None
    return said


def used(cached: int) -> Chunk:
    usage = {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": cached}}
    said = chunk_of("data: " + json.dumps({"choices": [], "usage": usage}))
    assert said is not None
    return said


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def tokens_of(events: list[Event]) -> list[int]:
    return [token for event in events if isinstance(event, TextDelta) for token in event.tokens]


def spoken(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


# What is asked


def test_the_prompt_goes_as_token_ids_and_every_setting_with_it() -> None:
    sampling = Sampling(
        temperature=0.5,
        top_p=0.8,
        top_k=12,
        min_p=0.1,
        repetition_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=0.4,
        logit_bias=((5, -1.0),),
        seed=7,
    )
    body = asking.body(request(sampling=sampling, top_logprobs=3, cache_scope="k1"), TABLE, SCHEMA)
    assert body["token_ids"] == [1, 2, 3]
    assert body["cache_salt"] == "k1"
    assert body["stream"] is True
    assert body["sampling_params"] == {
        "temperature": 0.5,
        "top_p": 0.8,
        "top_k": 12,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "seed": 7,
        "max_tokens": 100,
        "stop_token_ids": [END],
        "detokenize": False,
        "logit_bias": {"5": -1.0},
        "logprobs": 3,
        "structured_outputs": {"json": {"type": "object"}},
    }


def test_marks_of_calls_are_tokens_where_there_are_such() -> None:
    grammar = Constraint(
        Grammar.LARK, 'start: token_a token_b "<think>"\ntoken_a: "<think>"\ntoken_b: "<none>"'
    )
    assert asking.structured(grammar, TABLE)["grammar"] == (
        f'start: token_a token_b "<think>"\ntoken_a: <[{THINK}]>\ntoken_b: "<none>"'
    )


def test_what_its_sampler_does_not_know_is_refused_by_name() -> None:
    for sampling, field in (
        (Sampling(typical_p=0.9), "typical_p"),
        (Sampling(dry=Dry(0.8)), "dry_multiplier"),
        (Sampling(penalty_window=64), "repeat_last_n"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            asking.require_sampled(sampling)
        assert caught.value.field == field
    asking.require_sampled(Sampling(dry=Dry(0.0)))


def test_a_seed_is_chosen_here_so_that_it_can_be_told() -> None:
    chosen = asking.seeded(request(sampling=Sampling()))
    assert chosen.sampling.seed is not None
    assert asking.seeded(chosen) is chosen


# What is heard


def test_an_answer_as_events() -> None:
    heard = telling(request())
    events = heard.hear(chunk(*spoken("He")), 1.0)
    events += heard.hear(chunk(*spoken("y"), END, reason="stop"), 2.0)
    events += heard.hear(used(2), 2.0)
    assert not heard.cut
    assert not heard.go_on()
    events += heard.end(3.0)
    assert isinstance(events[0], PromptProcessed)
    assert text_of(events) == "Hey"
    assert tokens_of(events) == list(spoken("Hey"))  # without the token that ended it
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.STOP
    assert (finished.usage.prompt_tokens, finished.usage.cached_tokens) == (3, 2)
    assert finished.usage.completion_tokens == 3
    assert (finished.timings.prefill, finished.timings.decode) == (1.0, 2.0)
    assert finished.seed == 7


def test_control_tokens_are_seen_only_where_the_template_writes_with_them() -> None:
    heard = telling(request())
    events = heard.hear(chunk(THINK, HIDDEN, *spoken("a"), THOUGHT, reason="length"), 1.0)
    assert text_of([*events, *heard.end(1.0)]) == "<think>a</think>"


@given(st.text(min_size=1, max_size=20), st.data())
def test_characters_are_whole_however_they_are_cut(text: str, data: st.DataObject) -> None:
    tokens = list(spoken(text))
    heard, events = telling(request()), list[Event]()
    while tokens:
        count = data.draw(st.integers(1, len(tokens)))
        piece, tokens = tokens[:count], tokens[count:]
        events += heard.hear(chunk(*piece, reason=None if tokens else "length"), 1.0)
    assert text_of([*events, *heard.end(1.0)]) == text


def test_a_stop_string_cuts_it_here_too() -> None:
    heard = telling(request(sampling=Sampling(temperature=0, seed=1, stop=("lo w",))))
    events = heard.hear(chunk(*spoken("hello")), 1.0)
    events += heard.hear(chunk(*spoken(" world")), 1.0)
    assert heard.cut
    assert not heard.go_on()
    events += heard.end(1.0)
    assert text_of(events) == "hel"
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.stop == "lo w"
    assert finished.usage.completion_tokens == len("hello w") == len(tokens_of(events))


def test_the_context_ends_it() -> None:
    assert telling(request(max_tokens=5000), context=40).request.max_tokens == 37


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_what_was_broken_off_is_an_error(reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        telling(request()).hear(chunk(65, reason=reason), 1.0)


def test_a_stream_that_just_ends_is_an_error() -> None:
    heard = telling(request())
    heard.hear(chunk(65), 1.0)
    with pytest.raises(EngineError):
        heard.end(2.0)


def test_errors_are_read() -> None:
    said = chunk_of('data: {"error": {"message": "No more room.", "code": 500}}')
    assert said is not None
    assert said.error is not None
    assert said.error.message == "No more room."
    assert error_of(b'{"error": {"message": "Too long."}}') == "Too long."
    for body in (b"", b"<html>", b"{}"):
        with pytest.raises(EngineError):
            error_of(body)


@pytest.mark.parametrize("line", ["", ": ping", "data: [DONE]", "event: x"])
def test_lines_that_say_nothing(line: str) -> None:
    assert chunk_of(line) is None


@pytest.mark.parametrize("line", ["data: {", "data: []", 'data: {"choices": 3}'])
def test_lines_that_make_no_sense(line: str) -> None:
    with pytest.raises(EngineError):
        chunk_of(line)


# Constrained after reasoning


def test_a_constraint_holds_from_the_first_token_where_nothing_comes_before() -> None:
    assert telling(request(constraint=SCHEMA)).constraint == SCHEMA


def test_reasoning_is_free_and_the_answer_behind_it_is_bound() -> None:
    heard = telling(request(constraint=REASONED))
    free = heard.constraint
    assert free is None
    events = heard.hear(chunk(*spoken("hm"), THOUGHT), 1.0)
    assert heard.cut
    assert heard.go_on()
    assert heard.constraint == Constraint(Grammar.JSON_SCHEMA, "{}")
    assert heard.request.prompt == (1, 2, 3, *spoken("hm"), THOUGHT)
    assert heard.request.max_tokens == 100 - 3
    assert heard.request.deadline is None
    events += heard.hear(chunk(*spoken("{}"), END, reason="stop"), 2.0)
    events += heard.hear(used(5), 2.0)  # of a prompt that is not the client's
    assert not heard.go_on()
    events += heard.end(3.0)
    assert text_of(events) == "hm</think>{}"
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.usage.completion_tokens == 5
    assert finished.usage.cached_tokens == 0
    assert sum(isinstance(event, PromptProcessed) for event in events) == 1


def test_reasoning_that_takes_all_the_room_ends_the_answer() -> None:
    heard = telling(request(constraint=REASONED, max_tokens=3))
    events = heard.hear(chunk(*spoken("hm"), THOUGHT), 1.0)
    assert not heard.go_on()
    finished = [*events, *heard.end(2.0)][-1]
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.LENGTH


def test_who_does_not_reason_is_bound_from_the_beginning_and_nobody_saw_it_try() -> None:
    heard = telling(request(constraint=MAYBE_REASONED))
    assert heard.hear(chunk(*spoken("Sure")), 1.0) == []
    assert heard.cut
    assert heard.go_on()
    assert heard.request.prompt == (1, 2, 3)
    assert heard.constraint == Constraint(Grammar.JSON_SCHEMA, "{}")
    events = heard.hear(chunk(*spoken("{}"), END, reason="stop"), 2.0)
    assert text_of([*events, *heard.end(2.0)]) == "{}"


def test_who_may_reason_and_does_is_left_to_it() -> None:
    heard = telling(request(constraint=MAYBE_REASONED))
    events = list[Event]()
    for token in (*spoken("<thi"), *spoken("nk>"), *spoken("x")):  # spelled out
        events += heard.hear(chunk(token), 1.0)
        assert not heard.cut
    events += heard.hear(chunk(THOUGHT), 1.0)
    assert heard.cut
    assert heard.go_on()
    assert text_of(events) == "<think>x</think>"


# How it is started


def config(build: Build) -> VllmConfig:
    return VllmConfig(
        model="m",
        build=build,
        python=Path("/home/vllm/environment/bin/python"),
        weights=Path("/home/models/x"),
        context=4096,
        parallel=8,
        threads=2,
        cache_bytes=3 << 30,
        tensor_parallel=2,
    )


def test_it_listens_on_a_unix_socket_only_and_calls_nobody() -> None:
    words = launch.arguments(config(Build.CUDA), Path("/run/x.sock"))
    assert words[words.index("--uds") + 1] == "/run/x.sock"
    assert "--port" not in words
    assert "--trust-remote-code" not in words
    assert words[words.index("--tensor-parallel-size") + 1] == "2"
    told = launch.environ(config(Build.CUDA), {"HF_TOKEN": "secret", "PATH": "/bin"}, Path("/c"))
    assert "HF_TOKEN" not in told
    assert told["PATH"] == "/bin"
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE"):
        assert told[name] == "1"


def test_weights_are_quantised_only_when_that_is_asked_for() -> None:
    plain = launch.arguments(config(Build.CUDA), Path("/s"))
    assert "--quantization" not in plain  # a checkpoint's own is read by vLLM itself
    smaller = replace(config(Build.CUDA), quantization="fp8_per_tensor")
    words = launch.arguments(smaller, Path("/s"))
    assert words[words.index("--quantization") + 1] == "fp8_per_tensor"
    assert len(words) == len(plain) + 2


def test_cards_are_named_as_whoever_started_us_named_them() -> None:
    def told(inherited: dict[str, str]) -> dict[str, str]:
        return launch.environ(
            replace(config(Build.CUDA), cards=(0, 2)), {**inherited, "PATH": "/bin"}, Path("/c")
        )

    assert told({})["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert told({})["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert told({"CUDA_VISIBLE_DEVICES": "5, 4,GPU-1a"})["CUDA_VISIBLE_DEVICES"] == "5,GPU-1a"
    every = launch.environ(config(Build.CUDA), {"CUDA_VISIBLE_DEVICES": "1"}, Path("/c"))
    assert every["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in launch.environ(config(Build.CPU), {}, Path("/c"))


def test_the_cpu_build_is_told_its_cache_and_its_threads() -> None:
    told = launch.environ(config(Build.CPU), {}, Path("/c"))
    assert told["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert told["OMP_NUM_THREADS"] == "2"
    assert "--enforce-eager" in launch.arguments(config(Build.CPU), Path("/s"))
    assert "--enforce-eager" not in launch.arguments(config(Build.CUDA), Path("/s"))


def test_the_cpu_build_is_begun_by_what_makes_that_shorter() -> None:
    def command(chosen: VllmConfig) -> tuple[str, ...]:
        return launch.arguments(chosen, Path("/s"))[1:4]

    assert command(replace(config(Build.CPU), plugin=Path("/p"))) == launch.CPU_COMMAND
    assert command(config(Build.CPU)) == launch.COMMAND  # it is not there
    assert command(replace(config(Build.CUDA), plugin=Path("/p"))) == launch.COMMAND


def test_what_comes_merged_with_the_end_of_reasoning_does_not_count() -> None:
    heard = telling(request(constraint=REASONED))
    events = heard.hear(chunk(*spoken("hm"), THOUGHT, *spoken("So:"), END, reason="stop"), 1.0)
    assert heard.cut
    assert heard.go_on()
    assert heard.request.prompt == (1, 2, 3, *spoken("hm"), THOUGHT)
    events += heard.hear(chunk(*spoken("{}"), END, reason="stop"), 2.0)
    assert text_of([*events, *heard.end(3.0)]) == "hm</think>{}"


def test_who_does_not_reason_is_bound_however_soon_it_ends() -> None:
    heard = telling(request(constraint=MAYBE_REASONED, max_tokens=5))
    assert heard.hear(chunk(*spoken("Sure"), END, reason="stop"), 1.0) == []
    assert heard.go_on()
    assert heard.constraint == Constraint(Grammar.JSON_SCHEMA, "{}")


def test_a_turn_may_not_end_while_its_reasoning_is_free() -> None:
    asked = request(constraint=REASONED)
    assert asking.sampling_params(asked, TABLE, None)["min_tokens"] == asked.max_tokens
    assert "min_tokens" not in asking.sampling_params(asked, TABLE, SCHEMA)
