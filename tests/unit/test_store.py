"""The store: what it accepts as a blob, what it notices, and who else may be in it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freehold.domain.errors import DigestMismatch, DiskFull, StoreBusy, Unavailable
from freehold.weights import store as store_module
from freehold.weights.files import write_atomically
from freehold.weights.registry import Manifest, ModelFile, Registry
from freehold.weights.store import STORE_VERSION, Store
from tests.support.ordinary_user import folder_for_all, ordinary_user
from tests.support.other_process import other_process
from tests.support.watching import Recorder

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "home")


def adopt(store: Store, content: bytes = CONTENT) -> Path:
    digest = hashlib.sha256(content).hexdigest()
    with store.partial(digest, waiting=lambda: None) as partial:
        partial.write_bytes(content)
        return store.adopt(partial, digest)


def version_of(home: Path) -> object:
    return json.loads((home / "store.json").read_text())


def hashed_bytes(store: Store, digest: str = DIGEST) -> int:
    """How much `verify` had to read."""
    watcher = Recorder()
    store.verify(digest, advance=watcher.advance)
    return watcher.advanced


# Opening


def test_a_store_is_made_where_there_is_none(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    store = Store.open(home)
    assert version_of(home) == {"version": STORE_VERSION}
    assert store.blobs() == ()
    assert store.partials() == ()


def test_opening_again_keeps_what_is_there(store: Store) -> None:
    path = adopt(store)
    again = Store.open(store.home)
    assert again.verify(DIGEST) == path
    assert [(blob.sha256, blob.size) for blob in again.blobs()] == [(DIGEST, len(CONTENT))]


@pytest.fixture
def migrations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A format 3 with a step from 1 and one from 2; the list says which ran."""
    ran: list[int] = []

    def step(number: int) -> Callable[[Path], None]:
        def run(home: Path) -> None:
            assert (home / "blobs").is_dir()
            ran.append(number)

        return run

    monkeypatch.setattr(store_module, "STORE_VERSION", 3)
    monkeypatch.setattr(store_module, "MIGRATIONS", {1: step(1), 2: step(2)})
    return ran


def old_store(home: Path) -> Path:
    """A store of format 1 with a blob in it."""
    (home / "blobs").mkdir(parents=True)
    (home / "blobs" / DIGEST).write_bytes(CONTENT)
    (home / "store.json").write_text('{"version": 1}')
    return home


def test_an_older_store_is_migrated_once_step_by_step(
    tmp_path: Path, migrations: list[int]
) -> None:
    home = old_store(tmp_path)
    store = Store.open(home)
    assert migrations == [1, 2]
    assert version_of(home) == {"version": 3}
    assert store.verify(DIGEST).read_bytes() == CONTENT
    Store.open(home)
    assert migrations == [1, 2]


def test_a_migration_that_failed_goes_on_where_it_stopped(
    tmp_path: Path, migrations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = old_store(tmp_path)

    def fail(_: Path) -> None:
        raise RuntimeError("the power went")

    working = store_module.MIGRATIONS
    monkeypatch.setattr(store_module, "MIGRATIONS", {**working, 2: fail})
    with pytest.raises(RuntimeError, match="power"):
        Store.open(home)
    assert version_of(home) == {"version": 2}
    monkeypatch.setattr(store_module, "MIGRATIONS", working)
    Store.open(home)
    assert migrations == [1, 2]
    assert version_of(home) == {"version": 3}


def test_a_store_that_lost_its_version_is_taken_for_the_oldest(
    tmp_path: Path, migrations: list[int]
) -> None:
    # Steps may run twice; a step left out would be a broken store.
    home = old_store(tmp_path)
    (home / "store.json").unlink()
    store = Store.open(home)
    assert migrations == [1, 2]
    assert version_of(home) == {"version": 3}
    assert store.verify(DIGEST).read_bytes() == CONTENT


def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    home = old_store(tmp_path)
    (home / "store.json").write_text('{"version": 99}')
    with pytest.raises(Unavailable, match=r"newer freehold \(format 99\)") as caught:
        Store.open(home)
    assert "Upgrade freehold" in str(caught.value.hint)
    assert version_of(home) == {"version": 99}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"version": null}',
        b'{"version": "one"}',
        b'{"version": Infinity}',
        b'{"version": NaN}',
    ],
)
def test_a_damaged_version_file_is_named_and_not_overwritten(
    tmp_path: Path, content: bytes
) -> None:
    home = old_store(tmp_path)
    (home / "store.json").write_bytes(content)
    with pytest.raises(Unavailable, match=r"store\.json is damaged") as caught:
        Store.open(home)
    assert f'{{"version": {STORE_VERSION}}}' in str(caught.value.hint)
    assert (home / "store.json").read_bytes() == content


def test_a_folder_of_somebody_else_is_refused() -> None:
    with folder_for_all() as folder:
        folder.chmod(0o555)
        with ordinary_user(), pytest.raises(Unavailable, match="cannot be written") as caught:
            Store.open(folder / "home")
        assert "FREEHOLD_HOME" in str(caught.value.hint)
        folder.chmod(0o777)


@pytest.mark.parametrize("below", ["", "home"])
def test_a_file_is_no_home(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Unavailable, match="is not a folder") as caught:
        Store.open(tmp_path / "file" / below)
    assert "FREEHOLD_HOME" in str(caught.value.hint)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOENT, errno.ELOOP])
def test_any_other_reason_not_to_write_is_a_sentence_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(Unavailable, match=os.strerror(number)):
        Store.open(tmp_path / "home")


def test_processes_that_open_at_once_migrate_once(tmp_path: Path) -> None:
    home = old_store(tmp_path)
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(other_process("migrate", home)) for _ in range(3)]
        for child in children:
            child.wait_for("ready")
        for child in children:
            child.tell()
        for child in children:
            child.wait_for("done")
    assert (home / "steps").read_text() == "step\n"
    assert version_of(home) == {"version": 2}


# Names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../../etc/x",
        "/etc/passwd",
        DIGEST[:63],
        DIGEST + "0",
        DIGEST.upper(),
        DIGEST[:63] + "g",
        DIGEST[:63] + "\0",
        DIGEST + "\n",
        f"../blobs/{DIGEST}",
        "\u0661" * 64,  # Arabic digits: \d and int() take them
    ],
)
def test_only_a_digest_names_a_blob(store: Store, name: str) -> None:
    for use in (store.blob_path, store.has, store.verify, store.remove_blob):
        with pytest.raises(ValueError, match="not a SHA-256"):
            use(name)


def test_strange_files_among_the_blobs_are_no_blobs(store: Store) -> None:
    adopt(store)
    (store.home / "blobs" / ".DS_Store").write_bytes(b"")
    (store.home / "blobs" / "readme.txt").write_bytes(b"")
    assert [blob.sha256 for blob in store.blobs()] == [DIGEST]


# Blobs


def test_a_blob_is_whole_read_only_and_named_by_its_digest(store: Store) -> None:
    assert not store.has(DIGEST)
    path = adopt(store)
    assert path == store.blob_path(DIGEST)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o222 == 0
    assert store.has(DIGEST)
    assert not (store.home / "partial" / DIGEST).exists()


def test_an_untouched_blob_is_not_read_again(store: Store) -> None:
    adopt(store)
    assert hashed_bytes(store) == 0


def change(path: Path) -> None:
    """Flip one byte, keeping the size."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(len(CONTENT) // 2)
        file.write(b"X")


def test_changed_content_of_the_same_size_is_found_out(store: Store) -> None:
    path = adopt(store)
    change(path)
    with pytest.raises(DigestMismatch) as caught:
        store.verify(DIGEST)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (caught.value.expected, caught.value.actual) == (DIGEST, actual)
    assert str(path) in caught.value.message
    assert "freehold rm" in str(caught.value.hint)


def test_setting_the_time_back_hides_no_change(store: Store) -> None:
    path = adopt(store)
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(DigestMismatch):
        store.verify(DIGEST)


def test_a_mismatch_is_found_every_time(store: Store) -> None:
    change(adopt(store))
    for _ in range(2):
        with pytest.raises(DigestMismatch):
            store.verify(DIGEST)


def test_a_touched_blob_is_read_once_and_trusted_again(store: Store) -> None:
    path = adopt(store)
    os.utime(path, (1, 1))
    assert hashed_bytes(store) == len(CONTENT)
    assert hashed_bytes(store) == 0


def test_another_file_with_the_same_content_is_read_once(store: Store) -> None:
    path = adopt(store)
    copy = path.with_name("copy")
    copy.write_bytes(CONTENT)
    copy.replace(path)
    assert hashed_bytes(store) == len(CONTENT)
    assert hashed_bytes(store) == 0


@pytest.mark.parametrize("left", [None, b"", b"{}", b"\0" * 40, b'{"sha256": 1}'])
def test_a_blob_without_a_sound_record_is_read_again(store: Store, left: bytes | None) -> None:
    adopt(store)
    (record,) = (store.home / "records").iterdir()
    record.unlink()
    if left is not None:
        record.write_bytes(left)
    assert hashed_bytes(store) == len(CONTENT)
    assert hashed_bytes(store) == 0


def test_the_record_of_another_blob_vouches_for_nothing(store: Store) -> None:
    path = adopt(store)
    change(path)
    other = hashlib.sha256(path.read_bytes()).hexdigest()
    os.link(path, store.blob_path(other))
    store.verify(other)
    folder = store.home / "records"
    (folder / f"{DIGEST}.json").write_bytes((folder / f"{other}.json").read_bytes())
    with pytest.raises(DigestMismatch):
        store.verify(DIGEST)


def test_removing_a_blob_frees_its_bytes_once(store: Store) -> None:
    adopt(store)
    assert store.remove_blob(DIGEST) == len(CONTENT)
    assert store.remove_blob(DIGEST) == 0
    assert not store.has(DIGEST)
    assert list((store.home / "records").iterdir()) == []


# Locks


def test_a_partial_has_one_writer_at_a_time(store: Store) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        with store.partial(DIGEST, waiting=waiting.set) as path:
            order.append(path.read_text())

    thread = threading.Thread(target=second)
    with store.partial(DIGEST, waiting=lambda: order.append("never")) as path:
        thread.start()
        assert waiting.wait(10)
        path.write_text("of the first")
    thread.join(10)
    assert order == ["of the first"]


def test_nothing_is_cleaned_while_a_pull_runs(store: Store) -> None:
    with (
        store.pulling(),
        store.pulling(),
        pytest.raises(StoreBusy, match="pull is running"),
        store.cleaning(),
    ):
        pytest.fail("two at once")
    with store.cleaning():
        pass


# Writing


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        yield


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"old")
    with pytest.raises(DiskFull, match=f"disk that holds {tmp_path} is full") as caught:
        write_atomically(path, b"new")
    assert "freehold prune" in str(caught.value.hint)
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("file.json", b"old")]


# Manifests


def manifest(reference: str, *digests: str) -> Manifest:
    return Manifest(
        reference=reference,
        files=tuple(ModelFile(f"{digest[:8]}.gguf", 7, digest) for digest in digests),
        origin="somewhere",
        fetched_at="2026-01-01T00:00:00+00:00",
        tool_version="0.1.0",
    )


@pytest.mark.parametrize(
    "reference",
    [
        "deepseek-r1:1.5b",
        "hf:owner/repo@abc:folder/file.gguf",
        f"https://example.org/a/../b.gguf#sha256={DIGEST}",
        f"https://example.org/{'long/' * 60}model.gguf#sha256={DIGEST}",
        "..",
    ],
)
def test_a_manifest_is_found_under_any_reference(store: Store, reference: str) -> None:
    registry = Registry(store)
    wanted = manifest(reference, DIGEST)
    registry.put(wanted)
    assert registry.find(reference) == wanted
    assert registry.all() == (wanted,)
    assert [path.parent for path in store.home.rglob("*.json")].count(store.home / "manifests") == 1
    registry.remove(reference)
    assert registry.all() == ()


def test_long_references_do_not_share_a_manifest(store: Store) -> None:
    registry = Registry(store)
    long = "https://example.org/" + "long/" * 60
    both = [manifest(f"{long}{name}.gguf#sha256={DIGEST}", DIGEST) for name in ("one", "two")]
    for one in both:
        registry.put(one)
    assert sorted(one.reference for one in registry.all()) == [one.reference for one in both]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"reference": "a:b"}', b"\xff" * 10], ids=repr
)
def test_a_damaged_manifest_hides_no_other(store: Store, content: bytes) -> None:
    registry = Registry(store)
    registry.put(manifest("sound:1b", DIGEST))
    (store.home / "manifests" / "broken%3A1b.json").write_bytes(content)
    assert [one.reference for one in registry.all()] == ["sound:1b"]
    assert registry.find("broken:1b") is None


def test_a_manifest_that_names_a_path_for_a_digest_is_ignored(store: Store) -> None:
    registry = Registry(store)
    registry.put(manifest("evil:1b", "../../../etc/passwd"))
    assert registry.find("evil:1b") is None
    assert registry.all() == ()


def test_a_link_in_place_of_a_partial_is_not_followed(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "home")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not ours")
    (store.home / "partial" / "key").symlink_to(elsewhere)
    with store.partial("key", waiting=lambda: None) as path:
        path.write_text("ours")
    assert elsewhere.read_text() == "not ours"
