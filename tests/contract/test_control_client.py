"""While somebody sends requests that are shaped to hurt, everybody else is answered as before.

What hurts in a request must be found before its turn, or be done where nobody waits for it. How
much slower others are: ``python -m tests.contract.test_control_client MODEL.gguf``.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.command import Server, serving
from tests.support.endless import write_endless_llama

pytestmark = pytest.mark.native

BODY = {"messages": [{"role": "user", "content": "Hello"}], "model": "endless"}
JSON_HEADERS = {"content-type": "application/json"}

ENDLESS_SCHEMA = {
    "allOf": [{"type": "string", "pattern": f"a{{{n}}}"} for n in range(300)],
}
LARGEST_ALLOWED = {
    "type": "object",
    "properties": {
        f"field {n}": {"type": "string", "pattern": f"^[a-z]{{1,{n % 40 + 1}}}$"}
        for n in range(400)
    },
}


def constrained(schema: object) -> bytes:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return json.dumps({**BODY, "max_tokens": 8, "response_format": asked}).encode()


def expression(pattern: str) -> bytes:
    return constrained({"type": "string", "pattern": pattern})


def another_schema(number: int) -> bytes:
    return constrained({"type": "object", "properties": {f"p{number}": {"const": number}}})


def recursive(_: int) -> bytes:
    node = {"type": "array", "items": {"$ref": "#/$defs/node"}}
    return constrained({"$ref": "#/$defs/node", "$defs": {"node": node}})


SHAPES: dict[str, Callable[[int], bytes]] = {
    "a schema without measure": lambda _: constrained(ENDLESS_SCHEMA),
    "a large schema, each time another": lambda n: constrained(
        {**LARGEST_ALLOWED, "title": str(n)}
    ),
    "different small schemas": another_schema,
    "a schema that refers to itself": recursive,
    "an expression that backtracks": lambda _: expression("^(a+)+$"),
    "thirty thousand brackets": lambda _: expression("(" * 30_000),
    "nested a hundred thousand deep": lambda _: b'{"a":' * 100_000,
    "more answers than there are": lambda _: json.dumps({**BODY, "n": 10**9}).encode(),
    "ten thousand prompts": lambda _: json.dumps(
        {"model": "endless", "prompt": ["Hello"] * 10_001}
    ).encode(),
    "eight million bytes": lambda _: json.dumps(
        {**BODY, "messages": [{"role": "user", "content": "a" * 7_900_000}]}
    ).encode(),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("control")
    model = write_endless_llama(folder / "endless.gguf", layers=4, context_length=1024)
    with serving(folder / "home", str(model)) as running:
        yield running


def stream(client: httpx2.Client) -> tuple[float, float]:
    """Seconds to the first token and to the last one."""
    began = time.perf_counter()
    first = None
    asked = {**BODY, "stream": True, "max_tokens": 60, "temperature": 0}
    with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if first is None and '"content"' in line:
                first = time.perf_counter() - began
            if line == "data: [DONE]":
                break
        else:
            raise AssertionError("the stream has no end")
    assert first is not None
    return first, time.perf_counter() - began


def typical(client: httpx2.Client) -> tuple[float, float]:
    streams = [stream(client) for _ in range(9)]
    firsts, wholes = zip(*streams, strict=True)
    return statistics.median(firsts), statistics.median(wholes)


@contextlib.contextmanager
def beside(url: str, shape: Callable[[int], bytes]) -> Iterator[list[int]]:
    """Somebody sends such requests, at most ten a second; yields the statuses so far."""
    stop, statuses = threading.Event(), list[int]()

    def send() -> None:
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
            while not stop.wait(0.1):
                body = shape(len(statuses))
                path = "/v1/completions" if b'"prompt"' in body[:60] else "/v1/chat/completions"
                answer = client.post(path, content=body, headers=JSON_HEADERS)
                statuses.append(answer.status_code)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        time.sleep(0.3)
        yield statuses
    finally:
        stop.set()
        sender.join(60)


@pytest.mark.parametrize("name", SHAPES)
def test_others_are_answered_meanwhile(server: Server, name: str) -> None:
    with httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        stream(client)
        with beside(server.url, SHAPES[name]) as statuses:
            for _ in range(3):
                stream(client)
    assert set(statuses) <= {200, 400}


def test_nobody_waits_for_a_schema_without_measure(server: Server) -> None:
    with httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        stream(client)
        with beside(server.url, SHAPES["a schema without measure"]) as statuses:
            before = len(statuses)
            stream(client)
            assert len(statuses) == before  # it is still being tried


def main(model: str) -> None:
    """What a stream takes alone and beside each shape: run it on a quiet machine."""
    print("Seconds to the first and to the last of 60 tokens, alone and beside; median of nine.")
    link = Path(tempfile.mkdtemp()) / "endless.gguf"
    link.symlink_to(Path(model).resolve())
    with (
        serving(link.parent / "home", str(link)) as server,
        httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        stream(client)
        for name, shape in SHAPES.items():
            first_alone, whole_alone = typical(client)
            with beside(server.url, shape) as statuses:
                first, whole = typical(client)
            print(
                f"{name:36} {first_alone:.3f} {whole_alone:.3f}  {first:.3f} {whole:.3f}  "
                f"{first / first_alone:.2f}x {whole / whole_alone:.2f}x  {sorted(set(statuses))}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1])
