"""`freehold bench`: what it measures, and what it does when things go wrong."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from freehold.cli.main import cli, exit_status
from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import FreeholdError
from freehold.engines.scripted import Script
from freehold.lab.bench.report import Report
from tests.support.command import FREEHOLD, Result, environment, freehold
from tests.support.gateway import Gateway, gateway, wait_for
from tests.support.tiny_model import write_tiny_llama

# Prompts are few bytes: the tiny model has a token for each.
SHORT = ("--prompt", "120", "--answer", "4", "--warm-up", "1")
WORDS = Script(pieces=("one ", "two ", "three ", "four "), token_seconds=0.001)
STALLED = Script(pieces=("one ", *("later " for _ in range(3))), token_seconds=30.0)
DYING = Script(pieces=("one ", "two "), crash_after=1)


class Turns:
    """Measured requests, those with room for an answer, follow ``turns``, then answer well."""

    def __init__(self) -> None:
        self.turns: list[Script] = []
        self.measured = 0

    def __call__(self, request: GenerateRequest | None) -> Script:
        if request is None or request.max_tokens != 4:
            return WORDS
        self.measured += 1
        # The first is the warm-up.
        return self.turns.pop(0) if self.measured > 1 and self.turns else WORDS


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("roomy") / "tiny.gguf", context_length=2048)


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def up(tmp_path: Path, roomy: Path, turns: Turns) -> Iterator[Gateway]:
    with gateway(tmp_path / "home", (roomy,), script=turns, context=2048) as running:
        yield running


@contextlib.contextmanager
def other_server(refuse: int | None = None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Another server with OpenAI's API; the request of that number gets 429. What it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            return

        def do_GET(self) -> None:
            self._send(200, b'{"data": [{"id": "<b>other</b>"}]}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            if len(asked) - 1 == refuse:
                self._send(429, b'{"error": {"message": "Come later."}}')
                return
            words = len(body["messages"][0]["content"].split())
            usage = {"prompt_tokens": 5 + words, "completion_tokens": body["max_tokens"]}
            chunk = {"choices": [{"delta": {"content": "so"}, "finish_reason": "length"}]}
            events = (chunk, {"choices": [], "usage": usage})
            self._send(200, b"".join(b"data: %s\n\n" % json.dumps(e).encode() for e in events))

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def bench(home: Path, *arguments: str) -> Result:
    return freehold(home, "bench", *arguments, *SHORT)


def report_of(result: Result) -> Report:
    return msgspec.json.decode(result.out, type=Report)


def test_a_run_from_end_to_end(tmp_path: Path, up: Gateway) -> None:
    page, kept = tmp_path / "page.html", tmp_path / "kept.json"
    files = ("--html", str(page), "--output", str(kept))
    load = ("--users", "1,2", "--rate", "50", "--requests", "4", "--ttft", "10")
    result = bench(tmp_path / "other", up.url, *load, *files)
    assert result.status == 0, result.err
    rows = [
        line.split()[0] for line in result.out.splitlines() if re.match(r"[12] user|50/s", line)
    ]
    assert rows == ["1", "2", "50/s"]
    assert "goodput" in result.out
    report = msgspec.json.decode(kept.read_bytes(), type=Report)
    assert [len(each.runs[0].records) for each in report.stages] == [4, 4, 4]
    assert [each.runs[0].most_in_flight <= 2 for each in report.stages[:2]] == [True, True]
    for each in report.stages:
        summary = each.runs[0].summary
        assert (summary.completed, summary.completion_tokens) == (4, 16)
        assert summary.goodput == pytest.approx(summary.requests_per_second)
    assert report.target.model == "tiny"
    assert not report.target.ours
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert page.read_text().count("<figure>") == 2 * 7  # for each way load comes


def test_an_error_and_a_stall_are_counted_and_the_rest_is_measured(
    tmp_path: Path, up: Gateway, turns: Turns
) -> None:
    turns.turns = [WORDS, DYING, STALLED, WORDS]
    load = ("--users", "1", "--requests", "4", "--timeout", "1", "--json")
    result = bench(tmp_path / "other", up.url, *load)
    assert result.status == 0, result.err
    (run,) = report_of(result).stages[0].runs
    assert (run.summary.completed, run.summary.failed) == (2, 2)
    assert [record.outcome.value for record in run.records] == [
        *("completed", "failed", "failed", "completed")
    ]
    dead, stalled = run.records[1:3]
    assert dead.error is not None
    assert "ended an answer" in dead.error
    assert stalled.error == "No text came for 1 seconds."
    assert "1 of 4 requests: No text came" in result.err


def test_a_refusal_is_counted_and_not_tried_again(tmp_path: Path) -> None:
    with other_server(refuse=5) as (url, asked):
        result = bench(tmp_path, url, "--users", "1", "--requests", "3", "--json")
    assert result.status == 0, result.err
    (run,) = report_of(result).stages[0].runs
    assert (run.summary.completed, run.summary.refused) == (2, 1)
    (refused,) = [record for record in run.records if record.status == 429]
    assert refused.error is not None
    assert "Come later." in refused.error
    assert len(asked) == 5 + 3  # what is learned, the warm-up, and three requests


def test_any_server_gets_prompts_of_exactly_the_length_it_counts(tmp_path: Path) -> None:
    with other_server() as (url, asked):
        result = bench(tmp_path, url, "--users", "1", "--requests", "2", "--seed", "3", "--json")
    report = report_of(result)
    assert report.exact_prompts
    assert report.target.model == "<b>other</b>"
    assert {record.prompt_tokens for record in report.stages[0].records} == {120}
    texts = [body["messages"][0]["content"] for body in asked[-2:]]
    assert texts[0] != texts[1]


def test_the_key_goes_along_and_is_not_shown(tmp_path: Path) -> None:
    arguments = ("bench", "http://127.0.0.1:9/v1", "--model", "m", "--key-env", "BENCH_KEY")
    result = freehold(tmp_path, *arguments, extra={"BENCH_KEY": "top-secret"})
    assert result.status == 5
    assert "cannot be reached" in result.err
    assert "top-secret" not in result.err + result.out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nothing-like-it:7b",), 3, "no model called"),
        (("ftp://127.0.0.1/",), 2, "not an http or https address"),
        (("http://198.51.100.7/v1", "--offline"), 5, "offline"),
        (("http://127.0.0.1:9", "--key-env", "BENCH_KEY"), 2, "BENCH_KEY, which is not set"),
        (("http://127.0.0.1:9", "--users", "0"), 2, "no whole number"),
        (("http://127.0.0.1:9", "--users", "1.5"), 2, "no whole number"),
        (("http://127.0.0.1:9", "--rate", "nan"), 2, "no number"),
        (("http://127.0.0.1:9", "--parallel", "2"), 2, "started here"),
        (("http://127.0.0.1:9", "--output", "/nowhere/at/all.json"), 2, "no folder"),
        (("tiny", "--model", "m"), 2, "for a URL"),
    ],
)
def test_what_is_asked_wrongly(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    status: int,
    said: str,
) -> None:
    monkeypatch.setenv("FREEHOLD_HOME", str(tmp_path))
    with pytest.raises((FreeholdError, click.ClickException)) as found:
        cli(["bench", *arguments], standalone_mode=False)
    error = found.value
    assert said in str(error)
    given = error.exit_code if isinstance(error, click.ClickException) else None
    assert status == (exit_status(error) if isinstance(error, FreeholdError) else given)


def test_interrupted_it_keeps_what_was_measured(tmp_path: Path, up: Gateway, turns: Turns) -> None:
    turns.turns = [WORDS, WORDS, STALLED]
    command = [FREEHOLD, "bench", up.url, *SHORT, "--users", "1", "--requests", "9", "--json"]
    process = subprocess.Popen(
        command,
        env=environment(tmp_path / "other"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: turns.measured == 4)  # the warm-up, two answers, and one that stalls
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err.decode()
    report = msgspec.json.decode(out, type=Report)
    summary = report.stages[0].runs[0].summary
    assert report.ending.value == "interrupted"
    assert (summary.completed, summary.cancelled) == (2, 1)
    assert b"was interrupted" in err


def test_a_server_that_dies_is_told_and_what_was_measured_is_kept(tmp_path: Path) -> None:
    with other_server() as (url, asked):
        process = subprocess.Popen(
            [FREEHOLD, "bench", url, *SHORT, "--rate", "20", "--requests", "1000", "--json"],
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        wait_for(lambda: len(asked) > 10)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 5, err.decode()
    report = msgspec.json.decode(out, type=Report)
    assert report.ending.value == "server_gone"
    assert report.stages[0].runs[0].summary.completed >= 4
    assert b"stopped answering during the measurement" in err


def test_what_cannot_be_written_is_told_and_the_figures_are_shown(tmp_path: Path) -> None:
    taken = tmp_path / "taken.html"
    with other_server() as (url, asked):
        # Another program puts a folder where the page is to go, while it is measured.
        arguments = (url, "--users", "1", "--requests", "100", "--html", str(taken), "--json")
        measuring = threading.Thread(target=lambda: results.append(bench(tmp_path, *arguments)))
        results: list[Result] = []
        measuring.start()
        wait_for(lambda: asked)
        taken.mkdir()
        measuring.join()
    (result,) = results
    assert result.status == 1
    assert "directory" in result.err
    assert report_of(result).stages[0].runs[0].summary.completed == 100


@pytest.mark.native
def test_a_model_here_is_served_for_it_and_no_longer(tmp_path: Path, roomy: Path) -> None:
    load = ("--users", "2", "--requests", "2", "--context", "1024", "--json")
    result = bench(tmp_path, str(roomy), *load)
    assert result.status == 0, result.err
    report = report_of(result)
    assert report.target.ours
    assert report.target.settings == ("--context", "1024")
    assert report.stages[0].runs[0].summary.completed == 2
    assert report.stages[0].runs[0].summary.completion_tokens == 8
    assert not [*(tmp_path / "state" / "servers").glob("*.json")]
