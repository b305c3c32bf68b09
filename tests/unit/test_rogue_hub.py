"""Hubs, mirrors and stores that mean harm: nothing leaves, nothing lands where it should not."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from freehold.domain.errors import (
    FreeholdError,
    GatedModel,
    RefusedFile,
    SourceUnavailable,
    UnsupportedFile,
)
from freehold.domain.settings import Settings
from freehold.weights.library import Library
from freehold.weights.naming import is_path
from freehold.weights.sources.base import Source
from freehold.weights.sources.hub import HubSource
from freehold.weights.sources.url import UrlSource
from tests.support.fake_hub import FakeFile, FakeHub, FakeRepository, text
from tests.support.metered_hub import MeteredHub
from tests.support.models import model_bytes
from tests.support.watching import Recorder

NAME = "someone/model-GGUF"
TOKEN = "hf_secret"
MODEL = FakeFile(model_bytes("good"))


@pytest.fixture
def hub() -> Iterator[MeteredHub]:
    with MeteredHub([FakeRepository(NAME, {"model.gguf": MODEL})]) as hub:
        yield hub


def library(hub: FakeHub, folder: Path) -> Library:
    return Library.open(Settings(home=folder / "home", hub_endpoint=hub.endpoint))


def litter(library: Library) -> list[Path]:
    """What is in the store besides its own bookkeeping."""
    folders = ("blobs", "records", "manifests", "partial")
    found = (path for folder in folders for path in (library.store.home / folder).iterdir())
    return [path for path in found if path.suffix != ".lock"]


class Answering(http.server.BaseHTTPRequestHandler):
    """Gives every request the same answer and remembers what it was shown."""

    status = 200
    headers_out: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    endless = False

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Rogue)
        server.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(self.status)
        for name, value in self.headers_out:
            self.send_header(name, value)
        self.end_headers()
        sent = 0
        try:
            while self.command == "GET" and (self.endless or sent < len(self.body)):
                self.wfile.write(self.body)
                sent += len(self.body)
                server.sent += len(self.body)
        except OSError:  # the other side has had enough
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815 - the name http.server calls

    def log_message(self, *_: object) -> None:
        """Silent."""


class Rogue(http.server.ThreadingHTTPServer):
    def __init__(self, handler: type[Answering]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.seen: list[dict[str, str]] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def rogue(**answer: object) -> Iterator[Rogue]:
    server = Rogue(type("_Handler", (Answering,), answer))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# The token


@pytest.mark.parametrize("scheme", ["Bearer", "Basic", "Digest", "Negotiate"])
def test_a_realm_elsewhere_gets_no_token(scheme: str) -> None:
    with rogue() as realm:
        challenge = f'{scheme} realm="{realm.url}/token",service="x",scope="pull"'
        with rogue(status=401, headers_out=(("WWW-Authenticate", challenge),)) as server:
            source = HubSource(NAME, endpoint=server.url, token=TOKEN)
            with pytest.raises(GatedModel) as refused:
                source.resolve()
        assert realm.seen == []
    assert TOKEN not in f"{refused.value}{refused.value.hint}"
    assert len(server.seen) == 1


def test_a_realm_gets_no_token_at_the_file_either(hub: FakeHub) -> None:
    source = HubSource(NAME, endpoint=hub.endpoint, token=TOKEN)
    with rogue() as realm:
        challenge = (("WWW-Authenticate", f'Bearer realm="{realm.url}/token"'),)
        with rogue(status=401, headers_out=challenge) as server:
            hub.faults.redirect_to = f"{server.url}/file"
            file = MODEL.sha256
            offer = HubSource(NAME, endpoint=hub.endpoint).resolve()
            assert offer.files[0].sha256 == file
            with pytest.raises(FreeholdError), source.stream(offer.files[0], 0) as chunks:
                next(chunks)
            assert all("authorization" not in seen for seen in server.seen)
        assert realm.seen == []


# Compressed without end


def first_bytes(source: Source) -> bytes:
    offer = source.resolve()
    with source.stream(offer.files[0], 0) as chunks:
        return next(chunks)


BOMB = gzip.compress(bytes(10_000_000)) * 64  # a member after another: 640 MB unpacked


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x-gzip"])
def test_a_compressed_answer_is_never_unpacked(coding: str, tmp_path: Path) -> None:
    headers = (("Content-Encoding", coding), ("Content-Type", "application/json"))
    with rogue(headers_out=headers, body=BOMB, endless=True) as server:
        for source in (
            HubSource(NAME, endpoint=server.url),
            UrlSource(f"{server.url}/x.gguf", "0" * 64),
        ):
            with pytest.raises(SourceUnavailable):
                first_bytes(source)
        # What fills the buffers on the way, at most.
        assert server.sent < 64 * len(BOMB)


def test_an_answer_without_end_stops_at_the_promised_size(hub: MeteredHub, tmp_path: Path) -> None:
    with rogue(body=b"GGUF" * 250_000, endless=True) as server:
        hub.faults.redirect_to = f"{server.url}/file"
        here = library(hub, tmp_path)
        with pytest.raises(FreeholdError):
            here.pull(f"hf:{NAME}", Recorder())
    assert sum(path.stat().st_size for path in litter(here)) <= len(MODEL.content)
    assert here.store.blobs() == ()


# What lies at the hub


@pytest.mark.parametrize(
    "content",
    [b"../../../../etc/passwd", b"../blobs/" + b"0" * 64, b"/etc/passwd", MODEL.pointer],
)
def test_a_link_in_a_repository_is_only_a_small_file(tmp_path: Path, content: bytes) -> None:
    """Git keeps a symbolic link as its target, LFS a file as a pointer; both arrive as bytes."""
    with FakeHub([FakeRepository(NAME, {"model.gguf": FakeFile(content, lfs=False)})]) as hub:
        here = library(hub, tmp_path)
        with pytest.raises(RefusedFile):
            here.pull(f"hf:{NAME}", Recorder())
        assert here.registry.all() == ()


@pytest.mark.parametrize(
    "name",
    [
        *("../x.gguf", "a/../../x.gguf", "C:\\x.gguf", "C:x.gguf", "\\\\host\\x.gguf", "/x.gguf"),
        *("CON", "con.gguf", "a/NUL.gguf", "Aux.gguf", "COM1.gguf", "lpt9.q4.gguf", "x\0.gguf"),
        *("x" * 201, "x" * 10_000, "a/" * 9 + "x", "..", ".", "x/..", "x/.", "\u2025/x.gguf"),
    ],
)
def test_a_name_that_could_lead_elsewhere_is_none(hub: MeteredHub, name: str) -> None:
    assert not is_path(name)
    sibling = {"rfilename": name, "lfs": {"sha256": "0" * 64, "size": 1, "pointerSize": 1}}
    hub.faults.info = {"id": NAME, "sha": "0" * 40, "siblings": [sibling]}
    with pytest.raises(UnsupportedFile, match="no GGUF file"):
        HubSource(NAME, endpoint=hub.endpoint).resolve()


@pytest.mark.parametrize("name", ["console.gguf", "nullify.gguf", "com10.gguf", "aux-model.gguf"])
def test_a_name_that_only_begins_like_a_device_is_one(name: str) -> None:
    assert is_path(name)


# Code that comes with weights


@pytest.mark.parametrize(
    ("files", "config", "reason"),
    [
        (["modeling_x.py", "model.safetensors"], {}, "opening modeling_x.py may run code"),
        (["pytorch_model.bin"], {}, "opening pytorch_model.bin may run code"),
        (["a.pt", "b.pkl", "c.ckpt"], {}, "opening a.pt and 2 more may run code"),
        (["x.nemo"], {}, "opening x.nemo"),
        (["model.safetensors"], {"auto_map": {"AutoModel": "m.M"}}, "auto_map"),
        (["model.safetensors"], {"tokenizer_config": {"auto_map": {}}}, "auto_map"),
        (["model.safetensors"], {"a": [{"b": {"auto_map": None}}]}, "auto_map"),
        (["model.safetensors"], {"a": [[]] * 20_000}, "auto_map"),
    ],
)
def test_a_model_that_needs_code_of_its_own_is_refused(
    hub: MeteredHub, files: list[str], config: object, reason: str
) -> None:
    siblings = [{"rfilename": name} for name in files]
    hub.faults.info = {"id": NAME, "sha": "0" * 40, "siblings": siblings, "config": config}
    with pytest.raises(UnsupportedFile, match=reason) as refused:
        HubSource(NAME, endpoint=hub.endpoint).resolve()
    assert refused.value.hint is not None


def test_code_beside_a_gguf_file_is_never_asked_for(tmp_path: Path) -> None:
    files = {
        "model.gguf": MODEL,
        "modeling_x.py": text("raise SystemExit"),
        "config.json": text('{"auto_map": {"AutoModel": "modeling_x.Model"}}'),
        "pytorch_model.bin": FakeFile(b"\x80\x02}."),
    }
    with FakeHub([FakeRepository(NAME, files)]) as hub:
        here = library(hub, tmp_path)
        manifest = here.pull(f"hf:{NAME}", Recorder())
        asked = [path for port in ("hub", "cdn") for path in hub.paths(port)]
    assert [file.name for file in manifest.files] == ["model.gguf"]
    assert not [path for path in asked if path.endswith((".py", ".json", ".bin"))]


# The store


def test_a_link_planted_for_a_blob_brings_in_nothing_else(hub: MeteredHub, tmp_path: Path) -> None:
    here = library(hub, tmp_path)
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(model_bytes("evil"))
    here.pull(f"hf:{NAME}", Recorder())
    blob = here.store.blob_path(MODEL.sha256)
    blob.unlink()
    blob.symlink_to(outside)
    with pytest.raises(RefusedFile):
        here.local(f"hf:{NAME}")
    assert hashlib.sha256(outside.read_bytes()).hexdigest() != MODEL.sha256


@pytest.mark.parametrize("digest", ["../../x", "0" * 63, "0" * 65, "F" * 64, "0" * 63 + "\0"])
def test_a_digest_of_another_shape_is_no_digest(hub: MeteredHub, digest: str) -> None:
    sibling = {"rfilename": "m.gguf", "lfs": {"sha256": digest, "size": 1, "pointerSize": 1}}
    hub.faults.info = {"id": NAME, "sha": "0" * 40, "siblings": [sibling]}
    offer = HubSource(NAME, endpoint=hub.endpoint).resolve()
    assert [file.sha256 for file in offer.files] == [None]
