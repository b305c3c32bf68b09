"""A hub on loopback that answers as huggingface.co does, misbehaviour included.

Two ports: the hub (API and ``resolve``) and the "CDN" it redirects to, which has
the bytes and honours Range. Every request is recorded, so that a test can say
who was asked for what, and who was shown the token.

    with FakeHub(deepseek_repositories()) as hub:
        HubSource("unsloth/DeepSeek-R1-GGUF", endpoint=hub.endpoint, ...)
        hub.faults.drop_after = 1000
        assert not hub.paths("cdn")
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

Port = Literal["hub", "cdn"]
Card = Mapping[str, object]


@dataclass(frozen=True)
class FakeFile:
    """One file. Only those in LFS have a SHA-256 that the hub knows."""

    content: bytes
    lfs: bool = True

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        """What git calls the blob: for LFS, that of the pointer."""
        blob = self.pointer if self.lfs else self.content
        header = b"blob %d\0" % len(blob)
        return hashlib.sha1(header + blob, usedforsecurity=False).hexdigest()

    @property
    def pointer(self) -> bytes:
        return (
            "version https://git-lfs.github.com/spec/v1\n"
            f"oid sha256:{self.sha256}\nsize {len(self.content)}\n"
        ).encode()


@dataclass(frozen=True)
class FakeRepository:
    """A model repository with one commit, reachable as ``main`` and by its 40 hex digits."""

    name: str
    files: Mapping[str, FakeFile]
    card: Card | None = None
    gated: Literal["auto", "manual", False] = False
    private: bool = False
    readers: frozenset[str] = frozenset()

    @property
    def commit(self) -> str:
        listing = repr(sorted((path, file.blob_id) for path, file in self.files.items()))
        return hashlib.sha1((self.name + listing).encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; header names are lower-case."""

    port: Port
    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Faults:
    """What is wrong at the moment. Counts are bytes of the body."""

    rate_limited: bool = False
    hub_status: int | None = None
    cdn_status: int | None = None
    drop_after: int | None = None
    wrong_content: bool = False
    ignore_range: bool = False
    wrong_range: bool = False
    compressed: bool = False
    redirect_to: str | None = None
    info: object | None = None


@dataclass
class _State:
    repositories: dict[str, FakeRepository]
    renamed: dict[str, str] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    requests: list[Seen] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    cdn: str = ""


class FakeHub:
    """Runs while its ``with`` block does. ``tokens`` are those the hub knows as valid."""

    def __init__(
        self, repositories: Iterable[FakeRepository] = (), *, tokens: Iterable[str] = ()
    ) -> None:
        self._state = _State({one.name: one for one in repositories}, tokens=set(tokens))
        self._hub = _Server(_HubHandler, self._state)
        self._cdn = _Server(_CdnHandler, self._state)
        self._state.cdn = self._cdn.address

    @property
    def endpoint(self) -> str:
        return self._hub.address

    @property
    def cdn_endpoint(self) -> str:
        return self._cdn.address

    @property
    def faults(self) -> Faults:
        return self._state.faults

    @property
    def requests(self) -> tuple[Seen, ...]:
        return tuple(self._state.requests)

    def paths(self, port: Port) -> list[str]:
        """The paths asked of ``port`` so far, without their queries."""
        return [urlsplit(seen.path).path for seen in self.requests if seen.port == port]

    def add(self, repository: FakeRepository) -> None:
        self._state.repositories[repository.name] = repository

    def rename(self, old: str, new: str, *, host: str = "") -> None:
        """Answer for ``old`` with a redirect to ``new``, as after a rename.

        ``host`` (``http://...``) makes the redirect lead to another server, as no hub does.
        """
        self._state.renamed[old] = f"{host}/api/models/{new}"

    def cdn_url(self, file: FakeFile, query: str = "") -> str:
        """Where the CDN holds ``file``, for tests of plain URLs."""
        return f"{self.cdn_endpoint}/repos/{file.sha256}{query}"

    def __enter__(self) -> Self:
        self._hub.start()
        self._cdn.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hub.stop()
        self._cdn.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: type[_Handler], state: _State) -> None:
        self.state = state
        super().__init__(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.005,), daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Recording, and the small words of HTTP; every answer closes its connection."""

    server: _Server
    port: Port
    protocol_version = "HTTP/1.1"

    @property
    def state(self) -> _State:
        return self.server.state

    def do_GET(self) -> None:
        self._record()
        self.answer()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def answer(self) -> None:
        raise NotImplementedError

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base names it)
        """Keep test output quiet."""

    def send(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self._write(body)

    def send_json(
        self, value: object, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps(value).encode()
        self.send(
            status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body
        )

    def _write(self, body: bytes) -> None:
        limit = self.state.faults.drop_after if self.port == "cdn" else None
        cut = limit is not None and limit < len(body)
        try:
            self.wfile.write(body[:limit] if cut else body)
        except OSError:
            return
        if cut:
            self.close_connection = True

    def _record(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.state.requests.append(Seen(self.port, self.command, self.path, headers))


class _HubHandler(_Handler):
    port = "hub"

    def answer(self) -> None:
        faults = self.state.faults
        if faults.rate_limited:
            self._limit()
        elif faults.hub_status is not None:
            self.send(faults.hub_status, {}, b"<html>a page nobody should quote</html>")
        else:
            self._route([unquote(part) for part in urlsplit(self.path).path.split("/")[1:]])

    def _route(self, parts: list[str]) -> None:
        match parts:
            case ["api", "agent-harnesses"]:
                self.send_json({"standardEnvVars": ["AI_AGENT"], "harnesses": {}})
            case ["api", "models", owner, name, *rest]:
                self._api(f"{owner}/{name}", rest)
            case [owner, name, "resolve", revision, *path]:
                self._resolve(f"{owner}/{name}", revision, "/".join(path))
            case _:
                self.send_json({"error": "Sorry, we can't find the page you are looking for."}, 404)

    def _limit(self) -> None:
        headers = {
            "RateLimit": '"api";r=0;t=55',
            "RateLimit-Policy": '"fixed window";"api";q=500;w=300',
        }
        self.send_json({"error": "We had to rate limit you, hello from the body."}, 429, headers)

    # The API: public for gated repositories too, as on the real hub.

    def _api(self, name: str, rest: list[str]) -> None:
        if name in self.state.renamed:
            place = "/".join([self.state.renamed[name], *rest])
            self.send_json({"error": "moved"}, 307, {"Location": place})
            return
        repository = self._visible(name)
        if repository is None:
            return
        match rest:
            case [] | ["revision", _]:
                if self._has_revision(repository, rest[1] if rest else "main"):
                    self._info(repository)
            case ["tree", revision, *_]:
                if self._has_revision(repository, revision):
                    self.send_json([_tree_entry(*item) for item in repository.files.items()])
            case ["paths-info", revision]:
                if self._has_revision(repository, revision):
                    self._paths_info(repository)
            case _:
                self.send_json({"error": "Not Found"}, 404)

    def _info(self, repository: FakeRepository) -> None:
        if self.state.faults.info is not None:
            self.send_json(self.state.faults.info)
            return
        blobs = parse_qs(urlsplit(self.path).query).get("blobs") == ["true"]
        self.send_json(_model_info(repository, blobs=blobs))

    def _paths_info(self, repository: FakeRepository) -> None:
        form = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        wanted = parse_qs(form).get("paths", [])
        found = [(path, repository.files[path]) for path in wanted if path in repository.files]
        self.send_json([_tree_entry(*item) for item in found])

    def _visible(self, name: str) -> FakeRepository | None:
        token = self._token()
        if token is not None and token not in self.state.tokens:
            self._unauthorized("Invalid credentials in Authorization header")
            return None
        repository = self.state.repositories.get(name)
        if repository is not None and not (repository.private and token not in repository.readers):
            return repository
        if token is None:
            self._unauthorized("Invalid username or password.")
        else:
            self._refuse(404, "RepoNotFound", "Repository not found")
        return None

    def _has_revision(self, repository: FakeRepository, revision: str) -> bool:
        if revision in ("main", repository.commit):
            return True
        self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return False

    # The files.

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._visible(name)
        if repository is None or not self._has_revision(repository, revision):
            return
        if repository.gated and not self._admitted(repository):
            return
        file = repository.files.get(path)
        if file is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif file.lfs:
            self._redirect(repository, file)
        else:
            headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{file.blob_id}"'}
            self.send(200, headers, file.content)

    def _redirect(self, repository: FakeRepository, file: FakeFile) -> None:
        signed = f"{self.state.cdn}/repos/{file.sha256}?X-Amz-Signature=5ec2e7&Expires=1764000000"
        headers = {
            "Location": self.state.faults.redirect_to or signed,
            "X-Repo-Commit": repository.commit,
            "X-Linked-Size": str(len(file.content)),
            "X-Linked-ETag": f'"{file.sha256}"',
            "Accept-Ranges": "bytes",
            "Vary": "Origin, Accept",
        }
        self.send(302, headers, b"Found. Redirecting to the CDN")

    def _admitted(self, repository: FakeRepository) -> bool:
        restricted = f"Access to model {repository.name} is restricted"
        token = self._token()
        if token in repository.readers:
            return True
        if token is None:
            text = "You must have access to it and be authenticated to access it. Please log in."
            self._refuse(401, "GatedRepo", f"{restricted}. {text}")
        else:
            text = f"and you are not in the authorized list. Visit /{repository.name} to ask."
            self._refuse(403, "GatedRepo", f"{restricted} {text}")
        return False

    def _unauthorized(self, message: str) -> None:
        headers = {
            "X-Error-Message": message,
            "WWW-Authenticate": 'Bearer realm="Authentication required", charset="UTF-8"',
        }
        self.send_json({"error": message}, 401, headers)

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.send_json({"error": message}, status, headers)

    def _token(self) -> str | None:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if kind == "Bearer" else None


class _CdnHandler(_Handler):
    port = "cdn"

    def answer(self) -> None:
        faults = self.state.faults
        if faults.cdn_status is not None:
            self.send(faults.cdn_status, {}, b"<Error><Message>AccessDenied</Message></Error>")
            return
        digest = urlsplit(self.path).path.rpartition("/")[2]
        for repository in self.state.repositories.values():
            for file in repository.files.values():
                if file.sha256 == digest:
                    self._deliver(file)
                    return
        self.send(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")

    def _deliver(self, file: FakeFile) -> None:
        faults = self.state.faults
        content = bytes(byte ^ 1 for byte in file.content) if faults.wrong_content else file.content
        headers = {"ETag": f'"{file.sha256}"', "Accept-Ranges": "bytes"}
        if faults.compressed:
            headers["Content-Encoding"] = "gzip"
        start = self._start()
        if start == 0 or faults.ignore_range:
            self.send(200, headers, content)
        elif start >= len(content):
            self.send(416, {"Content-Range": f"bytes */{len(content)}"})
        else:
            start -= 1 if faults.wrong_range else 0
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send(206, {**headers, "Content-Range": span}, content[start:])

    def _start(self) -> int:
        text = self.headers.get("Range", "bytes=0-")
        return int(text.removeprefix("bytes=").removesuffix("-"))


def _model_info(repository: FakeRepository, *, blobs: bool) -> dict[str, object]:
    siblings = [_sibling(path, file, blobs) for path, file in sorted(repository.files.items())]
    return {
        "_id": "678e1e131c0169c0bc89728d",
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.partition("/")[0],
        "sha": repository.commit,
        "lastModified": "2025-01-29T11:02:13.000Z",
        "createdAt": "2025-01-20T10:12:45.000Z",
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "downloads": 12345,
        "likes": 678,
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "endpoints_compatible", "region:us", "conversational"],
        "cardData": repository.card,
        "siblings": siblings,
        "spaces": [],
        "usedStorage": sum(len(file.content) for file in repository.files.values()),
    }


def _sibling(path: str, file: FakeFile, blobs: bool) -> dict[str, object]:
    if not blobs:
        return {"rfilename": path}
    entry: dict[str, object] = {
        "rfilename": path,
        "blobId": file.blob_id,
        "size": len(file.content),
    }
    if file.lfs:
        entry["lfs"] = {
            "sha256": file.sha256,
            "size": len(file.content),
            "pointerSize": len(file.pointer),
        }
    return entry


def _tree_entry(path: str, file: FakeFile) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "file",
        "oid": file.blob_id,
        "size": len(file.content),
        "path": path,
    }
    if file.lfs:
        entry["lfs"] = {
            "oid": file.sha256,
            "size": len(file.content),
            "pointerSize": len(file.pointer),
        }
    return entry


# Repositories laid out as the real ones are. The contents are invented and tiny.


def gguf(name: str, size: int = 4096) -> FakeFile:
    """Bytes that begin as a GGUF file does and differ by name; no model can be read from them."""
    seed = b"GGUF\x03\0\0\0" + name.encode() + b"\0"
    return FakeFile((seed * (size // len(seed) + 1))[:size])


def text(content: str) -> FakeFile:
    return FakeFile(content.encode(), lfs=False)


def split_gguf(stem: str, parts: int) -> dict[str, FakeFile]:
    names = [f"{stem}-{part:05}-of-{parts:05}.gguf" for part in range(1, parts + 1)]
    return {name: gguf(name, 1500 + 7 * index) for index, name in enumerate(names)}


def deepseek_repositories() -> tuple[FakeRepository, ...]:
    """DeepSeek-R1, its GGUF conversion in split files, and a distillate quantised."""
    return (_deepseek_r1(), _deepseek_r1_gguf(), _deepseek_r1_distill_gguf())


def _deepseek_r1() -> FakeRepository:
    shards = [f"model-{part:05}-of-000163.safetensors" for part in (1, 2, 163)]
    return FakeRepository(
        "deepseek-ai/DeepSeek-R1",
        {
            ".gitattributes": text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n"),
            "LICENSE": text("MIT License\n\nCopyright (c) 2023 DeepSeek\n"),
            "README.md": text(
                "---\nlicense: mit\nlibrary_name: transformers\n---\n# DeepSeek-R1\n"
            ),
            "config.json": text('{"architectures": ["DeepseekV3ForCausalLM"]}'),
            "configuration_deepseek.py": text("# code that is never run\n"),
            "model.safetensors.index.json": text("{}"),
            **{name: FakeFile(name.encode()) for name in shards},
        },
        card={"license": "mit", "library_name": "transformers"},
    )


def _deepseek_r1_gguf() -> FakeRepository:
    return FakeRepository(
        "unsloth/DeepSeek-R1-GGUF",
        {
            ".gitattributes": text("*.gguf filter=lfs diff=lfs merge=lfs -text\n"),
            "README.md": text("---\nbase_model: deepseek-ai/DeepSeek-R1\nlicense: mit\n---\n"),
            "config.json": text("{}"),
            **split_gguf("DeepSeek-R1-Q4_K_M/DeepSeek-R1-Q4_K_M", 9),
            **split_gguf("DeepSeek-R1-Q2_K/DeepSeek-R1-Q2_K", 5),
            **split_gguf("DeepSeek-R1-UD-IQ1_S/DeepSeek-R1-UD-IQ1_S", 3),
        },
        card={
            "base_model": "deepseek-ai/DeepSeek-R1",
            "language": ["en"],
            "library_name": "transformers",
            "license": "mit",
            "tags": ["deepseek", "unsloth", "transformers"],
        },
    )


def _deepseek_r1_distill_gguf() -> FakeRepository:
    stem = "DeepSeek-R1-Distill-Qwen-1.5B"
    names = [f"{stem}-{kind}.gguf" for kind in ("IQ4_XS", "Q4_K_M", "Q4_K_S", "Q6_K", "Q8_0")]
    return FakeRepository(
        f"bartowski/{stem}-GGUF",
        {
            ".gitattributes": text("*.gguf filter=lfs diff=lfs merge=lfs -text\n"),
            "README.md": text(f"---\nbase_model: deepseek-ai/{stem}\n---\n"),
            f"{stem}.imatrix": FakeFile(b"statistics"),
            **{name: gguf(name) for name in names},
        },
        card={
            "quantized_by": "bartowski",
            "pipeline_tag": "text-generation",
            "base_model": f"deepseek-ai/{stem}",
        },
    )
