"""What `prune` and `rm` delete, what they must keep, and whether their numbers are true."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from freehold.domain.errors import StoreBusy
from freehold.weights.housekeeping import Litter, Removable, prune, remove, survey
from freehold.weights.registry import Manifest, ModelFile, Registry
from freehold.weights.store import Store
from tests.support.fake_hub import FakeFile, FakeRepository
from tests.support.metered_hub import MeteredHub
from tests.support.models import model_bytes
from tests.support.other_process import Child, other_process

KEY = "d" * 64
FILE = FakeFile(model_bytes("tiny", elements=10_000))
REFERENCE = "hf:someone/tiny-GGUF:tiny.gguf"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "home")


def blob(store: Store, content: bytes) -> ModelFile:
    digest = hashlib.sha256(content).hexdigest()
    with store.partial(digest, waiting=lambda: None) as partial:
        partial.write_bytes(content)
        store.adopt(partial, digest)
    return ModelFile(f"{digest[:8]}.gguf", len(content), digest)


def model(
    store: Store, reference: str, *files: ModelFile, derived_from: ModelFile | None = None
) -> Manifest:
    manifest = Manifest(
        reference=reference,
        files=files,
        origin="a test",
        fetched_at="2026-01-01T00:00:00+00:00",
        tool_version="0.1.0",
        derived_from=derived_from.sha256 if derived_from else None,
    )
    Registry(store).put(manifest)
    return manifest


def leave_partial(store: Store, key: str, size: int) -> None:
    """What a download killed half-way leaves: its bytes and an unheld lock."""
    (store.home / "partial" / key).write_bytes(b"x" * size)
    (store.home / "partial" / f"{key}.lock").touch()


def partials(store: Store) -> list[str]:
    return [path.name for path in store.partials() if path.suffix != ".lock"]


def weight_bytes(store: Store) -> int:
    """Bytes of blobs and partials on disk."""
    folders = (store.home / "blobs", store.home / "partial")
    return sum(
        path.stat().st_size
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


@pytest.fixture
def littered(store: Store) -> Store:
    """One sound model, one derived from it, and litter of every kind."""
    sound = blob(store, b"sound" * 100)
    model(store, "sound:1b", sound)
    model(store, "sound:1b-q4", blob(store, b"derived" * 30), derived_from=sound)
    blob(store, b"nobody names me")
    leave_partial(store, KEY, 777)
    wheel = store.home / "partial" / "wheel-abc123"
    wheel.mkdir()
    (wheel / "part-1.0-py3-none-any.whl").write_bytes(b"w" * 333)
    return store


EXPECTED = {
    Litter.PARTIAL: {777, 333},
    Litter.UNREFERENCED: {15},
    Litter.DERIVED: {210},
}


@pytest.mark.parametrize("kind", Litter)
def test_each_kind_is_found_and_pruned_alone(littered: Store, kind: Litter) -> None:
    before = weight_bytes(littered)
    found = survey(littered, [kind])
    assert {item.kind for item in found} == {kind}
    assert {item.size for item in found} == EXPECTED[kind]
    assert weight_bytes(littered) == before

    assert prune(littered, [kind]) == found
    assert before - weight_bytes(littered) == sum(EXPECTED[kind])
    assert survey(littered, [kind]) == ()
    others = set(Litter) - {kind}
    assert {item.kind for item in survey(littered)} == others


def test_pruning_everything_frees_what_the_survey_said(littered: Store) -> None:
    before = weight_bytes(littered)
    promised = survey(littered)
    assert prune(littered) == promised
    assert before - weight_bytes(littered) == sum(item.size for item in promised) == 1335
    assert survey(littered) == ()
    assert partials(littered) == []
    assert [one.reference for one in Registry(littered).all()] == ["sound:1b"]
    sound = Registry(littered).get("sound:1b")
    assert littered.verify(sound.files[0].sha256).read_bytes() == b"sound" * 100


def test_a_clean_store_has_nothing_to_prune(store: Store) -> None:
    model(store, "sound:1b", blob(store, b"sound"))
    assert survey(store) == ()
    assert prune(store) == ()
    assert Registry(store).get("sound:1b")


def test_looking_changes_nothing(littered: Store) -> None:
    def everything() -> list[str]:
        return sorted(str(path) for path in littered.home.rglob("*") if path.suffix != ".lock")

    before = everything()
    assert survey(littered) == survey(littered)
    assert everything() == before


def test_two_derived_models_that_share_a_file_are_counted_once(store: Store) -> None:
    sound = blob(store, b"sound")
    model(store, "sound:1b", sound)
    shared = blob(store, b"derived" * 30)
    for tag in ("q4", "q5"):
        model(store, f"sound:{tag}", shared, derived_from=sound)
    before = weight_bytes(store)
    found = prune(store)
    assert before - weight_bytes(store) == sum(item.size for item in found) == 210


def test_a_derived_model_whose_file_another_names_frees_nothing(store: Store) -> None:
    sound = blob(store, b"sound" * 100)
    model(store, "sound:1b", sound)
    model(store, "sound:same", sound, derived_from=sound)
    before = weight_bytes(store)
    found = prune(store)
    assert before - weight_bytes(store) == sum(item.size for item in found) == 0
    assert [one.reference for one in Registry(store).all()] == ["sound:1b"]


# Removing a model


def test_removing_a_model_says_what_it_freed(store: Store) -> None:
    parts = [blob(store, b"first" * 10), blob(store, b"second" * 10)]
    manifest = model(store, "split:1b", *parts)
    assert remove(store, manifest) == manifest.size == 110
    assert weight_bytes(store) == 0
    assert Registry(store).find("split:1b") is None


def test_a_file_another_model_names_is_kept(store: Store) -> None:
    shared, own = blob(store, b"shared" * 10), blob(store, b"own" * 10)
    first = model(store, "first:1b", shared, own)
    second = model(store, "second:1b", shared)
    assert remove(store, first) == own.size
    assert Registry(store).get("second:1b") == second
    assert store.verify(shared.sha256).read_bytes() == b"shared" * 10
    assert remove(store, second) == shared.size
    assert store.blobs() == ()


def test_a_model_that_names_one_file_twice_is_freed_once(store: Store) -> None:
    file = blob(store, b"twice" * 10)
    assert remove(store, model(store, "twice:1b", file, file)) == file.size


def test_a_removed_model_can_be_removed_again(store: Store) -> None:
    manifest = model(store, "gone:1b", blob(store, b"gone"))
    remove(store, manifest)
    assert remove(store, manifest) == 0


# While others are at work


@pytest.fixture
def hub() -> Iterator[MeteredHub]:
    with MeteredHub([FakeRepository("someone/tiny-GGUF", {"tiny.gguf": FILE})]) as hub:
        hub.meter.hold_after = 1000
        yield hub


@pytest.fixture
def pulling(store: Store, hub: MeteredHub) -> Iterator[Child]:
    """A pull in another process, in the middle of its file."""
    with other_process("pull", store.home, hub.endpoint, REFERENCE) as child:
        hub.meter.wait_until_held()
        yield child


def test_during_a_pull_nothing_is_pruned_and_its_file_is_not_litter(
    store: Store, hub: MeteredHub, pulling: Child
) -> None:
    loose = blob(store, b"nobody names me")
    assert survey(store) == (Removable(Litter.UNREFERENCED, loose.sha256, loose.size),)
    with pytest.raises(StoreBusy, match="A pull is running; nothing was deleted") as caught:
        prune(store)
    assert "when it has ended" in str(caught.value.hint)
    assert store.has(loose.sha256)

    hub.meter.release()
    pulling.wait_for("done")
    assert prune(store) == (Removable(Litter.UNREFERENCED, loose.sha256, loose.size),)
    assert Registry(store).get(REFERENCE).files[0].sha256 == FILE.sha256


def test_during_a_pull_only_the_name_of_a_model_goes(
    store: Store, hub: MeteredHub, pulling: Child
) -> None:
    manifest = model(store, "old:1b", blob(store, b"old" * 10))
    assert remove(store, manifest) == 0
    assert Registry(store).find("old:1b") is None
    assert store.has(manifest.files[0].sha256)

    hub.meter.release()
    pulling.wait_for("done")
    assert [item.size for item in prune(store)] == [30]


def test_a_killed_pull_blocks_nobody(store: Store, pulling: Child) -> None:
    pulling.kill()
    found = prune(store)
    assert [(item.kind, item.name) for item in found] == [(Litter.PARTIAL, FILE.sha256)]
    assert partials(store) == []


def test_a_partial_in_use_is_not_pruned(store: Store) -> None:
    leave_partial(store, KEY, 500)
    leave_partial(store, "e" * 64, 40)
    with other_process("hold-partial", store.home, KEY) as child:
        child.wait_for("holding")
        assert [item.size for item in prune(store)] == [40]
        assert (store.home / "partial" / KEY).stat().st_size == 500
        child.tell()
        child.wait_for("done")
    assert [item.size for item in prune(store)] == [500]


@pytest.mark.parametrize(("kind", "left"), [(Litter.PARTIAL, {333}), (Litter.UNREFERENCED, ())])
def test_a_file_that_goes_while_it_is_looked_at_is_no_error(
    littered: Store, monkeypatch: pytest.MonkeyPatch, kind: Litter, left: Iterable[int]
) -> None:
    # A pull elsewhere ends, or another rm runs, between the listing and the look.
    doomed = littered.home / ("partial" if kind is Litter.PARTIAL else "blobs")
    listed = Path.iterdir

    def list_then_lose(folder: Path) -> Iterator[Path]:
        paths = list(listed(folder))
        if folder == doomed:
            for path in paths:
                if path.is_file():
                    path.unlink()
        return iter(paths)

    monkeypatch.setattr(Path, "iterdir", list_then_lose)
    assert sum(item.size for item in survey(littered, [kind])) == sum(left)
