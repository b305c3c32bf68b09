"""A file at a plain https address, whose SHA-256 the user states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from freehold.domain.errors import InvalidReference, SourceUnavailable
from freehold.weights.files import is_sha256
from freehold.weights.naming import name_at, refuse_other_formats, require_path
from freehold.weights.sources.base import Offer, RemoteFile
from freehold.weights.sources.http import declared_size, parse_address, stream_range


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
            name = name_at(address.path)
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
