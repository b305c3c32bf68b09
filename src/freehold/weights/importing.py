"""Models that other programs have already fetched, and how to take them over.

Looked at: Ollama's store, the Hugging Face cache, LM Studio's folders. What is
found is only read. Taking over copies the file (sharing its blocks where the
file system can: copy-on-write), hashes it, and compares the digest with the name its owner
gave it where that name is one. A hard link shares the file itself, so whoever
changes the original changes ours; it is made only on request.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from freehold.domain.errors import (
    DigestMismatch,
    DiskFull,
    InvalidReference,
    RefusedFile,
    Unavailable,
    UnsupportedFile,
)
from freehold.weights.files import CHUNK, disk_full_is_ours, hash_file, is_sha256, require_file
from freehold.weights.gguf import read_split
from freehold.weights.library import now
from freehold.weights.naming import may_run_code, refuse_other_formats
from freehold.weights.progress import Progress
from freehold.weights.reference import parse
from freehold.weights.registry import Manifest, ModelFile, Registry
from freehold.weights.safetensors import read_header as read_safetensors
from freehold.weights.store import Store

_FICLONE = 0x40049409  # linux/fs.h: share all blocks of another file
_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Files that go with a model and are none: image projectors, quantisation statistics.
_COMPANION = re.compile(r"(?:.*[-_.])?(?:mmproj|imatrix)[-_.].*", re.IGNORECASE)
_SPLIT = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")


class Transfer(enum.Enum):
    """How a file gets into the store."""

    COPY = "copy"
    HARD_LINK = "hard link"


@dataclass(frozen=True)
class Find:
    """A model of another program. ``sha256`` is what its owner's file name claims, if it does."""

    reference: str
    owner: str
    paths: tuple[Path, ...]
    size: int
    revision: str | None = None
    sha256: str | None = None


def find_all(environ: Mapping[str, str], home: Path) -> tuple[Find, ...]:
    """Everything the three programs hold; unreadable corners are passed over."""
    return (
        *find_ollama(
            _first_folder(
                environ.get("OLLAMA_MODELS"),
                home / ".ollama" / "models",
                Path("/usr/share/ollama/.ollama/models"),
            )
        ),
        *find_hub_cache(_hub_cache(environ, home)),
        *find_lm_studio(home / ".lmstudio" / "models"),
        *find_lm_studio(home / ".cache" / "lm-studio" / "models"),
    )


def _first_folder(*candidates: str | Path | None) -> Path | None:
    for candidate in candidates:
        with contextlib.suppress(OSError):
            if candidate is not None and Path(candidate).is_dir():
                return Path(candidate)
    return None


def _hub_cache(environ: Mapping[str, str], home: Path) -> Path | None:
    hf_home = environ.get("HF_HOME")
    return _first_folder(
        environ.get("HF_HUB_CACHE"),
        Path(hf_home) / "hub" if hf_home else None,
        home / ".cache" / "huggingface" / "hub",
    )


def find_ollama(models: Path | None) -> Iterator[Find]:
    """``manifests/<host>/<owner>/<name>/<tag>`` names blobs ``blobs/sha256-<hex>``."""
    if models is None:
        return
    root = models / "manifests"
    for path in sorted(root.glob("*/*/*/*")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            layers = json.loads(path.read_bytes())["layers"]
            digests = [
                str(layer["digest"]).removeprefix("sha256:")
                for layer in layers
                if layer["mediaType"] == _OLLAMA_MODEL
            ]
            if len(digests) != 1 or not is_sha256(digests[0]):
                continue
            blob = models / "blobs" / f"sha256-{digests[0]}"
            owner, name = path.parts[-3:-1]
            short = name if owner == "library" else f"{owner}.{name}"
            yield Find(
                f"{short}:{path.name}".lower(),
                "Ollama",
                (blob,),
                blob.stat().st_size,
                sha256=digests[0],
            )


def find_hub_cache(cache: Path | None) -> Iterator[Find]:
    """``models--owner--name/snapshots/<commit>/file.gguf``, links to ``blobs/<sha256>``."""
    if cache is None:
        return
    for snapshot in sorted(cache.glob("models--*--*/snapshots/*")):
        _, owner, name = snapshot.parent.parent.name.split("--", 2)
        revision = snapshot.name if _COMMIT.fullmatch(snapshot.name) else None
        for paths in _models_in(snapshot):
            blob = paths[0].resolve().name
            at = f"@{revision}" if revision else ""
            yield Find(
                f"hf:{owner}/{name}{at}:{paths[0].relative_to(snapshot).as_posix()}",
                "Hugging Face cache",
                paths,
                sum(path.stat().st_size for path in paths),
                revision=revision,
                sha256=blob if len(paths) == 1 and is_sha256(blob) else None,
            )


def find_lm_studio(models: Path) -> Iterator[Find]:
    """``publisher/repository/file.gguf``, named as on the hub but of unknown revision."""
    with contextlib.suppress(OSError):
        for repository in sorted(models.glob("*/*")):
            for paths in _models_in(repository):
                owner, name = repository.parts[-2:]
                yield Find(
                    f"hf:{owner}/{name}:{paths[0].relative_to(repository).as_posix()}",
                    "LM Studio",
                    paths,
                    sum(path.stat().st_size for path in paths),
                )


def _models_in(folder: Path) -> Iterator[tuple[Path, ...]]:
    """Whole models among the GGUF files below ``folder``; a split one counts once."""
    for path in sorted(folder.rglob("*.gguf")):
        if not _is_file(path) or _COMPANION.fullmatch(path.name):
            continue
        match = _SPLIT.fullmatch(path.name)
        if match is None:
            yield (path,)
        elif path.name == f"{match['stem']}-00001-of-{match['count']}.gguf":
            parts = sorted(path.parent.glob(f"{match['stem']}-*-of-{match['count']}.gguf"))
            if len(parts) == int(match["count"]) and all(map(_is_file, parts)):
                yield tuple(parts)


def _is_file(path: Path) -> bool:
    """False also where a link leads to what this user may not see."""
    try:
        return path.is_file()
    except OSError:
        return False


def take(
    store: Store, find: Find, progress: Progress, transfer: Transfer = Transfer.COPY
) -> Manifest:
    """Bring a found model into the store under its reference.

    Raises `RefusedFile` if it is no sound model or not the bytes its name claims,
    `InvalidReference` if nobody could type its name, `Unavailable` if another model
    bears the name already, `DiskFull`.
    """
    _require_name(find.reference)
    for path in find.paths:
        require_file(path)
        _refuse_other_formats(path)
    read_split(find.paths)  # before a byte is copied
    registry = Registry(store)
    with store.pulling():
        files = tuple(_take_file(store, find, path, progress, transfer) for path in find.paths)
        existing = registry.find(find.reference)
        if existing is not None and existing.files[0].sha256 != files[0].sha256:
            raise Unavailable(
                f"Another model is called {find.reference} already.",
                hint="Choose another name with --name, or remove the other one first.",
            )
        manifest = existing or Manifest(
            reference=find.reference,
            files=files,
            origin=find.owner,
            fetched_at=now(),
            tool_version=version("freehold"),
            revision=find.revision,
        )
        registry.put(manifest)
    return manifest


def _refuse_other_formats(path: Path) -> None:
    """Say of a file with another ending what it is. Raises `RefusedFile`."""
    if path.suffix.lower() == ".safetensors":
        tensors = read_safetensors(path).tensors
        raise UnsupportedFile(
            f"{path.name} is a sound safetensors file of {len(tensors)} tensors; freehold runs "
            "GGUF files only.",
            hint="Look for a GGUF conversion of this model.",
        )
    if may_run_code(path.name):
        refuse_other_formats(path.name)


def _require_name(text: str) -> None:
    try:
        parse(text)
    except (InvalidReference, RefusedFile) as error:
        raise InvalidReference(
            f"{text!r} cannot be the name of a model here.",
            hint="Choose another with --name, such as my-model:7b.",
        ) from error


def _take_file(
    store: Store, find: Find, path: Path, progress: Progress, transfer: Transfer
) -> ModelFile:
    source = path.resolve()
    size = source.stat().st_size
    claimed = find.sha256 if len(find.paths) == 1 else None
    if claimed is not None and store.has(claimed):
        return ModelFile(path.name, size, claimed)
    # Not the digest: a download of the same file, half done, is not ours to overwrite.
    key = f"import-{source.stat().st_dev:x}-{source.stat().st_ino:x}"
    with store.partial(
        key, waiting=lambda: progress.note("Waiting for another import.")
    ) as partial:
        partial.unlink(missing_ok=True)
        progress.begin(path.name, size, 0)
        try:
            _transfer(source, partial, transfer)
            digest = hash_file(partial, advance=progress.advance)
        except BaseException:
            partial.unlink(missing_ok=True)  # a copy is not resumed: it begins anew in no time
            raise
        finally:
            progress.end()
        if claimed is not None and digest != claimed:
            partial.unlink()
            raise DigestMismatch(
                f"{path.name} in {find.owner}",
                expected=claimed,
                actual=digest,
                hint="The other program's file is damaged; pull the model instead.",
            )
        if store.has(digest):
            partial.unlink()
        else:
            store.adopt(partial, digest)
    return ModelFile(path.name, size, digest)


def _transfer(source: Path, target: Path, transfer: Transfer) -> None:
    if transfer is Transfer.HARD_LINK:
        try:
            target.hardlink_to(source)
        except OSError as error:
            raise Unavailable(
                f"{source} cannot be linked into the store: {error.strerror}.",
                hint="Leave out --link to copy it.",
            ) from error
        return
    with disk_full_is_ours(target.parent):
        if _clone(source, target):
            return
    free = shutil.disk_usage(target.parent).free
    if source.stat().st_size > free:
        raise DiskFull(
            f"{source.name} has {source.stat().st_size / 1e9:.2f} GB and the store's disk has "
            f"{free / 1e9:.2f} GB free.",
            hint="Free some space, or share the file with --link (then do not change it).",
            values={"needed_bytes": source.stat().st_size, "free_bytes": free},
        )
    with disk_full_is_ours(target.parent), source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(CHUNK):
            write.write(chunk)


def _clone(source: Path, target: Path) -> bool:
    """Share the blocks copy-on-write; False where the file system cannot."""
    if sys.platform != "linux":
        return False
    with source.open("rb") as read, target.open("wb") as write:
        try:
            fcntl.ioctl(write, _FICLONE, read.fileno())
        except OSError as error:
            if error.errno in (
                errno.EOPNOTSUPP,
                errno.EXDEV,
                errno.EINVAL,
                errno.ENOTTY,
                errno.EPERM,
                errno.EACCES,
            ):
                return False
            raise
        os.fsync(write.fileno())
    return True
