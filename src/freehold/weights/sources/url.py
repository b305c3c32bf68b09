"""A file at a plain https address, whose SHA-256 the user states.

Also what any remote file may be called: names come from strangers and end up
in messages, locks and URLs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager

from freehold.domain.errors import InvalidReference, SourceUnavailable, UnsupportedFile
from freehold.weights.sources.base import Offer, RemoteFile
from freehold.weights.sources.http import declared_size, parse_address, stream_range

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9_(\[][A-Za-z0-9_.+=,@()\[\]-]{0,199}", re.ASCII)
_MAX_DEPTH = 8

# Formats that can carry code, that we do not run, or that are no weights at all.
_REFUSED_SUFFIXES = (
    *(".bin", ".pt", ".pth", ".pt2", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"),
    *(".safetensors", ".onnx", ".h5", ".keras", ".msgpack", ".nemo", ".mlmodel", ".tflite"),
    *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".whl"),
    *(".py", ".sh", ".js", ".so", ".exe", ".json", ".yaml", ".yml", ".md", ".txt"),
)
_DEFAULT_NAME = "model.gguf"


def is_sha256(text: object) -> bool:
    """Whether ``text`` is 64 lower-case hexadecimal digits and nothing else."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def is_path(text: object) -> bool:
    """Whether ``text`` is a relative path of plain names: no ``..``, no root, no odd characters."""
    if not isinstance(text, str):
        return False
    segments = text.split("/")
    return len(segments) <= _MAX_DEPTH and all(_SEGMENT.fullmatch(part) for part in segments)


def require_path(text: str) -> str:
    """Return ``text`` when it is a path as `is_path` says; raises `InvalidReference`."""
    if not is_path(text):
        raise InvalidReference(
            f"{text!r} is not an acceptable file name.",
            hint="Names are relative, use letters, digits and _.+=,@()[]- and never '..'.",
        )
    return text


def refuse_other_formats(name: str) -> None:
    """Raise `UnsupportedFile` when ``name`` says that the file is a pickle or not GGUF."""
    if name.lower().endswith(_REFUSED_SUFFIXES):
        raise UnsupportedFile(
            f"{name} is not a GGUF file; freehold runs GGUF files only.",
            hint="Repositories whose name ends in -GGUF usually hold a converted copy.",
        )


class UrlSource:
    """One file at ``url``, an https address (http only on this machine).

    ``sha256`` is required, lower-case hex: nobody else vouches for a bare URL.
    ``name`` defaults to the last part of the address. Raises `InvalidReference`
    or `UnsupportedFile`.
    """

    def __init__(self, url: str, sha256: str, name: str | None = None) -> None:
        if not is_sha256(sha256):
            raise InvalidReference("A SHA-256 is 64 lower-case hexadecimal digits.")
        address = parse_address(url)
        if name is None:
            last = address.path.rpartition("/")[2]
            name = last if is_path(last) else _DEFAULT_NAME
        refuse_other_formats(name)
        # The query and fragment may be a signature: they are asked with, never shown.
        self._shown = str(address.copy_with(query=None, fragment=None))
        self._url = str(address.copy_with(fragment=None))
        self._file = RemoteFile(require_path(name), sha256=sha256)

    @property
    def description(self) -> str:
        return self._shown

    def resolve(self) -> Offer:
        """Ask for the size. Raises `SourceUnavailable`."""
        size = declared_size(self._url)
        file = RemoteFile(self._file.name, size=size, sha256=self._file.sha256)
        return Offer(origin=self._shown, files=(file,))

    def stream(self, file: RemoteFile, offset: int) -> AbstractContextManager[Iterator[bytes]]:
        """Deliver the file from byte ``offset``. Raises `SourceUnavailable`."""
        if file.sha256 not in (None, self._file.sha256):
            raise SourceUnavailable(f"{self._shown} is not the source of {file.name}.")
        return stream_range(self._url, offset=offset)


def parse_url_reference(text: str) -> UrlSource:
    """Read ``https://host/file.gguf#sha256=<64 hex>``.

    Raises `InvalidReference` when the SHA-256 is missing or the address is no good.
    """
    url, _, fragment = text.partition("#")
    key, _, digest = fragment.partition("=")
    if key != "sha256" or not is_sha256(digest.lower()):
        raise InvalidReference(
            "A file from a URL needs its SHA-256, so that it can be checked.",
            hint="Write it after the address: https://host/file.gguf#sha256=<64 hex digits>",
        )
    return UrlSource(url, digest.lower())
