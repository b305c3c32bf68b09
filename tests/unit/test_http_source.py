"""The one HTTP path, and files at plain addresses, against servers on loopback."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest

from freehold.domain.errors import InvalidReference, SourceUnavailable, UnsupportedFile
from freehold.domain.hosts import is_loopback
from freehold.weights.naming import is_path
from freehold.weights.sources import http
from freehold.weights.sources.base import RemoteFile
from freehold.weights.sources.http import (
    HttpStatusError,
    check_hop,
    declared_size,
    parse_address,
    stream_range,
)
from freehold.weights.sources.url import UrlSource
from tests.support.fake_hub import FakeFile, FakeHub, FakeRepository, gguf

FILE = gguf("model", 300_000)
REPOSITORY = FakeRepository("someone/model", {"model.gguf": FILE})
DIGEST = "0" * 64


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub([REPOSITORY], tokens=["secret"]) as hub:
        yield hub


def read(url: str, offset: int = 0, headers: dict[str, str] | None = None) -> bytes:
    with stream_range(url, offset=offset, headers=headers) as chunks:
        return b"".join(chunks)


def resolve_url(hub: FakeHub) -> str:
    return f"{hub.endpoint}/someone/model/resolve/main/model.gguf"


def test_the_whole_file_arrives_through_a_redirect(hub: FakeHub) -> None:
    assert read(resolve_url(hub)) == FILE.content


def test_chunks_are_never_empty(hub: FakeHub) -> None:
    with stream_range(resolve_url(hub), offset=1) as chunks:
        assert all(chunks)


@pytest.mark.parametrize("offset", [1, 4096, len(FILE.content) - 1])
def test_a_stream_resumes_at_the_byte_asked_for(hub: FakeHub, offset: int) -> None:
    assert read(resolve_url(hub), offset) == FILE.content[offset:]
    assert hub.requests[-1].headers["range"] == f"bytes={offset}-"


def test_no_coding_is_asked_for_and_none_is_accepted(hub: FakeHub) -> None:
    read(resolve_url(hub))
    assert {seen.headers["accept-encoding"] for seen in hub.requests} == {"identity"}
    hub.faults.compressed = True
    with pytest.raises(SourceUnavailable, match="compressed"):
        read(resolve_url(hub))


def test_private_headers_stay_at_the_first_origin(hub: FakeHub) -> None:
    read(resolve_url(hub), 10, {"Authorization": "Bearer secret", "X-Mine": "yes"})
    first, second = hub.requests
    assert (first.port, first.headers["authorization"]) == ("hub", "Bearer secret")
    assert second.port == "cdn"
    assert "authorization" not in second.headers
    assert "x-mine" not in second.headers
    assert "secret" not in str(second)


def test_private_headers_do_not_come_back_after_a_detour(hub: FakeHub) -> None:
    with FakeHub([REPOSITORY], tokens=["secret"]) as other:
        hub.faults.redirect_to = f"{other.endpoint}/someone/model/resolve/main/model.gguf"
        other.faults.redirect_to = hub.cdn_url(FILE)
        assert read(resolve_url(hub), 0, {"Authorization": "Bearer secret"}) == FILE.content
        later = [*other.requests, *hub.requests[1:]]
    assert len(later) == 2
    assert not any("authorization" in seen.headers for seen in later)


def test_a_redirect_within_the_origin_keeps_private_headers(hub: FakeHub) -> None:
    hub.faults.redirect_to = "/someone/model/resolve/main/other"
    with pytest.raises(SourceUnavailable):
        read(resolve_url(hub), 0, {"Authorization": "Bearer secret"})
    assert hub.requests[-1].path.endswith("/other")
    assert hub.requests[-1].headers["authorization"] == "Bearer secret"


def test_endless_redirects_end(hub: FakeHub) -> None:
    hub.faults.redirect_to = resolve_url(hub)
    with pytest.raises(SourceUnavailable, match="redirects more than 5 times"):
        read(resolve_url(hub))
    assert len(hub.requests) == 6


@pytest.mark.parametrize(
    "target",
    [
        "http://cdn.example/file",
        "ftp://127.0.0.1/file",
        "file:///etc/passwd",
        "https://user:s3cret@cdn.example/file",
        "http://[::1",
    ],
)
def test_a_redirect_obeys_the_rules_of_the_first_request(hub: FakeHub, target: str) -> None:
    hub.faults.redirect_to = target
    with pytest.raises(SourceUnavailable, match="redirects to"):
        read(resolve_url(hub))
    assert len(hub.requests) == 1


def test_a_public_server_cannot_send_us_to_this_machine() -> None:
    start = httpx2.URL("https://models.example/file")
    for target in ("https://127.0.0.1/x", "http://localhost:8080/x", "https://[::1]/x"):
        with pytest.raises(SourceUnavailable, match="redirects to"):
            check_hop(httpx2.URL(target), start)
    check_hop(httpx2.URL("https://cdn.example/x"), start)


@pytest.mark.parametrize(
    "url",
    [
        "http://models.example/file.gguf",
        "http://127.0.0.1.nip.io/file.gguf",
        "http://10.0.0.1/file.gguf",
        "ftp://models.example/file.gguf",
        "file:///etc/passwd",
        "/etc/passwd",
        "https:///file.gguf",
        "https://user:s3cret@models.example/file.gguf",
        "https://models.example:port/file.gguf",
        "https://models.example/\x00",
        "",
    ],
)
def test_only_https_addresses_are_asked(url: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        read(url)
    assert "s3cret" not in str(caught.value)


def test_loopback_is_what_names_this_machine_by_itself() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.8.9.1", "::1"]))
    assert not any(map(is_loopback, ["localhost.example", "10.0.0.1", "0.0.0.0", "", "::"]))
    assert parse_address("http://[::1]:8080/x").port == 8080


def test_a_server_that_ignores_range_cannot_resume(hub: FakeHub) -> None:
    hub.faults.ignore_range = True
    with pytest.raises(SourceUnavailable, match="cannot resume the file at byte 7"):
        read(resolve_url(hub), 7)


def test_a_server_that_begins_elsewhere_cannot_resume(hub: FakeHub) -> None:
    hub.faults.wrong_range = True
    with pytest.raises(SourceUnavailable, match="cannot resume"):
        read(resolve_url(hub), 7)


def test_an_offset_beyond_the_end_cannot_resume(hub: FakeHub) -> None:
    with pytest.raises(SourceUnavailable, match="cannot resume"):
        read(resolve_url(hub), len(FILE.content) + 1)


@pytest.mark.parametrize(
    "answer",
    [
        "bytes 5-8/10",
        "bytes 4-9/10",
        "bytes 5-9",
        "",
        "bytes */10",
        "bytes 5-99999999999999999999/*",
    ],
)
def test_a_range_that_is_not_the_rest_is_refused(answer: str) -> None:
    request = httpx2.Request("GET", "https://models.example/x")
    response = httpx2.Response(206, headers={"Content-Range": answer}, request=request)
    with pytest.raises(SourceUnavailable, match="cannot resume"):
        http._require_range(response, 5, request.url)


def test_an_offset_is_not_negative(hub: FakeHub) -> None:
    with pytest.raises(ValueError, match="negative"):
        read(resolve_url(hub), -1)


def test_a_dropped_connection_is_told_after_the_bytes_that_came(hub: FakeHub) -> None:
    hub.faults.drop_after = 100_000
    received = b""
    with stream_range(resolve_url(hub)) as chunks, pytest.raises(SourceUnavailable, match="broke"):  # noqa: PT012
        for chunk in chunks:
            received += chunk
    assert received == FILE.content[:100_000]
    hub.faults.drop_after = None
    assert received + read(resolve_url(hub), len(received)) == FILE.content


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 429, 500, 503])
def test_statuses_are_explained_and_bodies_never_quoted(hub: FakeHub, status: int) -> None:
    hub.faults.cdn_status = status
    with pytest.raises(HttpStatusError) as caught:
        read(resolve_url(hub))
    assert caught.value.status == status
    assert caught.value.redirected
    assert "AccessDenied" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_rate_limit_says_how_long(hub: FakeHub) -> None:
    hub.faults.rate_limited = True
    with pytest.raises(HttpStatusError, match="limiting requests") as caught:
        read(resolve_url(hub))
    assert caught.value.retry_after_s == 55
    assert "hello" not in str(caught.value)


def test_errors_of_the_reader_pass_unchanged(hub: FakeHub) -> None:
    with pytest.raises(KeyError), stream_range(resolve_url(hub)):
        raise KeyError


def test_a_closed_port_fails_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        read(f"http://127.0.0.1:{port}/file")
    assert time.monotonic() - began < 2


def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (http.TIMEOUT.connect, http.TIMEOUT.read) == (5, 30)
    monkeypatch.setattr(http, "TIMEOUT", httpx2.Timeout(0.2))
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/file"
        with pytest.raises(SourceUnavailable, match="did not answer in time"):
            read(url)


def test_a_proxy_is_not_asked_for_this_machine(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.invalid:1")
    assert read(resolve_url(hub)) == FILE.content


def test_the_size_comes_from_head_or_from_get(hub: FakeHub) -> None:
    assert declared_size(hub.cdn_url(FILE)) == len(FILE.content)
    assert [seen.method for seen in hub.requests] == ["HEAD"]
    hub.faults.cdn_status = 405
    with pytest.raises(HttpStatusError):
        declared_size(hub.cdn_url(FILE))
    assert [seen.method for seen in hub.requests[1:]] == ["HEAD", "GET"]


def test_a_url_source_offers_its_one_file(hub: FakeHub) -> None:
    hub.add(FakeRepository("a/b", {"x": (file := FakeFile(b"GGUF and more"))}))
    source = UrlSource(hub.cdn_url(file, "?signature=secret"), file.sha256, "small.gguf")
    offer = source.resolve()
    assert offer.files == (RemoteFile("small.gguf", size=13, sha256=file.sha256),)
    assert "secret" not in offer.origin + source.description
    assert hub.requests[0].path.endswith("?signature=secret")
    with source.stream(offer.files[0], 5) as chunks:
        assert b"".join(chunks) == b"and more"


def test_a_url_source_vouches_for_nothing_it_streams(hub: FakeHub) -> None:
    hub.faults.wrong_content = True
    source = UrlSource(hub.cdn_url(FILE), FILE.sha256)
    offer = source.resolve()
    with source.stream(offer.files[0], 0) as chunks:
        content = b"".join(chunks)
    assert len(content) == offer.files[0].size
    assert hashlib.sha256(content).hexdigest() != offer.files[0].sha256


def test_a_url_source_has_no_other_file(hub: FakeHub) -> None:
    source = UrlSource(hub.cdn_url(FILE), FILE.sha256)
    with pytest.raises(SourceUnavailable, match="not the source"):
        source.stream(RemoteFile("model.gguf", sha256=DIGEST), 0)


@pytest.mark.parametrize("name", ["model.bin", "model.PKL", "model.pt", "weights.safetensors"])
def test_a_url_of_another_format_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedFile, match="GGUF"):
        UrlSource(f"https://models.example/{name}", DIGEST)


@pytest.mark.parametrize("digest", ["../../etc/x", "A" * 64, "0" * 63, "0" * 65, "0" * 63 + "\0"])
def test_a_digest_is_exactly_64_lower_case_hex_digits(digest: str) -> None:
    with pytest.raises(InvalidReference):
        UrlSource("https://models.example/x.gguf", digest)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/x.gguf", "../x.gguf", "a/../../x.gguf", "a//x.gguf", "./x.gguf", "a/"),
        *("C:\\x.gguf", "a\\x.gguf", "C:x.gguf", "x\0.gguf", "x\n.gguf", "x%2e%2e.gguf"),
        *("~/x.gguf", ".hidden", "-flag.gguf", "\u202egguf.x", "x" * 300, "a/" * 20 + "x"),
    ],
)
def test_names_that_could_lead_elsewhere_are_no_paths(path: str) -> None:
    assert not is_path(path)
