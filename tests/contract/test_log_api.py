"""What operators can read about each answer, whatever the dialect."""

from __future__ import annotations

import re

import pytest

from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, Scripts, wait_for
from tests.support.routes import ANSWERING

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

LOGGER = "freehold.runtime.accounting"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Filled while the test runs."""
    caplog.set_level("INFO", logger=LOGGER)
    found: list[str] = []
    caplog.handler.emit = lambda record: (  # type: ignore[method-assign]
        found.append(record.getMessage()) if record.name == LOGGER else None
    )
    return found


@pytest.mark.parametrize("path", ANSWERING)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_a_line_without_a_word_of_it(
    server: Gateway, lines: list[str], path: str, stream: bool
) -> None:
    body = {"model": "tiny", "stream": stream, **ANSWERING[path]}
    response = server.client.post(path, json=body)
    wait_for(lambda: lines)
    (line,) = lines
    figures = dict(figure.split("=") for figure in line.split(" "))
    assert (figures["model"], figures["end"]) == ("'tiny'", "stop")
    assert (figures["completion_tokens"], figures["reasoning_tokens"]) == ("3", "0")
    assert int(figures["prompt_tokens"]) > int(figures["cached_tokens"]) == 0
    assert 0 <= float(figures["first_token"]) <= float(figures["first_answer"])
    if path.startswith("/v1"):  # Ollama's answers have no ids
        assert re.search(rf'"(chatcmpl-|cmpl-|resp_|msg_){figures["answer"]}"', response.text)
    for word in ("Hello", "All", "well"):
        assert word not in line


def test_answers_that_have_no_end(server: Gateway, scripts: Scripts, lines: list[str]) -> None:
    scripts.now = Script(first_token_seconds=60)
    seen = len(server.engines[-1].seen)
    with server.begin("/api/generate", {"model": "tiny", "prompt": "Hello"}):
        wait_for(lambda: len(server.engines[-1].seen) > seen)
    wait_for(lambda: lines)
    assert "end=cancelled" in lines[0]
    assert "first_token=- first_answer=- tokens_per_second=-" in lines[0]
    scripts.reset()
    scripts.per_attempt = [Script(crash_after=2)]
    server.chat(stream=True)
    wait_for(lambda: len(lines) == 2)
    assert "end=engine_crashed" in lines[1]
    assert "completion_tokens=2" in lines[1]
