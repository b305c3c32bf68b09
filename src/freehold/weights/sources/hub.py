"""GGUF files from a repository of the hub: which of them are meant, and their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from freehold.domain.errors import SourceUnavailable
from freehold.weights.naming import require_choice, require_path
from freehold.weights.sources.base import Offer, RemoteFile
from freehold.weights.sources.hub_files import (
    base_models_of,
    choose,
    files_of,
    licence_of,
    safetensors_of,
)
from freehold.weights.sources.hub_repository import HubRepository


class HubSource:
    """The GGUF files of one repository at one commit.

    ``revision`` is a branch, tag or commit (None: the default branch). Each of
    ``paths`` is a GGUF file of the repository, or a quantisation or part of a
    name, in any case of letters (``Q4_K_M``); None takes the only model there is.
    ``expected`` is what is known of the files beforehand; it selects them when
    ``paths`` is None, and the hub must agree with it. ``endpoint`` defaults to
    the public hub; ``token`` goes to that origin only.

    Raises `InvalidReference`, `UnsupportedFile` or `InvalidSetting`, before any request.
    """

    def __init__(
        self,
        repository: str,
        *,
        revision: str | None = None,
        paths: tuple[str, ...] | None = None,
        expected: tuple[RemoteFile, ...] = (),
        endpoint: str | None = None,
        token: str | None = None,
    ) -> None:
        self._repository = HubRepository(
            repository, revision=revision, endpoint=endpoint, token=token
        )
        self._expected = {require_path(file.name): file for file in expected}
        choices = paths if paths is not None else tuple(self._expected) or None
        self._choices = None if choices is None else tuple(map(require_choice, choices))
        self._offer: Offer | None = None

    @property
    def description(self) -> str:
        return self._repository.description

    def resolve(self) -> Offer:
        """Pin the commit and pick the files; asked once, then remembered.

        Raises `SourceUnavailable`, `GatedModel`, `UnknownModel`, `UnsupportedFile`
        (nothing here is GGUF), `InvalidReference` (the choice fits no file, or
        several), or `OfflineRefused`.
        """
        if self._offer is None:
            self._offer = self._made()
        return self._offer

    def stream(self, file: RemoteFile, offset: int) -> AbstractContextManager[Iterator[bytes]]:
        """Deliver ``file`` from byte ``offset`` on, at the commit that `resolve` pinned.

        Raises what `resolve` raises.
        """
        return self._repository.stream(self._path_of(file, self.resolve()), offset)

    def _made(self) -> Offer:
        repository = self._repository
        commit = repository.commit
        repository.require_open()
        info = repository.info()
        found = safetensors_of(info, repository.name) if self._choices is None else ()
        if not found:
            found = choose(files_of(info), self._choices, repository.name)
        return Offer(
            origin=repository.address,
            files=tuple(self._reconciled(file) for file in found),
            revision=commit,
            licence=licence_of(info),
            base_models=base_models_of(info),
        )

    def _reconciled(self, file: RemoteFile) -> RemoteFile:
        expected = self._expected.get(file.name)
        if expected is None:
            return file
        if None not in (file.sha256, expected.sha256) and file.sha256 != expected.sha256:
            raise SourceUnavailable(
                f"{self.description} has another {file.name} than was promised: "
                f"SHA-256 {file.sha256}, not {expected.sha256}.",
                values={"file": file.name},
            )
        if None not in (file.size, expected.size) and file.size != expected.size:
            raise SourceUnavailable(
                f"{self.description} has another {file.name} than was promised: "
                f"{file.size} bytes, not {expected.size}.",
                values={"file": file.name},
            )
        return RemoteFile(
            file.name,
            size=file.size if file.size is not None else expected.size,
            sha256=file.sha256 or expected.sha256,
        )

    def _path_of(self, file: RemoteFile, offer: Offer) -> str:
        for offered in offer.files:
            if offered.name == file.name:
                return offered.name
        # Another source may have named the same bytes otherwise.
        for offered in offer.files:
            if offered.sha256 is not None and offered.sha256 == file.sha256:
                return offered.name
        raise SourceUnavailable(
            f"{self.description} does not offer {file.name!r}.", values={"file": file.name}
        )
