"""The library: names people type, models that arrive, and files that are or are not sound."""

from __future__ import annotations

import datetime
import hashlib
import os
import pickle
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freehold.domain.errors import (
    DigestMismatch,
    FreeholdError,
    InvalidModelFile,
    InvalidReference,
    ModelNotFetchable,
    ModelNotPulled,
    OfflineRefused,
    SourceUnavailable,
    UnknownModel,
    UnsupportedFile,
)
from freehold.domain.settings import Settings
from freehold.weights import catalog as catalogue
from freehold.weights.library import Library
from freehold.weights.progress import Silent
from freehold.weights.reference import NameReference
from freehold.weights.registry import Manifest, ModelFile
from freehold.weights.store import Store
from tests.support.fake_hub import FakeFile, FakeRepository, text
from tests.support.metered_hub import MeteredHub
from tests.support.models import model_bytes, part_name, write_model, write_parts
from tests.support.ordinary_user import folder_for_all, ordinary_user
from tests.support.watching import Recorder

SMALL = FakeFile(model_bytes("small"))
LARGE = FakeFile(model_bytes("large", elements=1024))
REPOSITORY = FakeRepository(
    "maker/Tiny-GGUF",
    {"tiny-small.gguf": SMALL, "tiny-large.gguf": LARGE, "README.md": text("# Tiny\n")},
    card={"license": "apache-2.0", "base_model": ["maker/Tiny", "maker/Tiny-Base"]},
)
BARE = FakeRepository("maker/Bare-GGUF", {"bare.gguf": SMALL})

CATALOG = f"""
[[model]]
name = "tiny"
tag = "1b"
default = true
title = "Tiny Small"
source = ["https://example.org/tiny"]
checked = 2026-01-02
upstream = "maker/Tiny"
licence = "mit"
[[model.file]]
quantisation = "F32"
repository = "maker/Tiny-GGUF"
revision = "{REPOSITORY.commit}"
paths = ["tiny-small.gguf"]
size = {len(SMALL.content)}
sha256 = "{SMALL.sha256}"

[[model]]
name = "tiny"
tag = "2b"
title = "Tiny Large"
source = ["https://example.org/tiny"]
checked = 2026-01-02
[[model.file]]
quantisation = "F32"
repository = "maker/Tiny-GGUF"
paths = ["tiny-large.gguf"]

[[model]]
name = "pinned"
tag = "1b"
title = "Bytes that the hub has no more"
source = ["https://example.org/pinned"]
checked = 2026-01-02
[[model.file]]
quantisation = "F32"
repository = "maker/Tiny-GGUF"
paths = ["tiny-large.gguf"]
size = {len(SMALL.content)}
sha256 = "{SMALL.sha256}"

[[model]]
name = "bare"
tag = "7b"
title = "A repository without a card"
source = ["https://example.org/bare"]
checked = 2026-01-02
upstream = "maker/Bare"
licence = "other"
licence_name = "bare-licence"
base_model = ["maker/Bare-Base"]
[[model.file]]
quantisation = "F32"
repository = "maker/Bare-GGUF"
paths = ["bare.gguf"]

[[model]]
name = "legend"
tag = "999b"
title = "Known only by hearsay"
upstream = "maker/Legend"
source = ["https://example.org/legend"]
checked = 2026-01-02
"""


@pytest.fixture
def hub() -> Iterator[MeteredHub]:
    with MeteredHub([REPOSITORY, BARE]) as hub:
        yield hub


@pytest.fixture
def library(tmp_path: Path, hub: MeteredHub) -> Library:
    home = tmp_path / "home"
    settings = Settings(home=home, hub_endpoint=hub.endpoint)
    return Library(settings, Store.open(home), catalogue.parse(CATALOG))


def put(library: Library, reference: str) -> None:
    """Register a model under ``reference`` with a blob of its own."""
    content = model_bytes(reference)
    digest = hashlib.sha256(content).hexdigest()
    with library.store.partial(digest, waiting=lambda: None) as partial:
        partial.write_bytes(content)
        library.store.adopt(partial, digest)
    library.registry.put(
        Manifest(
            reference=reference,
            files=(ModelFile("model.gguf", len(content), digest),),
            origin="a test",
            fetched_at="2026-01-01T00:00:00+00:00",
            tool_version="0.1.0",
        )
    )


# Names


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("tiny", "tiny:1b"),
        ("tiny:1b", "tiny:1b"),
        ("tiny:2b", "tiny:2b"),
        ("TINY:2B", "tiny:2b"),
        ("bare", "bare:7b"),
    ],
)
def test_a_name_gets_its_default_tag(library: Library, typed: str, meant: str) -> None:
    assert str(library.reference(typed)) == meant


def test_a_misspelt_name_brings_similar_ones(library: Library) -> None:
    with pytest.raises(UnknownModel, match="no model called 'tinny:1b'") as caught:
        library.reference("tinny:1b")
    assert caught.value.near[0] == "tiny:1b"
    assert "Did you mean tiny:1b" in str(caught.value.hint)


def test_a_misspelt_family_brings_the_family(library: Library) -> None:
    with pytest.raises(UnknownModel) as caught:
        library.reference("legent")
    assert [name.partition(":")[0] for name in caught.value.near] == ["legend"]


def test_a_name_like_no_other_points_to_the_list(library: Library) -> None:
    with pytest.raises(UnknownModel) as caught:
        library.reference("zzzzzzzzzz")
    assert caught.value.near == ()
    assert "freehold list --available" in str(caught.value.hint)


def test_an_unknown_tag_lists_the_known_ones(library: Library) -> None:
    put(library, "tiny:imported")
    with pytest.raises(UnknownModel) as caught:
        library.reference("tiny:70b")
    assert caught.value.hint == "Known are: tiny:1b, tiny:2b, tiny:imported."


def test_a_model_of_ones_own_is_found_by_its_bare_name(library: Library) -> None:
    put(library, "mine:imported")
    assert library.reference("mine") == NameReference("mine", "imported")
    assert library.local("mine").name == "mine:imported"


def test_a_bare_name_of_several_own_models_asks_which(library: Library) -> None:
    put(library, "mine:a")
    put(library, "mine:b")
    with pytest.raises(UnknownModel) as caught:
        library.reference("mine")
    assert caught.value.hint == "Known are: mine:a, mine:b."


def test_a_model_here_wins_over_a_catalogue_that_dropped_it(library: Library) -> None:
    put(library, "tiny:0.5b")
    assert str(library.reference("tiny:0.5b")) == "tiny:0.5b"
    assert library.is_local(library.reference("tiny:0.5b"))


def test_a_stored_name_nobody_can_type_spoils_no_other(library: Library) -> None:
    put(library, "hf:owner/repo:model (1).gguf")
    put(library, "mine:imported")
    assert library.local("mine").name == "mine:imported"
    with pytest.raises(UnknownModel):
        library.reference("nothing-like-it")


# Pulling


def test_a_catalogue_row_is_pulled_and_its_card_written_down(
    library: Library, hub: MeteredHub
) -> None:
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    manifest = library.pull("tiny", Silent())
    assert manifest == library.registry.get("tiny:1b")
    assert manifest.files == (ModelFile("tiny-small.gguf", len(SMALL.content), SMALL.sha256),)
    assert manifest.origin == f"{hub.endpoint}/maker/Tiny-GGUF"
    assert manifest.revision == REPOSITORY.commit
    # The card's own words, not the catalogue's "mit".
    assert manifest.licence == "apache-2.0"
    assert manifest.licence_source == manifest.origin
    assert manifest.base_models == ("maker/Tiny", "maker/Tiny-Base")
    assert datetime.datetime.fromisoformat(manifest.fetched_at) >= before

    model = library.local("tiny")
    assert (model.name, model.digest, model.size) == (
        "tiny:1b",
        SMALL.sha256,
        len(SMALL.content),
    )
    assert model.paths == (library.store.blob_path(SMALL.sha256),)
    assert model.header.context_length == 512


def test_without_a_card_the_catalogue_says_what_was_declared(library: Library) -> None:
    manifest = library.pull("bare", Silent())
    assert manifest.licence == "bare-licence"
    assert manifest.licence_source == "maker/Bare, as the catalogue of 2026-01-02 has it"
    assert manifest.base_models == ("maker/Bare-Base",)


def test_a_repository_is_pulled_by_its_address(library: Library) -> None:
    manifest = library.pull("hf:maker/Bare-GGUF:bare.gguf", Silent())
    assert manifest.reference == "hf:maker/Bare-GGUF:bare.gguf"
    assert (manifest.licence, manifest.licence_source, manifest.base_models) == (None, None, ())
    assert library.local("hf:maker/Bare-GGUF:bare.gguf").digest == SMALL.sha256


def test_a_plain_address_is_pulled_by_its_digest(library: Library, hub: MeteredHub) -> None:
    reference = f"{hub.cdn_url(SMALL)}#sha256={SMALL.sha256}"
    manifest = library.pull(reference, Silent())
    assert (manifest.reference, manifest.files[0].sha256) == (reference, SMALL.sha256)
    assert library.local(reference).digest == SMALL.sha256


def test_pulling_again_asks_nobody(library: Library, hub: MeteredHub) -> None:
    first = library.pull("tiny", Silent())
    asked = hub.requests
    assert library.pull("tiny:1b", Silent()) == first
    assert hub.requests == asked


def test_two_names_of_one_file_share_it(library: Library, hub: MeteredHub) -> None:
    library.pull("tiny", Silent())
    library.pull("bare", Silent())
    assert hub.meter.sent == len(SMALL.content)
    assert len(library.store.blobs()) == 1


def test_bytes_that_are_not_the_pinned_ones_are_refused(library: Library, hub: MeteredHub) -> None:
    with pytest.raises(SourceUnavailable, match="than was promised"):
        library.pull("pinned", Silent())
    assert hub.meter.sent == 0
    assert library.registry.find("pinned:1b") is None


def test_a_row_without_a_file_says_where_to_look(library: Library) -> None:
    with pytest.raises(ModelNotFetchable) as caught:
        library.pull("legend", Silent())
    assert "maker/Legend" in str(caught.value.hint)


def test_a_path_is_not_pulled(library: Library, tmp_path: Path) -> None:
    path = write_model(tmp_path / "own.gguf")
    with pytest.raises(InvalidReference, match="is a file here already") as caught:
        library.pull(str(path), Silent())
    assert f"freehold import {path}" in str(caught.value.hint)


@pytest.mark.parametrize(
    "typed",
    [
        "tiny",
        "legend",
        "hf:maker/Tiny-GGUF:tiny-small.gguf",
        f"https://localhost/m.gguf#sha256={SMALL.sha256}",
    ],
)
def test_offline_nothing_is_fetched_and_nobody_asked(
    library: Library, hub: MeteredHub, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    settings = Settings(home=library.store.home, hub_endpoint=hub.endpoint, offline=True)
    with pytest.raises(OfflineRefused, match="freehold is offline") as caught:
        Library(settings, library.store, library.catalog).pull(typed, Silent())
    assert "--offline" in str(caught.value.hint)
    assert hub.requests == ()


def test_offline_what_is_here_works(library: Library, hub: MeteredHub) -> None:
    library.pull("tiny", Silent())
    settings = Settings(home=library.store.home, hub_endpoint=hub.endpoint, offline=True)
    offline = Library(settings, library.store, library.catalog)
    assert offline.pull("tiny", Silent()).reference == "tiny:1b"
    assert offline.local("tiny").digest == SMALL.sha256


# What is here


@pytest.mark.parametrize("typed", ["tiny", "hf:maker/Tiny-GGUF:tiny-small.gguf"])
def test_a_known_model_that_is_not_here_names_the_command(library: Library, typed: str) -> None:
    with pytest.raises(ModelNotPulled) as caught:
        library.local(typed)
    assert caught.value.hint == f"Fetch it with: freehold pull {library.reference(typed)}"
    assert not library.is_local(library.reference(typed))


def test_a_model_whose_blob_is_gone_is_not_here(library: Library) -> None:
    library.pull("tiny", Silent())
    library.store.remove_blob(SMALL.sha256)
    with pytest.raises(ModelNotPulled):
        library.local("tiny")
    assert library.pull("tiny", Silent()).reference == "tiny:1b"
    assert library.local("tiny").digest == SMALL.sha256


def test_a_corrupted_blob_is_refused(library: Library) -> None:
    library.pull("tiny", Silent())
    path = library.store.blob_path(SMALL.sha256)
    path.chmod(0o644)
    path.write_bytes(SMALL.content[:-1] + bytes([SMALL.content[-1] ^ 1]))
    with pytest.raises(DigestMismatch):
        library.local("tiny")


def test_hashing_a_touched_blob_is_shown_and_hashing_none_is_not(library: Library) -> None:
    library.pull("tiny", Silent())
    quiet = Recorder()
    library.local("tiny", progress=quiet)
    assert (quiet.begun, quiet.ended) == ([], 0)
    os.utime(library.store.blob_path(SMALL.sha256), (1, 1))
    told = Recorder()
    library.local("tiny", progress=told)
    assert told.begun == [("verifying tiny-small.gguf", len(SMALL.content), 0)]
    assert (told.advanced, told.ended) == (len(SMALL.content), 1)


def test_a_file_of_ones_own_is_a_model(library: Library, tmp_path: Path) -> None:
    path = write_model(tmp_path / "own.gguf")
    model = library.local(str(path))
    assert (model.name, model.paths, model.aliases) == ("own", (path,), (str(path),))
    assert model.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.size == path.stat().st_size
    assert model.manifest is None
    assert library.is_local(library.reference(str(path)))
    assert library.store.blobs() == ()


def test_the_digest_of_a_file_is_remembered_until_it_changes(
    library: Library, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "own.gguf", seed="a")
    first, again, changed = Recorder(), Recorder(), Recorder()
    before = library.local(str(path), progress=first).digest
    assert first.advanced == path.stat().st_size
    assert library.local(str(path), progress=again).digest == before
    assert again.advanced == 0

    state = path.stat()
    write_model(path, seed="b")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    after = library.local(str(path), progress=changed).digest
    assert after == hashlib.sha256(path.read_bytes()).hexdigest() != before
    assert changed.advanced == path.stat().st_size


def test_a_relative_path_is_used_from_anywhere(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "own.gguf")
    monkeypatch.chdir(tmp_path)
    assert library.local("./own.gguf").paths == (path,)


def test_the_parts_of_a_split_model_are_found_beside_each_other(
    library: Library, tmp_path: Path
) -> None:
    parts = write_parts(tmp_path, "own", 3)
    model = library.local(str(parts[1]))
    assert model.paths == parts
    assert model.digest == hashlib.sha256(parts[0].read_bytes()).hexdigest()
    assert model.size == sum(part.stat().st_size for part in parts)
    assert model.header.split_count == 3


def test_a_missing_part_is_named(library: Library, tmp_path: Path) -> None:
    parts = write_parts(tmp_path, "own", 3)
    parts[2].unlink()
    with pytest.raises(UnsupportedFile, match=f"{part_name('own', 3, 3)} does not exist"):
        library.local(str(parts[0]))


def test_a_changed_part_is_hashed_again(library: Library, tmp_path: Path) -> None:
    parts = write_parts(tmp_path, "own", 2)
    library.local(str(parts[0]))
    os.utime(parts[1], (1, 1))
    watcher = Recorder()
    library.local(str(parts[0]), progress=watcher)
    assert [name for name, _, _ in watcher.begun] == [f"verifying {parts[1].name}"]


def a_directory(path: Path) -> None:
    path.mkdir()


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": [1.0] * 100}))


def a_torch_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1.0]))


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_broken_link(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def a_truncated_model(path: Path) -> None:
    write_model(path)
    os.truncate(path, path.stat().st_size - 100)


def a_truncated_header(path: Path) -> None:
    write_model(path)
    os.truncate(path, 60)


def an_empty_file(path: Path) -> None:
    path.touch()


def nothing(_: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (a_directory, UnsupportedFile, "is a directory"),
        (a_pickle, UnsupportedFile, "pickle"),
        (a_torch_archive, UnsupportedFile, "not a GGUF model"),
        (a_pipe, UnsupportedFile, "not a regular file"),
        (a_broken_link, UnsupportedFile, "does not exist"),
        (nothing, UnsupportedFile, "does not exist"),
        (a_truncated_model, InvalidModelFile, "cut short"),
        (a_truncated_header, InvalidModelFile, "not a well-formed GGUF file"),
        (an_empty_file, UnsupportedFile, "is empty"),
    ],
)
def test_what_cannot_be_run_is_refused_before_it_is_hashed(
    library: Library,
    tmp_path: Path,
    make: Callable[[Path], None],
    error: type[FreeholdError],
    said: str,
) -> None:
    path = tmp_path / "model.gguf"
    make(path)
    watcher = Recorder()
    with pytest.raises(error, match=said):
        library.local(str(path), progress=watcher)
    assert watcher.begun == []


def test_a_file_that_may_not_be_read_is_refused(library: Library) -> None:
    with folder_for_all() as folder:
        path = write_model(folder / "model.gguf")
        path.chmod(0)
        with ordinary_user(), pytest.raises(UnsupportedFile, match="read"):
            library.local(str(path))
