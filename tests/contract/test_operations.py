"""What whoever runs the server relies on: ids, the log, metrics, signals."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from freehold.engines.scripted import Script
from tests.support.command import FREEHOLD, environment
from tests.support.endless import write_endless_llama
from tests.support.gateway import Gateway, Scripts, wait_for

pytestmark = pytest.mark.native

CANARY = "zanzibar"


def samples(server: Gateway) -> dict[str, float]:
    text = server.client.get("/metrics").text
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def since(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)


# Ids


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/healthz"),
        ("GET", "/nowhere"),
        ("GET", "/v1/models/nothing:1b"),
        ("DELETE", "/healthz"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/messages"),
        ("POST", "/api/chat"),
    ],
)
def test_every_response_has_an_id(server: Gateway, method: str, path: str) -> None:
    ours = server.client.request(method, path).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", ours)
    given = server.client.request(method, path, headers={"X-Request-Id": "mine-7"})
    assert given.headers.get_list("x-request-id") == ["mine-7"]


def test_what_the_guard_refuses_and_what_fails_have_ids(server: Gateway, scripts: Scripts) -> None:
    refused = server.client.get("/healthz", headers={"Host": "elsewhere.example"})
    assert (refused.status_code, len(refused.headers["x-request-id"])) == (403, 32)
    scripts.per_attempt = [Script(crash_after=0)] * 2
    # Words of its own: what was in flight in two crashes is refused from then on.
    failed = server.chat(messages=[{"role": "user", "content": "Fail"}])
    assert failed.status_code >= 500
    assert failed.headers["x-request-id"]


# The log


def test_the_lines_of_a_request_have_its_id_and_no_word_of_it(
    server: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []
    from freehold.runtime.logs import JsonFormatter  # formats in the request's own context

    form = JsonFormatter()
    caplog.set_level("INFO", logger="freehold")
    caplog.handler.emit = lambda record: lines.append(form.format(record))  # type: ignore[method-assign]
    body = {"model": "tiny", "messages": [{"role": "user", "content": CANARY}]}
    url = f"/v1/chat/completions?{CANARY}=1"
    headers = {"X-Request-Id": "mine-8", "Authorization": f"Bearer {CANARY}"}
    server.client.post(url, json=body, headers=headers)
    wait_for(lambda: any("freehold.access" in line for line in lines))
    about: list[dict[str, Any]] = [json.loads(line) for line in lines]
    access = next(line for line in about if line["logger"] == "freehold.access")
    answer = next(line for line in about if line["logger"] == "freehold.runtime.accounting")
    assert access["request"] == answer["request"] == "mine-8"
    assert (access["method"], access["path"]) == ("POST", "/v1/chat/completions")
    assert (access["status"], access["model"], access["completion_tokens"]) == (200, "tiny", 3)
    assert answer["end"] == "stop"
    assert CANARY not in "".join(lines)


# Metrics


def test_what_an_answer_adds(server: Gateway) -> None:
    server.chat()
    before = samples(server)
    server.chat()
    server.chat(stream=True)
    server.client.post("/api/chat", json={"model": "nothing:1b", "messages": []})
    # A request is counted when it is over, just after its last byte.
    wait_for(lambda: since(before, samples(server), "freehold_requests_total ollama 404") == 1)
    after = samples(server)
    assert since(before, after, "freehold_requests_total openai 200") == 2
    assert since(before, after, "freehold_answers_total stop tiny") == 2
    assert since(before, after, "freehold_completion_tokens_total tiny") == 6
    assert since(before, after, "freehold_prompt_tokens_total tiny") > 2
    assert since(before, after, "freehold_time_to_first_token_seconds_count tiny") == 2
    assert since(before, after, "freehold_inter_token_seconds_count tiny") == 4
    assert after["freehold_engine_sequences scripted tiny"] > 0
    assert after["freehold_requests_in_flight"] == 1  # the one that asks


def test_a_crash_is_a_restart(server: Gateway, scripts: Scripts) -> None:
    server.chat()
    before = samples(server)
    scripts.per_attempt = [Script(crash_after=1), Script()]
    server.chat(stream=True, messages=[{"role": "user", "content": "Crash"}])
    server.chat()
    after = samples(server)
    assert since(before, after, "freehold_restarts_total tiny") == 1
    assert since(before, after, "freehold_loads_total tiny") == 0
    assert since(before, after, "freehold_answers_total engine_crashed tiny") == 1


def test_nothing_a_request_says_becomes_a_label(server: Gateway) -> None:
    server.chat(model=CANARY, messages=[{"role": "user", "content": CANARY}])
    server.chat(messages=[{"role": "user", "content": CANARY}])
    server.client.get(f"/{CANARY}", headers={"X-Request-Id": CANARY})
    assert CANARY not in server.client.get("/metrics").text


def test_both_of_prometheus_formats(server: Gateway) -> None:
    usual = server.client.get("/metrics")
    assert usual.headers["content-type"].startswith("text/plain")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    other = server.client.get("/metrics", headers=accept)
    assert other.headers["content-type"].startswith("application/openmetrics-text")
    assert other.text.endswith("# EOF\n")


# Signals


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "endless.gguf"
    return write_endless_llama(path, context_length=1_000_000)


def begin_stream(url: str) -> socket.socket:
    """An answer that would not end for a long while; some of it has come."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"model": "endless", "prompt": "a", "stream": True, "max_tokens": 900_000})
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    heard = b""
    while b"data: " not in heard:
        heard += connection.recv(65536)
    return connection


def rest_of(connection: socket.socket) -> str:
    heard = b""
    while more := connection.recv(1 << 20):
        heard = heard[-4096:] + more
    return heard.decode()


def test_signals_reread_then_drain(tmp_path: Path, endless: Path) -> None:
    file, notify = tmp_path / "config.toml", tmp_path / "notify"
    file.write_text("context = 999000\nlog_format = 'json'")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(notify))
        manager.settimeout(30)
        process = subprocess.Popen(
            [FREEHOLD, "serve", "--port", "0", "--parallel", "1", str(endless)],
            env=environment(
                tmp_path / "home", {"FREEHOLD_CONFIG": str(file), "NOTIFY_SOCKET": str(notify)}
            ),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        try:
            told = b""
            while b"READY=1" not in told:
                told = manager.recv(4096)
            line = process.stderr.readline()
            url = re.search(r"http://[0-9.:]+", line)
            assert url is not None, line

            file.write_text("context = 999000\nlog_format = 'json'\ndrain = 0\nlatency = 9")
            process.send_signal(signal.SIGHUP)
            assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(4096).startswith(b"READY=1")
            file.write_text("context = 1")
            process.send_signal(signal.SIGHUP)
            assert manager.recv(4096).startswith(b"RELOADING=1")
            assert manager.recv(4096).startswith(b"READY=1")

            with begin_stream(url[0]) as connection:
                process.send_signal(signal.SIGTERM)
                end = rest_of(connection)
            assert manager.recv(4096).startswith(b"STOPPING=1")
            _, log = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
    assert process.returncode == 0
    last = json.loads(end.rpartition("data: ")[2].partition("\n")[0])
    assert last["error"]["code"] == "server_stopping"
    lines = [json.loads(line)["message"] for line in log.splitlines() if line.startswith("{")]
    assert "Taken: drain." in lines
    assert "Changed, but only from the next start on: latency." in lines
    (kept,) = [line for line in lines if "stay as they were" in line]
    assert f"{file}, line 1" in kept
