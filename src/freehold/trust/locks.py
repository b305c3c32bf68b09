"""What the store keeps beside the weights: locks, their signatures, and licence texts.

    HOME/
      locks/<reference>.lock.json        the canonical bytes of a lock, see `lock`
      locks/<reference>.signature.json   its signature, if somebody signed it, see `signing`
      texts/<sha256>                     licence texts, byte for byte as they were found

References are percent-encoded, a long one cut, with its SHA-256. Every file is replaced
atomically.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from freehold.domain.errors import DigestMismatch, InvalidLock, RefusedFile
from freehold.trust import lock as locking
from freehold.trust.lock import Lock
from freehold.weights.files import file_name, is_sha256, write_atomically

if TYPE_CHECKING:
    from freehold.trust.signing import Signature

log = logging.getLogger(__name__)

MAX_TEXT_BYTES = 1 << 20
_LOCK = ".lock.json"
_SIGNATURE = ".signature.json"


class Locks:
    """The locks of one store, one per model."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "locks"

    def get(self, reference: str) -> Lock | None:
        """None when the model has none. Raises `InvalidLock` when its lock is damaged."""
        path = self._path(reference, _LOCK)
        if not path.exists():
            return None
        lock = locking.read(path)
        if lock.reference != reference:
            raise InvalidLock(
                f"{path} is the lock of {lock.reference}, not of {reference}.",
                hint=f"Make it anew with: freehold lock {reference}",
            )
        return lock

    def put(self, lock: Lock) -> None:
        write_atomically(self._path(lock.reference, _LOCK), locking.encode(lock))

    def all(self) -> tuple[Lock, ...]:
        """Those that can be read; damaged ones are named in the log."""
        found = []
        for path in sorted(self._folder.glob(f"*{_LOCK}")):
            try:
                found.append(locking.read(path))
            except RefusedFile as error:
                log.warning("%s", error)
        return tuple(found)

    def remove(self, reference: str) -> None:
        """Forget the lock and its signature."""
        for suffix in (_LOCK, _SIGNATURE):
            self._path(reference, suffix).unlink(missing_ok=True)

    def signature(self, reference: str) -> Signature | None:
        """None when nobody signed it. Raises `UntrustedSignature` when it is damaged."""
        path = self._path(reference, _SIGNATURE)
        if not path.exists():
            return None
        # Imported only now: it brings the cryptography, and a listing needs none.
        from freehold.trust.signing import (  # noqa: PLC0415
            MAX_SIGNATURE_BYTES,
            decode_signature,
        )

        return decode_signature(locking.read_bounded(path, MAX_SIGNATURE_BYTES), what=str(path))

    def put_signature(self, reference: str, data: bytes) -> None:
        """Keep the encoded signature of that model's lock."""
        from freehold.trust.signing import decode_signature  # noqa: PLC0415

        decode_signature(data)
        write_atomically(self._path(reference, _SIGNATURE), data)

    def _path(self, reference: str, suffix: str) -> Path:
        return self._folder / f"{file_name(reference)}{suffix}"


class Texts:
    """Licence texts and templates by their SHA-256."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "texts"

    def put(self, text: bytes) -> str:
        """Keep a text and return its digest. Raises `ValueError` for one that is no licence."""
        if len(text) > MAX_TEXT_BYTES:
            raise ValueError(f"a licence text of {len(text):,} bytes")
        sha256 = hashlib.sha256(text).hexdigest()
        if not self._path(sha256).exists():
            write_atomically(self._path(sha256), text)
        return sha256

    def get(self, sha256: str) -> bytes | None:
        """The text, or None when it is not here. Raises `DigestMismatch` when it was changed."""
        path = self._path(sha256)
        if not path.exists():
            return None
        text = locking.read_bounded(path, MAX_TEXT_BYTES)
        actual = hashlib.sha256(text).hexdigest()
        if actual != sha256:
            raise DigestMismatch(
                f"The licence text {path}",
                expected=sha256,
                actual=actual,
                hint="It was changed after it was fetched. Delete it and pull the model again.",
            )
        return text

    def keep_only(self, named: Collection[str]) -> None:
        """Delete the texts that are not ``named``."""
        for path in self._folder.glob("*"):
            if is_sha256(path.name) and path.name not in named:
                path.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        if not is_sha256(sha256):
            raise ValueError(f"not a SHA-256: {sha256!r}")
        return self._folder / sha256


def forget(home: Path, reference: str) -> None:
    """Delete the lock of a model that was removed, and the texts no other lock names."""
    locks = Locks(home)
    locks.remove(reference)
    kept = (text for lock in locks.all() for text in (*lock.texts, *lock.templates))
    Texts(home).keep_only({text.sha256 for text in kept})
