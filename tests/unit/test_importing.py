"""Models of other programs: found where those keep them, copied, checked, left as they were."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import socket
import sys
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from freehold.domain.errors import (
    DigestMismatch,
    DiskFull,
    InvalidModelFile,
    InvalidReference,
    RefusedFile,
    Unavailable,
    UnsupportedFile,
)
from freehold.domain.settings import Settings
from freehold.weights import housekeeping
from freehold.weights.catalog import Catalog
from freehold.weights.importing import Find, Transfer, find_all, take
from freehold.weights.library import Library
from freehold.weights.progress import Silent
from freehold.weights.registry import Manifest, ModelFile, Registry
from freehold.weights.store import Store
from tests.support.models import model_bytes, part_name, write_model, write_parts
from tests.support.ordinary_user import folder_for_all, ordinary_user
from tests.support.other_programs import COMMIT, hub_cache_file, lm_studio_file, ollama_model
from tests.support.watching import Recorder

CONTENT = model_bytes("imported")
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = model_bytes("other")
LIBRARY = "registry.ollama.ai/library"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """The home folder of somebody who has used other programs."""
    folder = tmp_path / "user"
    ollama_folder(folder).mkdir(parents=True)  # else that of the whole machine is looked at
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "home")


def ollama_folder(user: Path) -> Path:
    return user / ".ollama" / "models"


def hub_cache(user: Path) -> Path:
    return user / ".cache" / "huggingface" / "hub"


def lm_studio_folders(user: Path) -> tuple[Path, Path]:
    return user / ".lmstudio" / "models", user / ".cache" / "lm-studio" / "models"


def found(user: Path, environ: Mapping[str, str] | None = None) -> list[str]:
    return [find.reference for find in find_all(environ or {}, user)]


def the_only(user: Path) -> Find:
    (find,) = find_all({}, user)
    return find


def local(store: Store, reference: str) -> bytes:
    """The content of the first file, read the way `run` finds it."""
    library = Library(Settings(home=store.home, offline=True), store, Catalog(()))
    model = library.local(reference)
    assert model.name == reference
    return model.paths[0].read_bytes()


def assert_untouched(store: Store) -> None:
    """Nothing was taken and nothing is left over."""
    assert Registry(store).all() == ()
    assert store.blobs() == ()
    assert [path.name for path in store.partials() if path.suffix != ".lock"] == []


# Finding


def test_ollama_models_are_found_by_the_names_they_have_there(user: Path) -> None:
    models = ollama_folder(user)
    blob = ollama_model(models, f"{LIBRARY}/tiny/1b", CONTENT, extra={"projector": b"GGUF..."})
    ollama_model(models, f"{LIBRARY}/tiny/latest", OTHER)
    ollama_model(models, "registry.ollama.ai/somebody/tiny/1b-Q4_K_M", OTHER)
    ollama_model(models, "hf.co/bartowski/Tiny-GGUF/Q4_K_M", OTHER)
    finds = {find.reference: find for find in find_all({}, user)}
    assert set(finds) == {
        "tiny:1b",
        "tiny:latest",
        "somebody.tiny:1b-q4_k_m",
        "bartowski.tiny-gguf:q4_k_m",
    }
    assert finds["tiny:1b"] == Find("tiny:1b", "Ollama", (blob,), len(CONTENT), sha256=DIGEST)


def test_the_hub_cache_is_found_with_commit_and_digest(user: Path) -> None:
    cache = hub_cache(user)
    link = hub_cache_file(cache, "maker/Tiny-GGUF", "tiny-q8_0.gguf", CONTENT)
    hub_cache_file(cache, "maker/Tiny-GGUF", "README.md", b"# Tiny")
    hub_cache_file(cache, "maker/Other", "model.safetensors", b"{}")
    assert the_only(user) == Find(
        f"hf:maker/Tiny-GGUF@{COMMIT}:tiny-q8_0.gguf",
        "Hugging Face cache",
        (link,),
        len(CONTENT),
        revision=COMMIT,
        sha256=DIGEST,
    )


def test_both_folders_of_lm_studio_are_found(user: Path) -> None:
    new, old = lm_studio_folders(user)
    path = lm_studio_file(new, "maker/New-GGUF", "new.gguf", CONTENT)
    lm_studio_file(old, "maker/Old-GGUF", "old.gguf", OTHER)
    assert list(find_all({}, user)) == [
        Find("hf:maker/New-GGUF:new.gguf", "LM Studio", (path,), len(CONTENT)),
        Find(
            "hf:maker/Old-GGUF:old.gguf",
            "LM Studio",
            (old / "maker/Old-GGUF/old.gguf",),
            len(OTHER),
        ),
    ]


@pytest.mark.parametrize(
    ("variable", "below"), [("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("OLLAMA_MODELS", "")]
)
def test_the_variables_of_the_other_programs_count(
    user: Path, tmp_path: Path, variable: str, below: str
) -> None:
    place = tmp_path / "elsewhere"
    if variable == "OLLAMA_MODELS":
        ollama_model(ollama_folder(user), f"{LIBRARY}/tiny/wrong", OTHER)
        ollama_model(place / below, f"{LIBRARY}/tiny/right", CONTENT)
    else:
        hub_cache_file(hub_cache(user), "maker/wrong", "wrong.gguf", OTHER)
        hub_cache_file(place / below, "maker/right", "right.gguf", CONTENT)
    (reference,) = found(user, {variable: str(place)})
    assert "right" in reference


def test_nobody_used_anything(user: Path) -> None:
    assert found(user) == []


@pytest.mark.parametrize(
    "name", ["mmproj-model-f16.gguf", "MMPROJ-F16.gguf", "tiny-mmproj-f16.gguf", "imatrix.gguf"]
)
def test_what_only_goes_with_a_model_is_no_model(user: Path, name: str) -> None:
    hub_cache_file(hub_cache(user), "maker/Tiny-GGUF", "tiny.gguf", CONTENT)
    hub_cache_file(hub_cache(user), "maker/Tiny-GGUF", name, OTHER)
    lm_studio_file(lm_studio_folders(user)[0], "maker/Tiny-GGUF", name, OTHER)
    assert found(user) == [f"hf:maker/Tiny-GGUF@{COMMIT}:tiny.gguf"]


def test_a_split_model_is_one_and_only_when_it_is_whole(user: Path, tmp_path: Path) -> None:
    studio = lm_studio_folders(user)[0]
    for part in write_parts(tmp_path / "parts", "tiny", 3):
        hub_cache_file(hub_cache(user), "maker/Split", f"Q8_0/{part.name}", part.read_bytes())
        lm_studio_file(studio, "maker/Whole", part.name, part.read_bytes())
        if "00002" not in part.name:
            lm_studio_file(studio, "maker/Lacking", part.name, part.read_bytes())
    finds = list(find_all({}, user))
    assert [find.reference for find in finds] == [
        f"hf:maker/Split@{COMMIT}:Q8_0/{part_name('tiny', 1, 3)}",
        f"hf:maker/Whole:{part_name('tiny', 1, 3)}",
    ]
    for find in finds:
        assert [path.name for path in find.paths] == [part_name("tiny", n, 3) for n in (1, 2, 3)]
        assert find.size == sum(path.stat().st_size for path in find.paths)
        assert find.sha256 is None


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"layers": null}',
        b'{"layers": [1]}',
        b'{"layers": [{}]}',
        b'{"layers": []}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", '
        b'"digest": "sha256:../../../../etc/passwd"}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:'
        + b"a" * 64
        + b'"}]}',
        b"\xff\xfe",
    ],
)
def test_a_broken_manifest_of_ollama_hides_no_other(user: Path, manifest: bytes) -> None:
    models = ollama_folder(user)
    ollama_model(models, f"{LIBRARY}/tiny/1b", CONTENT)
    broken = models / "manifests" / LIBRARY / "alpha" / "1b"
    broken.parent.mkdir()
    broken.write_bytes(manifest)
    assert found(user) == ["tiny:1b"]


def test_links_to_nothing_in_the_hub_cache_are_skipped(user: Path) -> None:
    hub_cache_file(hub_cache(user), "maker/Tiny", "tiny.gguf", CONTENT)
    gone = hub_cache_file(hub_cache(user), "maker/Gone", "gone.gguf", OTHER)
    gone.resolve().unlink()
    assert found(user) == [f"hf:maker/Tiny@{COMMIT}:tiny.gguf"]


def test_a_split_model_with_a_link_to_nothing_is_not_whole(user: Path, tmp_path: Path) -> None:
    hub_cache_file(hub_cache(user), "maker/Whole", "tiny.gguf", CONTENT)
    for part in write_parts(tmp_path / "parts", "tiny", 2):
        link = hub_cache_file(hub_cache(user), "maker/Split", part.name, part.read_bytes())
    link.resolve().unlink()
    assert found(user) == [f"hf:maker/Whole@{COMMIT}:tiny.gguf"]


CORNERS: Mapping[str, tuple[str, str]] = {
    "ollama's manifests": ("tiny:", ".ollama/models/manifests"),
    "a name in ollama": ("tiny:", f".ollama/models/manifests/{LIBRARY}/tiny"),
    "a manifest of ollama": ("tiny:", f".ollama/models/manifests/{LIBRARY}/tiny/1b"),
    "ollama's blobs": ("tiny:", ".ollama/models/blobs"),
    "the hub cache": ("Hub", ".cache/huggingface/hub"),
    "a repository": ("Hub", ".cache/huggingface/hub/models--maker--Hub"),
    "its blobs": ("Hub", ".cache/huggingface/hub/models--maker--Hub/blobs"),
    "its snapshot": ("Hub", f".cache/huggingface/hub/models--maker--Hub/snapshots/{COMMIT}"),
    "lm studio": ("Studio", ".lmstudio/models"),
    "a publisher": ("Studio", ".lmstudio/models/maker"),
}


@pytest.mark.parametrize(("hidden", "corner"), CORNERS.values(), ids=CORNERS)
def test_what_may_not_be_read_is_passed_over(hidden: str, corner: str) -> None:
    with folder_for_all() as user:
        ollama_model(ollama_folder(user), f"{LIBRARY}/tiny/1b", CONTENT)
        hub_cache_file(hub_cache(user), "maker/Hub", "hub.gguf", CONTENT)
        lm_studio_file(lm_studio_folders(user)[0], "maker/Studio", "studio.gguf", CONTENT)
        everything = found(user)
        assert len(everything) == 3
        closed = user / corner
        closed.chmod(0)
        with ordinary_user():
            left = found(user)
        closed.chmod(0o755)
    assert left == [reference for reference in everything if hidden not in reference]


# Taking over


def in_ollama(user: Path) -> Path:
    return ollama_model(ollama_folder(user), f"{LIBRARY}/tiny/1b", CONTENT)


def in_hub_cache(user: Path) -> Path:
    return hub_cache_file(hub_cache(user), "maker/Tiny", "tiny.gguf", CONTENT).resolve()


def in_lm_studio(user: Path) -> Path:
    return lm_studio_file(lm_studio_folders(user)[1], "maker/Tiny", "tiny.gguf", CONTENT)


@pytest.mark.parametrize("place", [in_ollama, in_hub_cache, in_lm_studio])
@pytest.mark.parametrize("mode", [0o644, 0o600, 0o444])
def test_a_model_is_copied_and_the_original_left_as_it_was(
    user: Path, store: Store, place: Callable[[Path], Path], mode: int
) -> None:
    original = place(user)
    original.chmod(mode)
    before = original.stat()
    find = the_only(user)
    watcher = Recorder()
    manifest = take(store, find, watcher)

    assert [file.sha256 for file in manifest.files] == [DIGEST]
    assert (manifest.reference, manifest.origin, manifest.revision) == (
        find.reference,
        find.owner,
        find.revision,
    )
    assert local(store, find.reference) == CONTENT
    assert (watcher.advanced, watcher.ended) == (len(CONTENT), 1)

    after = original.stat()
    assert original.read_bytes() == CONTENT
    assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_nlink,
    )
    assert after.st_ino != store.blob_path(DIGEST).stat().st_ino
    original.unlink()
    assert local(store, find.reference) == CONTENT


def test_a_split_model_is_taken_over_in_order(user: Path, store: Store, tmp_path: Path) -> None:
    parts = write_parts(tmp_path / "parts", "tiny", 3)
    for part in reversed(parts):
        hub_cache_file(hub_cache(user), "maker/Split", part.name, part.read_bytes())
    manifest = take(store, the_only(user), Silent())
    assert [file.name for file in manifest.files] == [part.name for part in parts]
    assert [store.blob_path(file.sha256).read_bytes() for file in manifest.files] == [
        part.read_bytes() for part in parts
    ]
    assert local(store, manifest.reference) == parts[0].read_bytes()


def test_taking_twice_copies_once(user: Path, store: Store) -> None:
    in_ollama(user)
    first = take(store, the_only(user), Silent())
    watcher = Recorder()
    assert take(store, the_only(user), watcher) == first
    assert watcher.begun == []


def test_two_programs_with_one_file_share_a_blob(user: Path, store: Store) -> None:
    in_ollama(user)
    in_hub_cache(user)
    in_lm_studio(user)
    for find in find_all({}, user):
        take(store, find, Silent())
    assert len(Registry(store).all()) == 3
    assert [blob.sha256 for blob in store.blobs()] == [DIGEST]


def test_a_model_pulled_earlier_keeps_what_its_card_said(user: Path, store: Store) -> None:
    in_ollama(user)
    find = the_only(user)
    pulled = replace(take(store, find, Silent()), origin="the hub", licence="mit")
    Registry(store).put(pulled)
    assert take(store, find, Silent()) == pulled
    assert Registry(store).get("tiny:1b").licence == "mit"


@pytest.mark.parametrize("transfer", Transfer)
@pytest.mark.parametrize("program", ["ollama", "hub"])
def test_a_file_that_is_not_what_its_name_claims_is_refused(
    user: Path, store: Store, program: str, transfer: Transfer
) -> None:
    claimed = hashlib.sha256(OTHER).hexdigest()
    if program == "ollama":
        ollama_model(ollama_folder(user), f"{LIBRARY}/tiny/1b", CONTENT, claimed=claimed)
    else:
        hub_cache_file(hub_cache(user), "maker/Tiny", "tiny.gguf", CONTENT, claimed=claimed)
    find = the_only(user)
    with pytest.raises(DigestMismatch) as caught:
        take(store, find, Silent(), transfer)
    assert (caught.value.expected, caught.value.actual) == (claimed, DIGEST)
    assert "pull the model instead" in str(caught.value.hint)
    assert find.paths[0].read_bytes() == CONTENT
    assert_untouched(store)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"\x80\x04\x95pickle", RefusedFile),
        (b"", UnsupportedFile),
        (CONTENT[:-1], InvalidModelFile),
        (CONTENT + b"\0" * 64, InvalidModelFile),
    ],
)
def test_what_is_no_sound_model_is_refused_before_it_is_copied(
    user: Path, store: Store, content: bytes, error: type[RefusedFile]
) -> None:
    lm_studio_file(lm_studio_folders(user)[0], "maker/Tiny", "tiny.gguf", content)
    watcher = Recorder()
    with pytest.raises(error):
        take(store, the_only(user), watcher)
    assert watcher.begun == []
    assert_untouched(store)


def test_a_model_deleted_since_it_was_found_is_refused(user: Path, store: Store) -> None:
    path = in_lm_studio(user)
    find = the_only(user)
    path.unlink()
    with pytest.raises(UnsupportedFile, match="does not exist"):
        take(store, find, Silent())
    assert_untouched(store)


def test_another_model_of_the_same_name_is_not_replaced(user: Path, store: Store) -> None:
    in_ollama(user)
    mine = Manifest(
        reference="tiny:1b",
        files=(ModelFile("mine.gguf", 1, "a" * 64),),
        origin="a test",
        fetched_at="2026-01-01T00:00:00+00:00",
        tool_version="0.1.0",
    )
    Registry(store).put(mine)
    with pytest.raises(Unavailable, match="Another model is called tiny:1b already") as caught:
        take(store, the_only(user), Silent())
    assert "--name" in str(caught.value.hint)
    assert Registry(store).find("tiny:1b") == mine
    housekeeping.prune(store)
    assert store.blobs() == ()


def test_under_another_name_it_can_be_taken(user: Path, store: Store) -> None:
    in_ollama(user)
    take(store, replace(the_only(user), reference="mine:1b"), Silent())
    assert local(store, "mine:1b") == CONTENT


def test_a_name_nobody_could_type_is_refused_before_the_copy(user: Path, store: Store) -> None:
    lm_studio_file(lm_studio_folders(user)[0], "maker/Tiny", "tiny (1).gguf", CONTENT)
    watcher = Recorder()
    with pytest.raises(InvalidReference) as caught:
        take(store, the_only(user), watcher)
    assert "--name" in str(caught.value.hint)
    assert watcher.begun == []
    assert_untouched(store)
    take(store, replace(the_only(user), reference="tiny:copy"), Silent())
    assert local(store, "tiny:copy") == CONTENT


# Hard links


def test_a_hard_link_takes_no_space_and_keeps_the_mode(user: Path, store: Store) -> None:
    original = in_ollama(user)
    original.chmod(0o640)
    take(store, the_only(user), Silent(), Transfer.HARD_LINK)
    assert store.blob_path(DIGEST).samefile(original)
    assert original.stat().st_mode & 0o777 == 0o640
    assert local(store, "tiny:1b") == CONTENT


def test_a_change_through_a_hard_link_is_found_out(user: Path, store: Store) -> None:
    original = in_ollama(user)
    take(store, the_only(user), Silent(), Transfer.HARD_LINK)
    original.write_bytes(OTHER)
    with pytest.raises(DigestMismatch):
        local(store, "tiny:1b")


def test_a_hard_link_outlives_the_original(user: Path, store: Store) -> None:
    original = in_ollama(user)
    take(store, the_only(user), Silent(), Transfer.HARD_LINK)
    original.unlink()
    assert local(store, "tiny:1b") == CONTENT


def test_a_link_through_the_hub_cache_is_to_the_file_not_to_its_link(
    user: Path, store: Store
) -> None:
    blob = in_hub_cache(user)
    take(store, the_only(user), Silent(), Transfer.HARD_LINK)
    assert not store.blob_path(DIGEST).is_symlink()
    assert store.blob_path(DIGEST).samefile(blob)


def test_removing_a_linked_model_leaves_the_original(user: Path, store: Store) -> None:
    original = in_ollama(user)
    manifest = take(store, the_only(user), Silent(), Transfer.HARD_LINK)
    housekeeping.remove(store, manifest)
    assert store.blobs() == ()
    assert original.read_bytes() == CONTENT


def test_where_no_link_is_possible_copying_is_proposed(
    user: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_ollama(user)

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(Unavailable, match="cannot be linked") as caught:
        take(store, the_only(user), Silent(), Transfer.HARD_LINK)
    assert "Leave out --link" in str(caught.value.hint)
    assert_untouched(store)


# Disks


def refuse_to_clone(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "ioctl", refuse)


_Usage = namedtuple("_Usage", "total used free")


def test_too_little_room_is_said_with_numbers(
    user: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(lm_studio_folders(user)[0] / "maker/Tiny/tiny.gguf", elements=2_500_000)
    refuse_to_clone(monkeypatch, errno.EOPNOTSUPP)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(10**10, 10**10, 0))
    with pytest.raises(DiskFull, match=r"tiny\.gguf has 0\.01 GB .* 0\.00 GB free") as caught:
        take(store, the_only(user), Silent())
    assert "--link" in str(caught.value.hint)
    assert Registry(store).all() == ()
    assert path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux clones files this way")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_while_cloning_is_full(
    user: Path, store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    in_ollama(user)
    refuse_to_clone(monkeypatch, number)
    with pytest.raises(DiskFull):
        take(store, the_only(user), Silent())
    assert Registry(store).all() == ()
    assert store.blobs() == ()


def test_what_a_broken_import_left_is_replaced(user: Path, store: Store) -> None:
    original = in_lm_studio(user)
    state = original.stat()
    key = f"import-{state.st_dev:x}-{state.st_ino:x}"
    (store.home / "partial" / key).write_bytes(b"half of something")
    take(store, the_only(user), Silent())
    assert [path.suffix for path in store.partials()] == [".lock"]
    assert [blob.sha256 for blob in store.blobs()] == [DIGEST]
