"""GGUF files from the Hugging Face hub, or from a server that speaks its API.

One question to the API (`HfApi.model_info`) pins the commit and brings sizes,
digests and the card; the bytes then come from the pinned address through
`stream_range`. Errors of the library end at `HubSource._ask`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2

from freehold.domain.errors import (
    FreeholdError,
    GatedModel,
    InvalidReference,
    InvalidSetting,
    SourceUnavailable,
    UnknownModel,
)
from freehold.weights.naming import (
    require_choice,
    require_path,
    require_repository,
    require_revision,
)
from freehold.weights.sources.base import Offer, RemoteFile
from freehold.weights.sources.http import (
    MAX_REDIRECTS,
    OWN_HEADERS,
    HttpStatusError,
    parse_address,
    status_error,
    stream_range,
    unreachable,
)
from freehold.weights.sources.hub_files import base_models_of, choose, files_of, licence_of
from freehold.weights.sources.hub_library import Library, load_library

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

DEFAULT_ENDPOINT = "https://huggingface.co"

_PREFIX = "hf:"
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_TOKEN = re.compile(r"[!-~]{1,512}", re.ASCII)

# What the library's parsing does when a server answers with something else than the API's JSON.
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError)


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
        self._repository = require_repository(repository)
        self._revision = require_revision(revision)
        self._expected = {require_path(file.name): file for file in expected}
        choices = paths if paths is not None else tuple(self._expected) or None
        self._choices = None if choices is None else tuple(map(require_choice, choices))
        self._endpoint = _require_endpoint(endpoint)
        self._token = _require_token(token)
        self._offer: Offer | None = None

    @property
    def description(self) -> str:
        host = self._endpoint.partition("://")[2]
        place = "Hugging Face hub" if self._endpoint == DEFAULT_ENDPOINT else host
        return f"{place}, {self._repository}"

    def resolve(self) -> Offer:
        """Pin the commit and pick the files; asked once, then remembered.

        Raises `SourceUnavailable`, `GatedModel`, `UnknownModel`, `UnsupportedFile`
        (nothing here is GGUF), `InvalidReference` (the choice fits no file, or
        several), or `OfflineRefused`.
        """
        if self._offer is None:
            self._offer = self._offer_of(self._ask())
        return self._offer

    @contextmanager
    def stream(self, file: RemoteFile, offset: int) -> Iterator[Iterator[bytes]]:
        """Deliver ``file`` from byte ``offset`` on, at the commit that `resolve` pinned.

        Raises what `resolve` raises.
        """
        offer = self.resolve()
        url = (
            f"{self._endpoint}/{self._repository}/resolve/{offer.revision}/"
            f"{quote(self._path_of(file, offer))}"
        )
        with ExitStack() as stack:
            try:
                chunks = stack.enter_context(
                    stream_range(url, offset=offset, headers=self._authorization())
                )
            except HttpStatusError as error:
                # 401 and 403 from the storage behind the hub say nothing about the model.
                if error.redirected or error.status not in (401, 403):
                    raise
                raise self._refusal(error) from error
            yield chunks

    def _ask(self) -> ModelInfo:
        hub = load_library()
        host = parse_address(self._endpoint).host
        try:
            return self._api(hub).model_info(
                self._repository, revision=self._revision, files_metadata=True
            )
        except hub.http_error as error:
            response = error.response
            raise self._refusal(
                status_error(host, response.status_code, response.headers)
            ) from error
        except hub.invalid_argument as error:
            raise InvalidReference(f"{self._repository!r} cannot be a repository.") from error
        except httpx2.TooManyRedirects as error:
            raise SourceUnavailable(f"{host} redirects more than {MAX_REDIRECTS} times.") from error
        except httpx2.HTTPError as error:
            raise unreachable(host, error) from error
        except _MALFORMED as error:
            raise SourceUnavailable(f"{host} does not answer as a model hub does.") from error

    def _api(self, hub: Library) -> HfApi:
        # False, not None: None would let the library look for a token on disk.
        return hub.api(
            endpoint=self._endpoint,
            token=self._token if self._token is not None else False,
            headers={name.lower(): value for name, value in OWN_HEADERS.items()},
        )

    def _offer_of(self, info: ModelInfo) -> Offer:
        commit = info.sha
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise SourceUnavailable(f"{self.description} does not say at which commit it is.")
        pinned = self._revision is not None and _COMMIT.fullmatch(self._revision)
        if pinned and commit != self._revision:
            raise SourceUnavailable(
                f"{self.description} answers for another commit than {self._revision}."
            )
        if info.gated and self._token is None:
            raise self._gated()
        found = choose(files_of(info), self._choices, self._repository)
        return Offer(
            origin=f"{self._endpoint}/{self._repository}",
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
                f"SHA-256 {file.sha256}, not {expected.sha256}."
            )
        if None not in (file.size, expected.size) and file.size != expected.size:
            raise SourceUnavailable(
                f"{self.description} has another {file.name} than was promised: "
                f"{file.size} bytes, not {expected.size}."
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
        raise SourceUnavailable(f"{self.description} does not offer {file.name!r}.")

    def _authorization(self) -> Mapping[str, str]:
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    def _refusal(self, error: HttpStatusError) -> FreeholdError:
        status, code = error.status, error.error_code
        if code == "GatedRepo" or status == httpx2.codes.FORBIDDEN:
            return self._gated()
        if status == httpx2.codes.UNAUTHORIZED and self._token is not None:
            return GatedModel(
                f"The hub does not accept the token it was given for {self._repository}.",
                hint="Set HF_TOKEN to a valid token, or unset it if the model needs none.",
            )
        if code == "RevisionNotFound":
            return UnknownModel(
                f"{_PREFIX}{self._repository}@{self._revision}",
                hint=f"{self._repository} exists, but has no such branch, tag or commit.",
            )
        if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.NOT_FOUND):
            return self._unknown()
        return error

    def _gated(self) -> GatedModel:
        page = f"{self._endpoint}/{self._repository}"
        if self._token is None:
            return GatedModel(
                f"{self._repository} is given only to people who accepted its terms.",
                hint=f"Accept the terms at {page} and set HF_TOKEN to a token of that account.",
            )
        return GatedModel(
            f"The token in use has no access to {self._repository}.",
            hint=(
                f"Accept the terms at {page} with the account of HF_TOKEN; a fine-grained "
                "token also needs the permission to read gated repositories."
            ),
        )

    def _unknown(self) -> UnknownModel:
        # Without a token the hub answers alike for what is missing and what is private.
        if self._token is None:
            hint = (
                "The repository does not exist, or it is private: check the spelling, "
                "or set HF_TOKEN to a token that may read it."
            )
        else:
            hint = (
                "The repository does not exist, or HF_TOKEN may not see it: check the "
                "spelling and the account of the token."
            )
        return UnknownModel(f"{_PREFIX}{self._repository}", hint=hint)


# What the caller says, checked before any request.


def _require_endpoint(text: str | None) -> str:
    if text is None:
        return DEFAULT_ENDPOINT
    try:
        url = parse_address(text)
    except InvalidReference as error:
        raise InvalidSetting(f"The hub's address cannot be used: {error}") from error
    if url.query or url.fragment:
        raise InvalidSetting("The hub's address must not carry a query or a fragment.")
    return str(url).rstrip("/")


def _require_token(text: str | None) -> str | None:
    if text is not None and not _TOKEN.fullmatch(text):
        raise InvalidSetting("The token for the hub contains characters that no token has.")
    return text
