"""The pure parts of the benchmarks: if these are wrong, every number is."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import engine_tables
from benchmarks.engines import COMPARED
from benchmarks.measure import (
    Record,
    Summary,
    copied_share,
    gaps_within,
    summarise,
)
from benchmarks.report import insert, ratio, render
from benchmarks.results import Results, compact
from benchmarks.weights import BenchmarkError
from benchmarks.workloads import WORKLOADS, Conversation, Load, build, text_of, warm_up

# Metrics


def record(
    sent: float, *chunks: float, tokens: int | None = None, wanted: int = 4, role: str = "client"
) -> Record:
    count = len(chunks) if tokens is None else tokens
    return Record(role, sent, tuple(chunks), 10, count, wanted, 0.0)


def test_one_measurement() -> None:
    records = [record(1.0, 1.5, 1.6, 1.8, 1.9), record(1.2, 2.2, 2.4, tokens=4)]
    summary = summarise(records, 5_000_000)
    assert summary.requests == 2
    assert summary.tokens == 8
    assert summary.seconds == pytest.approx(1.4)
    assert summary.tokens_per_second == pytest.approx(8 / 1.4, abs=0.01)
    assert summary.ttft_p50 == pytest.approx(750)
    assert summary.itl_p50 == pytest.approx(150)
    assert summary.tpot_p50 == pytest.approx((400 / 3 + 200 / 3) / 2, abs=0.01)
    assert summary.cut_short == 0
    assert summary.peak_memory_mb == 5.0


def test_several_tokens_in_a_chunk_shorten_the_time_per_token_not_the_gaps() -> None:
    summary = summarise([record(0.0, 1.0, 1.3, tokens=4), record(0.0, 1.0)], 0)
    assert summary.tpot_p50 == pytest.approx(100)
    assert summary.itl_p50 == pytest.approx(300)


def test_an_answer_of_another_length_is_counted() -> None:
    assert summarise([record(0.0, 1.0, 2.0), record(0.0, 1.0, 2.0, 3.0, 4.0)], 0).cut_short == 1


def test_only_what_overlaps_the_arrival_counts_as_the_gaps_of_the_others() -> None:
    seven = record(0.0, 1.0, 2.0, 5.0, 6.0, 9.0)
    assert gaps_within(seven, 3.0, 5.5) == [3.0, 1.0]
    summary = summarise([seven, record(3.0, 5.5, 5.6, role="arrival")], 0)
    assert summary.itl_p50 == pytest.approx(2000)


def test_nothing_answered_is_no_number() -> None:
    summary = summarise([record(0.0)], 0)
    assert summary.ttft_p50 is None
    assert summary.tokens_per_second == 0


def test_how_much_of_an_answer_is_copied() -> None:
    prompt = "def add(first, second):\n    return first + second\n"
    assert copied_share(prompt, f"Repeat:\n{prompt}") == 1.0
    assert copied_share("something else altogether", prompt) == 0.0
    assert copied_share("short", prompt) == 0.0


# Workloads


class Words:
    """A vocabulary of words and what is between them."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        assert not special
        found = re.findall(r" ?\w+|\W", text)
        for word in found:
            if word not in self._ids:
                self._ids[word] = len(self._texts)
                self._texts.append(word)
        return [self._ids[word] for word in found]

    def piece(self, token: int) -> bytes:
        return self._texts[token].encode()

    def count(self, text: str) -> int:
        return len(self.tokenize(text, special=False))


def conversations(load: Load) -> list[Conversation]:
    return [*load.conversations, *([load.arrival] if load.arrival else [])]


def texts(load: Load) -> list[str]:
    return [text for each in conversations(load) for text in (*each.turns, each.system or "")]


@pytest.mark.parametrize(
    ("name", "clients", "requests", "turns", "tokens"),
    [
        ("unique-1", 1, 3, 1, 256),
        ("unique-8", 8, 16, 1, 256),
        ("unique-16", 16, 32, 1, 256),
        ("chat", 8, 8, 4, 64),
        ("shared", 8, 16, 1, 16),
        ("long", 7, 7, 1, 32),
    ],
)
def test_the_shape_of_each_workload(
    name: str, clients: int, requests: int, turns: int, tokens: int
) -> None:
    words = Words()
    load = build(name, words, "1")
    assert load.clients == clients
    assert len(load.conversations) == requests
    for each in load.conversations:
        assert len(each.turns) == turns
        assert {words.count(turn) for turn in each.turns} == {tokens}


def test_sixteen_questions_share_one_system_prompt() -> None:
    words = Words()
    (system,) = {each.system for each in build("shared", words, "1").conversations}
    assert system is not None
    assert words.count(system) == 1024


def test_what_arrives_is_long() -> None:
    words = Words()
    arrival = build("long", words, "1").arrival
    assert arrival is not None
    assert [words.count(turn) for turn in arrival.turns] == [4000]


def test_what_is_to_be_copied_is_longer_than_the_answer() -> None:
    words = Words()
    for each in build("copy", words, "1").conversations:
        assert words.count(each.turns[0]) > each.answer


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_same_seed_asks_the_same_and_another_shares_nothing(name: str) -> None:
    first, again, other = (build(name, Words(), seed) for seed in ("1", "1", "2"))
    assert first == again
    long_enough = [text for text in texts(first) if text]
    assert not set(long_enough) & set(texts(other))
    assert not set(long_enough) & set(texts(warm_up(Words())))


def test_no_two_unique_prompts_begin_alike() -> None:
    load = build("unique-16", Words(), "1")
    assert len({each.turns[0][:40] for each in load.conversations}) == len(load.conversations)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_smaller_scale_keeps_the_clients_and_the_lengths(name: str) -> None:
    full, small = build(name, Words(), "1"), build(name, Words(), "1", 0.25)
    assert small.clients == full.clients
    assert len(small.conversations) >= small.clients
    assert {each.answer for each in small.conversations} == {
        each.answer for each in full.conversations
    }


def test_a_length_that_cannot_be_had_is_an_error() -> None:
    class Stubborn(Words):
        def piece(self, token: int) -> bytes:
            return super().piece(token) + b" more"

    with pytest.raises(ValueError, match="no text of 5 tokens"):
        text_of(5, Stubborn(), random.Random("1"))


# Results and the report


def about(commit: str = "abc") -> dict[str, object]:
    return {
        "date": "2026-01-01",
        "model": "m.gguf",
        "sha256": "0" * 64,
        "repeats": 3,
        "commit": commit,
        "machine": {
            "processor": "a processor",
            "features": ["avx2"],
            "cores": 2,
            "memory_gb": 24,
            "system": "Linux",
        },
        "versions": {"freehold": "1"},
        "build": ["-DX=1"],
        "flags": {"ours": "freehold serve"},
    }


def summary(speed: float, itl: float = 10.0, cut_short: int = 0, others: float = 0.0) -> Summary:
    numbers = (1.0, 1.0, itl, itl, 1.0, 1.0)
    return Summary(1, 48, cut_short, 1.0, speed, *numbers, 0.0, 100.0, others)


def test_results_are_taken_up_again(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = Results.open(path, about(), fresh=False)
    results.add("copy", "ours", 1, summary(10), [record(0.0, 1.0, 1.5)])
    results.add("copy", "llama-server", 0, summary(5), [record(0.0, 1.0)])
    again = Results.open(path, {**about(), "date": "2026-01-02"}, fresh=False)
    assert again.about["date"] == "2026-01-01"
    assert again.has("copy", "ours", 1)
    assert again.has("copy", "llama-server", 0)
    assert not again.has("copy", "ours", 2)
    assert again.measurements == results.measurements
    assert not Results.open(path, about(), fresh=True).measurements


def test_results_of_other_code_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results.open(path, about(), fresh=False).save()
    with pytest.raises(BenchmarkError, match="another commit"):
        Results.open(path, about("def"), fresh=False)


def test_records_are_kept_in_whole_milliseconds() -> None:
    (row,) = compact([record(5.0, 5.1004, 5.2506, 5.2507)])
    assert row == {"role": "client", "at": 0, "first": 100, "in": 10, "out": 3, "gaps": [151, 0]}


def test_a_ratio_above_one_is_always_better() -> None:
    assert ratio("tokens_per_second", 30.0, 20.0) == 1.5
    assert ratio("itl_p99", 20.0, 30.0) == 1.5
    assert ratio("itl_p99", None, 30.0) is None


def test_the_report_takes_medians_and_says_what_was_missed(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", about(), best="llama-server draft")
    for repeat, speed in enumerate((10.0, 40.0, 20.0), start=1):
        results.add("copy", "ours", repeat, summary(speed), [record(0.0, 1.0)])
        results.add("copy", "llama-server draft", repeat, summary(10.0), [record(0.0, 1.0)])
        results.add("long", "ours", repeat, summary(1.0, 50.0), [record(0.0, 1.0)])
        slow = summary(1.0, 200.0, cut_short=1)
        results.add("long", "llama-server draft", repeat, slow, [record(0.0, 1.0)])
    text = render(results)
    assert "| copy, 1: output tok/s | llama-server draft | 20.0 | 10.0 | 2.00 | 1.5 | met |" in text
    assert "| 50.0 | 200.0 | 4.00 | 5 | **missed** |" in text
    assert "| - | - | - | 0.97 | not measured |" in text
    assert "long, llama-server draft, repeat 2: 1 answers were not as long" in text


def test_a_machine_that_was_not_alone_is_told(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", about())
    results.add("copy", "ours", 1, summary(1, others=0.04), [record(0.0, 1.0)])
    results.add("copy", "ours", 2, summary(1, others=0.3), [record(0.0, 1.0)])
    text = render(results)
    assert "copy, ours, repeat 2: other programs took 30% of the processors" in text
    assert "repeat 1: other programs" not in text


def test_prompts_of_different_lengths_are_told(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", about())
    other = Record("client", 0.0, (1.0,), 11, 1, 4, 0.0)
    results.add("copy", "ours", 1, summary(1), [record(0.0, 1.0)])
    results.add("copy", "llama-server", 1, summary(1), [other])
    assert "the prompts' tokens differ: ours 10, llama-server 11" in render(results)


def test_tables_go_between_their_markers() -> None:
    document = "a <!-- q8_0: begin --> old <!-- q8_0: end --> b <!-- q4_0: begin --> c"
    assert insert(document, "q8_0", "new") == (
        "a <!-- q8_0: begin -->\n\nnew\n\n<!-- q8_0: end --> b <!-- q4_0: begin --> c"
    )
    with pytest.raises(ValueError, match="the markers of q4_0"):
        insert(document, "q4_0", "new")


def test_what_the_engine_spends_outside_llama_decode_is_told(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.json", about())
    for repeat, (speed, outside) in enumerate([(70.0, 0.02), (80.0, 0.01), (90.0, 0.05)], 1):
        greedy = {"tokens_per_second": speed, "outside": 0.01}
        schema = {"tokens_per_second": speed / 2, "outside": 8 * outside}
        results.batched.append(
            {"repeat": repeat, "bench": 100.0, "engine": {"greedy": greedy, "schema": schema}}
        )
    text = render(results)
    assert "| decode at 16 sequences: tok/s | llama-batched-bench | 80.0 | 100.0 | 0.80 |" in text
    assert "| greedy | 80.0 | 1.0% | 3% | met |" in text
    assert "| schema | 40.0 | 16.0% | 8% | **missed** |" in text


def test_only_what_was_measured_is_listed(tmp_path: Path) -> None:
    results = Results(
        tmp_path / "r.json", {**about(), "flags": {"ours": "here", "theirs": "there"}}
    )
    results.add("copy", "ours", 1, summary(1), [record(0.0, 1.0)])
    text = render(results)
    assert "`here`" in text
    assert "`there`" not in text


# Engines side by side, and the gateway


def engine_results(
    tmp_path: Path, rows: dict[tuple[str, str, int], tuple[float, float]]
) -> Results:
    """Speeds and times to the first token, by workload, server and round."""
    flags = {server: "a command" for _, server, _ in rows}
    results = Results(tmp_path / "r.json", {**about(), "flags": flags})
    for (workload, server, number), (speed, ttft) in rows.items():
        summary = replace(
            summarise([record(0.0, 1.0, 2.0)], 0), tokens_per_second=speed, ttft_p50=ttft
        )
        results.add(workload, server, number, summary, [record(0.0, 1.0, 2.0)])
    return results


def test_engines_are_compared_by_the_medians_of_their_rounds(tmp_path: Path) -> None:
    rows = {}
    for number, (ours, theirs) in enumerate(((20.0, 40.0), (40.0, 50.0)), 1):
        rows["shared-4", "llama.cpp Q8_0", number] = (ours, 100.0)
        rows["shared-4", "vLLM bf16", number] = (theirs, 100.0)
    text = engine_tables.compared(engine_results(tmp_path, rows))
    assert "| prompts | clients | llama.cpp Q8_0 | vLLM bf16 | vLLM bf16 / Q8_0 |" in text
    assert "| shared prefix | 4 | 30.0 | 45.0 | 1.50 |" in text


def test_the_gateways_cost_is_of_pairs(tmp_path: Path) -> None:
    speeds = {1: (10.0, 9.9), 2: (20.0, 20.0), 3: (10.0, 9.0)}
    rows = {}
    for number, (theirs, ours) in speeds.items():
        rows["8", "upstream: vLLM", number] = (theirs, 100.0)
        rows["8", "upstream: ours", number] = (ours, 100.0 + number)
    rows["8", "upstream: vLLM", 4] = (10.0, 100.0)  # whose pair was not measured
    text = engine_tables.gateway(engine_results(tmp_path, rows))
    assert "0.99 (0.90 to 1.00)" in text
    assert "+2 (+1 to +3)" in text
    assert "| met |" in text
    rows["8", "upstream: ours", 2] = (10.0, 102.0)
    assert "**missed**" in engine_tables.gateway(engine_results(tmp_path, rows))


@pytest.mark.parametrize("clients", [1, 2, 4, 8, 16])
def test_both_kinds_of_prompts_are_asked_by_every_number_of_clients(clients: int) -> None:
    words = Words()
    plain = build(f"unique-{clients}", words, "1", workloads=COMPARED)
    shared = build(f"shared-{clients}", words, "1", workloads=COMPARED)
    assert plain.clients == shared.clients == clients
    assert {each.system for each in plain.conversations} == {None}
    (system,) = {each.system for each in shared.conversations}
    assert system is not None
    assert words.count(system) == 512
