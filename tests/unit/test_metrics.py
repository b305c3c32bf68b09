"""Counting, and how it is told."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from freehold.api.draining import Draining
from freehold.api.metrics import Told, registry
from freehold.api.recording import dialect_of, id_of
from freehold.domain.errors import ServerStopping
from freehold.engines.llamacpp.messages import Inspected, Share
from freehold.runtime.admission import Queue
from freehold.runtime.engine_figures import EngineFigures
from freehold.runtime.logs import JsonFormatter, RequestRecord, TextFormatter, answering, figures
from freehold.runtime.observing import GAPS, WAITS, Histogram, Meters, Pace
from freehold.runtime.residency_words import Why
from tests.support.running import run


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_a_histogram_counts_as_prometheus_does(values: list[float]) -> None:
    meters = Meters()
    for value in values:
        meters.model("m").first_token.add(value)
    samples = told(meters)
    for bound in WAITS:
        at_most = sum(value <= bound for value in values)
        labels = (("le", str(bound)), ("model", "m"))
        name = "freehold_time_to_first_token_seconds_bucket"
        assert samples.get((name, labels), 0) == at_most
    if values:
        counted = samples["freehold_time_to_first_token_seconds_count", (("model", "m"),)]
        assert counted == len(values)


def told(
    meters: Meters, engines: tuple[EngineFigures, ...] = ()
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, as Prometheus's own parser reads it."""
    return samples_of(Told(meters, engines, queues=(), unloads={}))


def samples_of(told: Told) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(registry(told)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_who_waits_and_who_left_is_told() -> None:
    queue = Queue("m", waiting=3, running=2, places=2)
    samples = samples_of(Told(Meters(), (), (queue,), {Why.ROOM: 5}))
    assert samples["freehold_queue_waiting", (("model", "m"),)] == 3
    assert samples["freehold_queue_running", (("model", "m"),)] == 2
    assert samples["freehold_unloads_total", (("reason", "room"),)] == 5
    assert samples["freehold_unloads_total", (("reason", "time"),)] == 0


def test_tokens_that_came_together_share_the_time_since_the_last_frame() -> None:
    histogram = Histogram(GAPS)
    pace = Pace(histogram)
    pace.hear(1, 10.0)
    pace.hear(0, 10.5)  # text that was held back: no token
    pace.hear(4, 11.0)
    assert sum(histogram.counts) == 4
    assert histogram.total == pytest.approx(1.0)
    assert histogram.counts[GAPS.index(0.3)] == 4  # 0.25 s each


def test_an_engine_that_answers_and_one_that_does_not() -> None:
    nothing = Share()
    steps = Share(steps=3, seconds=0.5, rows=7, tokens=0)
    inspected = Inspected(
        decode_seconds=1.0,
        answering=steps,
        mixed=nothing,
        reading=nothing,
        drafted_tokens=0,
        accepted_tokens=0,
        preemptions=2,
        running=1,
        waiting=4,
        held_tokens=99,
        shelved_bytes=7,
    )
    samples = told(
        Meters(),
        (
            EngineFigures("a", "llamacpp", 4, 512, inspected, 1000),
            EngineFigures("b", "llamacpp", 4, 512, None, None),
        ),
    )
    a = (("engine", "llamacpp"), ("model", "a"))
    b = (("engine", "llamacpp"), ("model", "b"))
    assert samples["freehold_engine_waiting", a] == 4
    assert samples["freehold_engine_preemptions_total", a] == 2
    assert samples["freehold_engine_resident_bytes", a] == 1000
    steps_of_answers = (a[0], ("kind", "answering"), a[1])
    assert samples["freehold_engine_steps_total", steps_of_answers] == 3
    assert samples["freehold_engine_answers_inspection", b] == 0
    assert ("freehold_engine_waiting", b) not in samples


def test_names_of_models_are_escaped() -> None:
    meters = Meters()
    meters.model('a"b\nc\\d').loads = 1
    assert told(meters)["freehold_loads_total", (("model", 'a"b\nc\\d'),)] == 1


@pytest.mark.parametrize("given_id", ["abc-1", "!" * 64])
def test_a_clients_id_is_kept(given_id: str) -> None:
    assert id_of(asked(given_id.encode())) == given_id


@pytest.mark.parametrize("given_id", [b"", b"a b", b"a\tb", b"\xe4", b"x" * 65, b"a\x7f"])
def test_an_id_that_is_long_or_no_plain_text_is_not_kept(given_id: bytes) -> None:
    ours = id_of(asked(given_id))
    assert len(ours) == 32
    assert ours != id_of(asked(given_id))


def asked(given_id: bytes) -> dict[str, object]:
    return {"type": "http", "headers": [(b"x-request-id", given_id)]}


def test_any_path_is_one_of_four_dialects() -> None:
    paths = ("/v1/messages", "/v1/chat/completions", "/api/chat", "/healthz", "/../etc/passwd")
    assert [dialect_of(path) for path in paths] == [
        *("anthropic", "openai", "ollama", "freehold", "freehold"),
    ]


def test_a_record_is_one_line_in_either_form() -> None:
    record = logging.LogRecord("freehold.x", logging.INFO, "", 0, "one\ntwo %s", ("three",), None)
    record.__dict__.update(figures({"status": 200, "model": None, "message": "not this"}))
    with answering(RequestRecord("r1")):
        text, line = TextFormatter().format(record), JsonFormatter().format(record)
    assert text == "INFO freehold.x [r1]: one\n  two three"
    assert "\n" not in line
    read = json.loads(line)
    assert (read["message"], read["request"], read["status"]) == ("one\ntwo three", "r1", 200)
    assert "model" not in read
    assert "request" not in json.loads(JsonFormatter().format(record))


def test_a_drain_ends_what_runs_then_and_what_begins_after() -> None:
    async def main() -> None:
        draining = Draining()
        forever = asyncio.Event()
        ends: list[str] = []

        async def answer() -> None:
            try:
                async with draining.bounded():
                    await forever.wait()
            except ServerStopping as error:
                ends.append(error.code)

        async def short() -> str:
            async with draining.bounded():
                return "whole"

        running = [asyncio.create_task(answer()) for _ in range(3)]
        await asyncio.sleep(0)
        before = draining.begun
        draining.begin(0.02)
        assert (before, draining.begun) == (False, True)
        assert await short() == "whole"
        await asyncio.gather(*running)
        await answer()
        assert ends == ["server_stopping"] * 4

    run(main())


def test_a_timeout_of_the_work_itself_is_not_taken_for_the_drain() -> None:
    async def main() -> None:
        draining = Draining()
        draining.begin(60)
        with pytest.raises(TimeoutError):
            async with draining.bounded():
                raise TimeoutError

    run(main())
