"""What is known to have been done to servers of models, tried on this one.

Run once more without asserts in `tests/unit/test_security.py`, save what takes long.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from freehold.api import server as serving
from freehold.api.guard import MAX_BODY_BYTES
from freehold.api.limits import Limits, bounded
from tests.support.gateway import Gateway, Scripts, gateway, wait_for
from tests.support.routes import ANSWERING, EMBEDDING

PAGE = "https://chat.example.org"
EVIL = "https://evil.test"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def scripts() -> Scripts:
    return Scripts()


@pytest.fixture(scope="module")
def quick_limits() -> Iterator[None]:
    """The same limits, a hundred times shorter."""
    patch = pytest.MonkeyPatch()
    patch.setattr(serving, "Limits", lambda n: Limits(n, head=0.3, body=0.5, stall=0.6))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def open_server(
    quick_limits: None, tmp_path_factory: pytest.TempPathFactory, tiny: Path, scripts: Scripts
) -> Iterator[Gateway]:
    with gateway(
        tmp_path_factory.mktemp("home"),
        (tiny,),
        script=scripts,
        hosts=["llm.example.org"],
        cors_origins=[PAGE],
        connections=1200,
    ) as running:
        yield running


@pytest.fixture
def server(open_server: Gateway, scripts: Scripts) -> Gateway:
    scripts.reset()
    return open_server


def seen(server: Gateway) -> int:
    return sum(len(engine.seen) for engine in server.engines)


# Web pages


@pytest.mark.parametrize(
    "host",
    [
        *("evil.test", "", "127.0.0.1.nip.io", "127.0.0.1:1", "0.0.0.0", "[::2]", "10.0.0.1"),
        *("localhost.evil.test", "printer.local", "llm.example.org.evil.test", "localhost:80:80"),
    ],
)
def test_a_name_that_is_not_ours_is_refused(server: Gateway, host: str) -> None:
    assert server.client.get("/v1/models", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "[::1]", "127.0.0.1", "127.8.9.1"])
def test_names_of_loopback_and_those_allowed_are_ours(server: Gateway, host: str) -> None:
    port = server.url.rpartition(":")[2]
    for name in (host, f"{host}:{port}", "llm.example.org", "LLM.example.org:443"):
        assert server.client.get("/v1/models", headers={"host": name}).status_code == 200, name


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_form_of_another_page_reaches_no_model(server: Gateway, kind: str) -> None:
    before = seen(server)
    headers = {"origin": EVIL} | ({"content-type": kind} if kind else {})
    for path in (*ANSWERING, *EMBEDDING, "/api/pull", "/freehold/v1/keys"):
        refused = server.client.post(path, headers=headers, content=json.dumps(BODY))
        assert refused.status_code == 403, path
        assert "access-control-allow-origin" not in refused.headers
    assert seen(server) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "null"},
        {"origin": PAGE + ".evil.test"},
        {"origin": PAGE + ":8443"},
        {"origin": PAGE.replace("https", "http")},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_origins_are_refused(server: Gateway, headers: dict[str, str]) -> None:
    refused = server.client.get("/v1/models", headers=headers)
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


def preflight(server: Gateway, origin: str) -> httpx2.Response:
    return server.client.options(
        "/v1/chat/completions",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        },
    )


def test_a_page_that_was_allowed_may_ask_and_read(server: Gateway) -> None:
    asked = preflight(server, PAGE)
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in asked.headers
    headers = {"origin": PAGE, "sec-fetch-site": "cross-site"}
    answered = server.client.post("/v1/chat/completions", headers=headers, json=BODY)
    assert answered.status_code == 200
    assert answered.headers["access-control-allow-origin"] == PAGE
    assert "Origin" in answered.headers["vary"]
    wrong = server.client.post("/v1/chat/completions", headers=headers, json={"model": "x"})
    assert wrong.status_code == 400
    assert wrong.headers["access-control-allow-origin"] == PAGE


def test_a_page_that_was_not_allowed_is_told_nothing(server: Gateway) -> None:
    asked = preflight(server, EVIL)
    assert asked.status_code == 403
    assert not [name for name in asked.headers if name.startswith("access-control-")]


def test_with_keys_other_pages_are_refused_as_well(tmp_path: Path, tiny: Path) -> None:
    with gateway(tmp_path, (tiny,), script=Scripts(), api_key="secret", host="0.0.0.0") as keyed:
        keyed.client.headers["authorization"] = "Bearer secret"
        port = keyed.url.rpartition(":")[2]
        for host in ("evil.test", f"192.0.2.1:{port}"):  # the key decides
            assert keyed.client.get("/v1/models", headers={"host": host}).status_code == 200
        assert keyed.client.get("/v1/models", headers={"origin": EVIL}).status_code == 403
        assert preflight(keyed, EVIL).status_code == 403
        plain = {"content-type": "text/plain"}
        refused = keyed.client.post("/v1/chat/completions", headers=plain, content=json.dumps(BODY))
        assert refused.status_code == 415
        assert seen(keyed) == 0


def test_ollamas_clients_need_not_say_what_they_send(server: Gateway) -> None:
    body = json.dumps({**BODY, "stream": False})
    ask = server.client.post
    assert ask("/api/chat", content=body).status_code == 200
    for browsers in ({"sec-fetch-mode": "no-cors"}, {"sec-fetch-site": "none"}):
        assert ask("/api/chat", content=body, headers=browsers).status_code == 415
    assert ask("/api/chat", content=body, headers={"content-type": ""}).status_code == 415
    assert ask("/v1/chat/completions", content=body).status_code == 415


# What listens


def test_one_socket_listens_and_only_here(server: Gateway) -> None:
    me = psutil.Process()
    port = int(server.url.rpartition(":")[2])
    found = [
        each.laddr
        for process in (me, *me.children(recursive=True))
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port
    ]
    assert [address.ip for address in found] == ["127.0.0.1"]
    for child in me.children(recursive=True):
        assert [c for c in child.net_connections("inet") if c.status == psutil.CONN_LISTEN] == []


# Requests that are shaped to hurt

DEEP = '{"a":' * 100_000
SHAPES: list[tuple[str, object]] = [
    ("/v1/chat/completions", {**BODY, "n": 10**9}),
    ("/v1/chat/completions", {**BODY, "n": -1}),
    ("/v1/chat/completions", {**BODY, "n": True}),
    ("/v1/chat/completions", {**BODY, "n": 1e3}),
    ("/v1/chat/completions", {**BODY, "chat_template": "{{ 1 }}"}),
    ("/v1/chat/completions", {**BODY, "cache_salt": {"a": []}}),
    ("/v1/chat/completions", {**BODY, "max_tokens": 2**63}),
    ("/v1/chat/completions", {**BODY, "temperature": float("nan")}),
    ("/v1/chat/completions", {**BODY, "stop": ["x"] * 10_000}),
    ("/v1/chat/completions", {**BODY, "messages": BODY["messages"] * 2000}),  # type: ignore[operator]
    ("/v1/completions", {"model": "tiny", "prompt": ["Hello"] * 10_001}),
    ("/v1/completions", {"model": "tiny", "prompt": "Hello", "best_of": 10**6}),
    ("/v1/completions", {"model": "tiny", "prompt": [-1]}),
    ("/v1/completions", {"model": "tiny", "prompt_embeds": "AAAA"}),
    ("/v1/embeddings", {"model": "tiny", "input": ["Hello"] * 100_000}),
    ("/v1/messages", {**BODY, "max_tokens": -1}),
    ("/api/chat", {**BODY, "options": {"num_predict": 10**30}}),
]


@pytest.mark.parametrize(("path", "body"), SHAPES)
def test_numbers_and_lists_have_bounds(server: Gateway, path: str, body: object) -> None:
    before = seen(server)
    began = time.monotonic()
    refused = server.client.post(
        path, content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert refused.status_code == 400
    assert time.monotonic() - began < 5
    assert seen(server) == before


@pytest.mark.parametrize("path", [*ANSWERING, *EMBEDDING, "/api/show", "/tokenize"])
def test_nesting_has_a_bound(server: Gateway, path: str) -> None:
    refused = server.client.post(path, content=DEEP, headers={"content-type": "application/json"})
    assert refused.status_code == 400


def test_a_body_too_large_is_not_read_to_its_end(server: Gateway) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.settimeout(10)
        client.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "Content-Type: application/json\r\nContent-Length: 200000000\r\n\r\n".encode()
        )
        assert client.recv(64).startswith(b"HTTP/1.1 413")

    def without_end() -> Iterator[bytes]:
        while True:
            yield b" " * 65536

    with contextlib.suppress(httpx2.TransportError):  # it hangs up while we still write
        refused = server.client.post(
            "/v1/chat/completions",
            content=without_end(),
            headers={"content-type": "application/json"},
        )
        assert refused.status_code == 413
    assert MAX_BODY_BYTES == 8 * 1024 * 1024
    assert server.chat().status_code == 200


SOURCES = (
    *("http://127.0.0.1:{}/x.png", "https://127.0.0.1:{}/x.png", "file:///etc/passwd"),
    *("ftp://127.0.0.1:{}/x", "data:image/png;base64,AAAA"),
)


@pytest.mark.parametrize("source", SOURCES)
def test_the_server_fetches_nothing_a_request_names(server: Gateway, source: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        url = source.format(canary.getsockname()[1])
        image = {"type": "image_url", "image_url": {"url": url}}
        block = {"type": "image", "source": {"type": "url", "url": url}}
        for path, content in (
            ("/v1/chat/completions", [image]),
            ("/v1/messages", [block]),
        ):
            body = {
                "model": "tiny",
                "max_tokens": 5,
                "messages": [{"role": "user", "content": content}],
            }
            assert server.client.post(path, json=body).status_code == 400
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x", "images": [url]}]}
        assert server.client.post("/api/chat", json=body).status_code == 400
        canary.settimeout(0.05)
        with pytest.raises(TimeoutError):
            canary.accept()


LEAKS = re.compile(r"0x[0-9a-f]{6,}|Traceback|site-packages")


def test_refusals_say_nothing_of_the_inside(server: Gateway) -> None:
    inside = [str(server.runtime.settings.home), str(Path.home()), tempfile.gettempdir()]
    wrong: list[object] = [{}, [], {"model": 5}, {"model": "\ud800"}, {"model": "../../etc/passwd"}]
    for path in (*ANSWERING, *EMBEDDING, "/api/show", "/tokenize", "/freehold/v1/models/load"):
        for body in wrong:
            refused = server.client.post(
                path, content=json.dumps(body), headers={"content-type": "application/json"}
            )
            assert 400 <= refused.status_code < 500, (path, body)
            assert LEAKS.search(refused.text) is None, refused.text
            assert not any(place in refused.text for place in inside), refused.text


# Slow clients


def talk(server: Gateway, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What the server says to a client that sends ``pieces``, until it hangs up."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.settimeout(5)
        try:
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause)
            return b"".join(iter(lambda: client.recv(65536), b""))
        except (ConnectionError, BrokenPipeError):
            return b""


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"GET /v1/mod",),
        (HEAD, *(b"X-%d: y\r\n" % n for n in range(20))),
        (HEAD + b"Content-Length: 5000\r\n\r\n", *(b" " for _ in range(40))),
    ],
    ids=["silent", "half a line", "endless headers", "endless body"],
)
def test_a_client_that_dribbles_is_let_go(server: Gateway, pieces: tuple[bytes, ...]) -> None:
    began = time.monotonic()
    said = talk(server, *pieces, pause=0.05)
    assert time.monotonic() - began < 3
    assert said == b"" or said.startswith(b"HTTP/1.1 408 ")
    if not pieces:
        assert b"did not arrive in time" in said


def test_a_second_request_on_a_connection_has_its_time_too(server: Gateway) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    said = talk(server, whole, whole + b"GET /heal", pause=0.2)
    assert said.count(b"HTTP/1.1 200") == 2
    assert b"408" in said


def test_a_client_that_is_slow_but_in_time_is_answered(server: Gateway) -> None:
    body = b'{"model": "tiny", "prompt": "Hello"}'
    head = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert b"HTTP/1.1 200" in talk(server, head[:30], head[30:], body[:9], body[9:], pause=0.05)


def test_a_thousand_slow_clients_keep_nobody_waiting(server: Gateway) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as held:
        for _ in range(1000):
            client = held.enter_context(socket.create_connection((host, int(port))))
            client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: loc")
        began = time.monotonic()
        assert server.chat().status_code == 200
        assert time.monotonic() - began < 2


def test_a_client_that_does_not_read_frees_its_place(server: Gateway, scripts: Scripts) -> None:
    from freehold.engines.scripted import Script

    scripts.now = Script(pieces=("many words " * 20_000,) * 200)
    body: dict[str, object] = {"model": "tiny", "prompt": "Hello", "stream": True}
    before = answers(server)
    with contextlib.closing(server.begin("/v1/completions", body)):
        # It may have its place, and be without it again, between two looks.
        wait_for(lambda: answers(server) > before and running(server) == 0)


def answers(server: Gateway) -> int:
    """Those that are over."""
    return sum(tally.answers.total() for tally in server.runtime.meters.models.values())


def running(server: Gateway) -> int:
    return sum(queue.running for queue in server.runtime.admission.queues())


def test_one_connection_more_than_may_be_is_told_so(
    quick_limits: None, tmp_path: Path, tiny: Path
) -> None:
    with gateway(tmp_path, (tiny,), script=Scripts(), connections=3) as few:
        few.client.close()  # its connection counts
        port = int(few.url.rpartition(":")[2])
        with contextlib.ExitStack() as held:
            for _ in range(3):
                held.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert talk(few).startswith(b"HTTP/1.1 503")
        wait_for(lambda: b"200" in talk(few, HEAD_OF_HEALTH))


HEAD_OF_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def test_the_limits_that_hold_are_those_that_are_said() -> None:
    limits = Limits(10)
    assert (limits.head, limits.body, limits.stall) == (20, 120, 60)
    made: Callable[..., object] = bounded(limits)
    assert made is not bounded(Limits(11))
