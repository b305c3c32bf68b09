"""Downloads that break, resume, race and lie, against hubs on loopback and scripted sources."""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from freehold.domain.errors import (
    DigestMismatch,
    DiskFull,
    FreeholdError,
    GatedModel,
    InvalidModelFile,
    SourceUnavailable,
    UnknownModel,
)
from freehold.domain.settings import Settings
from freehold.weights import housekeeping
from freehold.weights.download import DISK_MARGIN, Downloader, Fetched
from freehold.weights.library import Library
from freehold.weights.sources.base import Offer, RemoteFile, Source
from freehold.weights.sources.hub import HubSource
from freehold.weights.store import Store
from tests.support.fake_hub import FakeFile, FakeHub, FakeRepository, deepseek_repositories, gguf
from tests.support.metered_hub import MeteredHub
from tests.support.models import model_bytes
from tests.support.other_process import other_process
from tests.support.watching import Recorder

REPOSITORY = "someone/tiny-GGUF"
REFERENCE = f"hf:{REPOSITORY}:tiny.gguf"
CONTENT = model_bytes("tiny", elements=75_000)
FILE = FakeFile(CONTENT)
SIZE = len(CONTENT)
DIGEST = FILE.sha256
REMOTE = RemoteFile("tiny.gguf", SIZE, DIGEST)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "home")


@pytest.fixture
def hub() -> Iterator[MeteredHub]:
    with MeteredHub([FakeRepository(REPOSITORY, {"tiny.gguf": FILE})]) as hub:
        yield hub


@pytest.fixture
def mirror() -> Iterator[MeteredHub]:
    with MeteredHub([FakeRepository(REPOSITORY, {"tiny.gguf": FILE})]) as hub:
        yield hub


def at(hub: FakeHub) -> HubSource:
    return HubSource(REPOSITORY, endpoint=hub.endpoint)


def nowhere() -> HubSource:
    """A hub on a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return HubSource(REPOSITORY, endpoint=f"http://127.0.0.1:{port}")


@dataclass
class Scripted:
    """A source that delivers what it was told to; ``asked`` are the offsets."""

    content: bytes = CONTENT
    file: RemoteFile = REMOTE
    description: str = "scripted source"
    revision: str | None = None
    refusal: FreeholdError | None = None
    breaks_with: BaseException | None = None
    breaks_at: int = SIZE
    asked: list[int] = field(default_factory=list)

    def resolve(self) -> Offer:
        if self.refusal is not None:
            raise self.refusal
        return Offer(self.description, (self.file,), self.revision)

    @contextlib.contextmanager
    def stream(self, file: RemoteFile, offset: int) -> Iterator[Iterator[bytes]]:
        self.asked.append(offset)
        yield self._chunks(file, offset)

    def _chunks(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        assert file == self.file
        for start in range(offset, len(self.content), 1000):
            if self.breaks_with is not None and start >= self.breaks_at:
                raise self.breaks_with
            yield self.content[start : start + 1000]


def fetch(store: Store, *sources: Source, watcher: Recorder | None = None) -> Fetched:
    return Downloader(store, watcher or Recorder(), pause=lambda _: None).fetch(sources)


def partials(store: Store) -> Mapping[str, int]:
    """What unfinished downloads left: name and size."""
    return {path.name: path.stat().st_size for path in store.partials() if path.suffix != ".lock"}


def assert_arrived(store: Store) -> None:
    assert store.verify(DIGEST).read_bytes() == CONTENT
    assert partials(store) == {}


# The straight way


def test_a_file_arrives_and_progress_adds_up(store: Store, hub: MeteredHub) -> None:
    watcher = Recorder()
    fetched = fetch(store, at(hub), watcher=watcher)
    assert [(file.name, file.size, file.sha256) for file in fetched.files] == [
        ("tiny.gguf", SIZE, DIGEST)
    ]
    assert_arrived(store)
    assert watcher.begun == [("tiny.gguf", SIZE, 0)]
    assert (watcher.advanced, watcher.ended, watcher.notes) == (SIZE, 1, [])


def test_what_is_here_is_not_sent_again(store: Store, hub: MeteredHub) -> None:
    fetch(store, at(hub))
    fetch(store, at(hub))
    assert (hub.meter.sent, len(hub.ranges)) == (SIZE, 1)


def test_the_parts_of_a_split_model_stay_in_order(store: Store) -> None:
    repository = deepseek_repositories()[1]
    with FakeHub([repository]) as hub:
        fetched = fetch(store, HubSource(repository.name, paths=("Q4_K_M",), endpoint=hub.endpoint))
    expected = [f"DeepSeek-R1-Q4_K_M-{number:05}-of-00009.gguf" for number in range(1, 10)]
    assert [file.name.rpartition("/")[2] for file in fetched.files] == expected
    for file in fetched.files:
        real = repository.files[file.name]
        assert (file.sha256, file.size) == (real.sha256, len(real.content))
        assert store.blob_path(file.sha256).read_bytes() == real.content


# Broken connections


def test_a_dropped_connection_resumes_at_the_missing_byte(store: Store, hub: MeteredHub) -> None:
    hub.faults.drop_after = 120_000
    pauses: list[float] = []
    watcher = Recorder()
    Downloader(store, watcher, pause=pauses.append).fetch([at(hub)])
    assert_arrived(store)
    assert hub.ranges == [None, "bytes=120000-", "bytes=240000-"]
    assert hub.meter.sent == watcher.advanced == SIZE
    assert pauses == sorted(pauses)
    assert 0 < pauses[0] < pauses[1]


def test_after_the_last_attempt_what_arrived_is_kept(store: Store, hub: MeteredHub) -> None:
    hub.faults.drop_after = 10_000
    with pytest.raises(SourceUnavailable, match="broke before the file ended"):
        fetch(store, at(hub))
    kept = partials(store)[DIGEST]
    assert kept == 10_000 * len(hub.ranges)
    assert store.blobs() == ()

    hub.faults.drop_after = None
    watcher = Recorder()
    fetch(store, at(hub), watcher=watcher)
    assert_arrived(store)
    assert hub.ranges[-1] == f"bytes={kept}-"
    assert watcher.begun == [("tiny.gguf", SIZE, kept)]
    assert kept + watcher.advanced == SIZE


def test_a_source_that_sends_nothing_is_given_up_soon(store: Store, hub: MeteredHub) -> None:
    hub.faults.cdn_status = 500
    with pytest.raises(SourceUnavailable):
        fetch(store, at(hub))
    assert len(hub.ranges) == 2


def test_a_file_that_ends_early_is_asked_for_again(store: Store) -> None:
    short = Scripted(content=CONTENT[:1500])
    with pytest.raises(SourceUnavailable, match=f"after 1500 of {SIZE} bytes"):
        fetch(store, short)
    assert partials(store) == {DIGEST: 1500}
    fetch(store, Scripted())
    assert_arrived(store)


def test_a_stop_by_the_user_keeps_what_arrived_and_frees_the_lock(store: Store) -> None:
    stopped = Scripted(breaks_with=KeyboardInterrupt(), breaks_at=5000)
    with pytest.raises(KeyboardInterrupt):
        fetch(store, stopped)
    assert partials(store) == {DIGEST: 5000}
    again = Scripted()
    fetch(store, again)
    assert again.asked == [5000]
    assert_arrived(store)


def test_a_server_that_cannot_resume_starts_over(store: Store, hub: MeteredHub) -> None:
    # Otherwise one dropped connection makes the file unobtainable from there for ever.
    hub.faults.drop_after = 1000
    with pytest.raises(SourceUnavailable):
        fetch(store, at(hub))
    hub.faults.drop_after = None
    hub.faults.ignore_range = True
    fetch(store, at(hub))
    assert_arrived(store)


def kill_in_the_middle(hub: MeteredHub, home: Path, arrived: int) -> None:
    """Pull in another process and SIGKILL it when ``arrived`` bytes are on disk."""
    hub.meter.hold_after = arrived
    with other_process("pull", home, hub.endpoint, REFERENCE) as child:
        hub.meter.wait_until_held()
        partial = home / "partial" / DIGEST
        deadline = time.monotonic() + 20
        while not partial.exists() or partial.stat().st_size < arrived:
            assert time.monotonic() < deadline, "the bytes sent never reached the disk"
            time.sleep(0.01)
        child.kill()
    hub.meter.release()


def test_a_killed_pull_leaves_no_blob_and_the_next_finishes_it(
    store: Store, hub: MeteredHub
) -> None:
    kill_in_the_middle(hub, store.home, 100_000)
    assert store.blobs() == ()
    assert partials(store) == {DIGEST: 100_000}

    library = Library.open(Settings(home=store.home, hub_endpoint=hub.endpoint))
    watcher = Recorder()
    manifest = library.pull(REFERENCE, watcher)
    assert hub.ranges == [None, "bytes=100000-"]
    assert watcher.begun == [("tiny.gguf", SIZE, 100_000)]
    assert [file.sha256 for file in manifest.files] == [DIGEST]
    assert_arrived(store)


def test_two_pulls_at_once_send_the_file_once(store: Store, hub: MeteredHub) -> None:
    hub.meter.hold_after = 100_000
    with (
        other_process("pull", store.home, hub.endpoint, REFERENCE) as first,
        other_process("pull", store.home, hub.endpoint, REFERENCE) as second,
    ):
        hub.meter.wait_until_held()
        told: list[str] = []
        readers = [
            threading.Thread(target=told.extend, args=(child.process.stdout,))
            for child in (first, second)
        ]
        for reader in readers:
            reader.start()
        deadline = time.monotonic() + 20
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
        hub.meter.release()
        assert first.process.wait(20) == 0
        assert second.process.wait(20) == 0
        for reader in readers:
            reader.join()
    assert sorted(told) == [
        "done\n",
        "done\n",
        "note: Another pull is fetching this file; waiting for it.\n",
    ]
    assert hub.ranges == [None]
    assert hub.meter.sent == SIZE
    assert_arrived(store)


# Wrong bytes


def test_wrong_content_of_the_right_size_is_not_kept(store: Store, hub: MeteredHub) -> None:
    hub.faults.wrong_content = True
    with pytest.raises(DigestMismatch) as caught:
        fetch(store, at(hub))
    wrong = hashlib.sha256(bytes(byte ^ 1 for byte in CONTENT)).hexdigest()
    assert (caught.value.expected, caught.value.actual) == (DIGEST, wrong)
    assert store.blobs() == ()
    assert partials(store) == {}


@pytest.mark.parametrize("left", [None, b"", b"left"])
def test_a_file_promised_empty_is_no_model(store: Store, left: bytes | None) -> None:
    if left is not None:
        (store.home / "partial" / DIGEST).write_bytes(left)
    with pytest.raises(DigestMismatch):
        fetch(store, Scripted(content=b"", file=RemoteFile("tiny.gguf", 0, DIGEST)))
    assert partials(store) == {}


def test_after_wrong_content_the_next_source_is_asked_from_the_start(
    store: Store, hub: MeteredHub, mirror: MeteredHub
) -> None:
    hub.faults.wrong_content = True
    watcher = Recorder()
    fetch(store, at(hub), at(mirror), watcher=watcher)
    assert_arrived(store)
    assert mirror.ranges == [None]
    (note,) = watcher.notes
    assert DIGEST in note
    assert at(mirror).description in note


def test_more_bytes_than_promised_are_refused(store: Store) -> None:
    endless = Scripted(content=CONTENT + b"\0" * 10_000)
    with pytest.raises(SourceUnavailable, match=f"more than the {SIZE} bytes"):
        fetch(store, endless)
    assert partials(store)[DIGEST] <= SIZE
    fetch(store, Scripted())
    assert_arrived(store)


def test_a_damaged_partial_starts_over(store: Store, hub: MeteredHub) -> None:
    (store.home / "partial" / DIGEST).write_bytes(b"\0" * 50_000)
    watcher = Recorder()
    fetch(store, at(hub), watcher=watcher)
    assert_arrived(store)
    assert hub.ranges == ["bytes=50000-", None]
    assert watcher.notes == ["What an earlier attempt left is damaged; starting over."]


@pytest.mark.parametrize("left", [b"\0" * SIZE, b"\0" * (SIZE + 1), CONTENT + b"\0"])
def test_a_partial_as_long_as_the_file_or_longer_is_checked_too(
    store: Store, hub: MeteredHub, left: bytes
) -> None:
    (store.home / "partial" / DIGEST).write_bytes(left)
    fetch(store, at(hub))
    assert_arrived(store)
    assert hub.ranges == [None]


def test_a_complete_partial_needs_no_byte_more(store: Store, hub: MeteredHub) -> None:
    # Killed after the last byte and before the rename.
    (store.home / "partial" / DIGEST).write_bytes(CONTENT)
    fetch(store, at(hub))
    assert_arrived(store)
    assert hub.ranges == []


def test_a_damaged_blob_is_not_taken_for_the_file(store: Store, hub: MeteredHub) -> None:
    fetch(store, at(hub))
    path = store.blob_path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(CONTENT[:-1] + b"X")
    with pytest.raises(DigestMismatch):
        fetch(store, at(hub))


@pytest.mark.parametrize("bad", [FakeFile(b""), FakeFile(CONTENT[:-1]), gguf("not really")])
def test_what_is_no_model_file_gets_no_manifest(tmp_path: Path, bad: FakeFile) -> None:
    with MeteredHub([FakeRepository(REPOSITORY, {"tiny.gguf": bad})]) as hub:
        library = Library.open(Settings(home=tmp_path, hub_endpoint=hub.endpoint))
        for _ in range(2):
            with pytest.raises(InvalidModelFile):
                library.pull(REFERENCE, Recorder())
    assert library.registry.all() == ()
    housekeeping.prune(library.store)
    assert library.store.blobs() == ()
    assert partials(library.store) == {}


# Several sources


def test_an_unreachable_source_gives_way_and_the_user_is_told(
    store: Store, mirror: MeteredHub
) -> None:
    watcher = Recorder()
    fetched = fetch(store, nowhere(), at(mirror), watcher=watcher)
    assert_arrived(store)
    assert fetched.offer.origin == f"{mirror.endpoint}/{REPOSITORY}"
    assert watcher.notes == [
        f"127.0.0.1 cannot be reached. Trying the {at(mirror).description}.",
    ]


def test_another_source_finishes_what_one_began(
    store: Store, hub: MeteredHub, mirror: MeteredHub
) -> None:
    hub.faults.drop_after = 20_000
    fetch(store, at(hub), at(mirror))
    assert_arrived(store)
    assert mirror.ranges == [f"bytes={20_000 * len(hub.ranges)}-"]
    assert hub.meter.sent + mirror.meter.sent == SIZE


def test_a_source_that_cannot_resume_leaves_the_rest_to_the_next(
    store: Store, hub: MeteredHub, mirror: MeteredHub
) -> None:
    (store.home / "partial" / DIGEST).write_bytes(CONTENT[:70_000])
    hub.faults.wrong_range = True
    fetch(store, at(hub), at(mirror))
    assert_arrived(store)


def test_a_name_of_their_own_does_not_keep_sources_apart(store: Store) -> None:
    first = Scripted(breaks_with=SourceUnavailable("gone"), breaks_at=4000)
    other = Scripted(file=RemoteFile("renamed.gguf", SIZE, DIGEST))
    fetched = fetch(store, first, other)
    assert other.asked == [4000]
    assert [file.name for file in fetched.files] == ["renamed.gguf"]
    assert_arrived(store)


@pytest.mark.parametrize(
    "telling",
    [
        GatedModel("asks for a token"),
        UnknownModel("someone/gone"),
        DigestMismatch("it", expected=DIGEST, actual="0" * 64),
    ],
    ids=lambda error: error.code,
)
@pytest.mark.parametrize("first", [True, False])
def test_of_several_failures_the_most_telling_is_reported(
    store: Store, telling: FreeholdError, first: bool
) -> None:
    sources = [
        Scripted(refusal=telling),
        Scripted(refusal=SourceUnavailable("127.0.0.1 cannot be reached.")),
    ]
    with pytest.raises(type(telling)) as caught:
        fetch(store, *(sources if first else sources[::-1]))
    assert caught.value is telling


# Files whose digest nobody knows in advance


def test_without_a_digest_the_content_names_the_blob(store: Store) -> None:
    fetched = fetch(store, Scripted(file=RemoteFile("tiny.gguf")))
    assert [(file.size, file.sha256) for file in fetched.files] == [(SIZE, DIGEST)]
    assert_arrived(store)


@pytest.mark.parametrize("changed", [False, True])
def test_without_a_digest_only_the_same_revision_is_resumed(store: Store, changed: bool) -> None:
    anonymous = RemoteFile("tiny.gguf", SIZE)
    broken = Scripted(
        content=b"\1" * SIZE if changed else CONTENT,
        file=anonymous,
        revision="old",
        breaks_with=SourceUnavailable("gone"),
        breaks_at=4000,
    )
    with pytest.raises(SourceUnavailable):
        fetch(store, broken)
    again = Scripted(file=anonymous, revision="new" if changed else "old")
    fetch(store, again)
    assert again.asked == ([0] if changed else [4000])
    assert store.verify(DIGEST).read_bytes() == CONTENT


# A full disk

_Usage = collections.namedtuple("_Usage", "total used free")


def pretend_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(10**13, 10**13 - free, free))


BIG = RemoteFile("big.gguf", 5_000_000_000, "b" * 64)


def test_too_little_room_is_said_before_a_byte_is_asked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_free(monkeypatch, 1_000_000_000)
    source, other = Scripted(file=BIG), Scripted(file=BIG)
    with pytest.raises(DiskFull, match=r"needs 5\.00 GB more .* has 1\.00 GB free") as caught:
        fetch(store, source, other)
    assert str(store.home) in caught.value.message
    assert "FREEHOLD_HOME" in str(caught.value.hint)
    assert source.asked == other.asked == []


def test_what_has_arrived_already_needs_no_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BIG.sha256
    with (store.home / "partial" / BIG.sha256).open("wb") as file:
        file.truncate(4_500_000_000)
    pretend_free(monkeypatch, 400_000_000)
    with pytest.raises(DiskFull, match=r"needs 0\.50 GB more .* has 0\.40 GB free"):
        fetch(store, Scripted(file=BIG))


def test_a_file_that_is_here_needs_no_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(store, Scripted())
    pretend_free(monkeypatch, DISK_MARGIN)
    fetch(store, Scripted())


class Filling:
    """A file on a disk with room for ``room`` bytes; beyond, a write does what it can and fails."""

    def __init__(self, file: IO[bytes], room: int, number: int) -> None:
        self._file, self._room, self._number = file, room, number

    def __enter__(self) -> Filling:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        written = self._file.write(data[: self._room])
        self._room -= written
        if written < len(data):
            self._file.flush()
            raise OSError(self._number, os.strerror(self._number))
        return written

    def flush(self) -> None:
        self._file.flush()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_keeps_what_arrived(
    store: Store, hub: MeteredHub, mirror: MeteredHub, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    opened = Path.open

    def open_on_a_small_disk(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        file = opened(path, mode, *rest, **named)
        return Filling(file, 90_001, number) if mode == "ab" and path.name == DIGEST else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_on_a_small_disk)
        with pytest.raises(DiskFull, match="is full") as caught:
            fetch(store, at(hub), at(mirror))
    assert "what has arrived is kept" in str(caught.value.hint)
    assert mirror.requests == ()
    assert partials(store) == {DIGEST: 90_001}

    fetch(store, at(hub))
    assert hub.ranges == [None, "bytes=90001-"]
    assert_arrived(store)
