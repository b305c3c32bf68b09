"""One repository of the Hugging Face hub, or of a server that speaks its API, at one commit.

One question to the API (`HfApi.model_info`) pins the commit and brings the list of
files and the card; bytes then come from the pinned address through `stream_range`.
Errors of the library end here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2

from freehold.domain.error_values import Values
from freehold.domain.errors import (
    FreeholdError,
    GatedModel,
    InvalidReference,
    InvalidSetting,
    SourceUnavailable,
    UnknownModel,
)
from freehold.weights.naming import require_repository, require_revision
from freehold.weights.sources.http import (
    MAX_REDIRECTS,
    OWN_HEADERS,
    HttpStatusError,
    parse_address,
    status_error,
    stream_range,
    unreachable,
)
from freehold.weights.sources.hub_library import Library, load_library

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

DEFAULT_ENDPOINT = "https://huggingface.co"

_PREFIX = "hf:"
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_TOKEN = re.compile(r"[!-~]{1,512}", re.ASCII)

# What the library's parsing does when a server answers with something else than the API's JSON.
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError)


class HubRepository:
    """``revision`` is a branch, tag or commit (None: the default branch).

    ``endpoint`` defaults to the public hub; ``token`` goes to that origin only. Raises
    `InvalidReference` or `InvalidSetting`, before any request.
    """

    def __init__(
        self,
        name: str,
        *,
        revision: str | None = None,
        endpoint: str | None = None,
        token: str | None = None,
    ) -> None:
        self.name = require_repository(name)
        self._revision = require_revision(revision)
        self._endpoint = _require_endpoint(endpoint)
        self._token = _require_token(token)
        self._info: ModelInfo | None = None

    @property
    def description(self) -> str:
        host = self._endpoint.partition("://")[2]
        place = "Hugging Face hub" if self._endpoint == DEFAULT_ENDPOINT else host
        return f"{place}, {self.name}"

    @property
    def address(self) -> str:
        """Its page, for people; also where its bytes are, below."""
        return f"{self._endpoint}/{self.name}"

    def info(self) -> ModelInfo:
        """What the API says of it at one commit; asked once, then remembered.

        Raises `SourceUnavailable`, `GatedModel`, `UnknownModel`, `InvalidReference` or
        `OfflineRefused`.
        """
        if self._info is None:
            self._info = self._ask()
        return self._info

    @property
    def commit(self) -> str:
        """The 40 hex digits that `info` pinned. Raises what it raises."""
        commit = self.info().sha
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise SourceUnavailable(f"{self.description} does not say at which commit it is.")
        pinned = self._revision is not None and _COMMIT.fullmatch(self._revision)
        if pinned and commit != self._revision:
            raise SourceUnavailable(
                f"{self.description} answers for another commit than {self._revision}."
            )
        return commit

    def require_open(self) -> None:
        """Raise `GatedModel` when its files are given only to those who accepted its terms."""
        if self.info().gated and self._token is None:
            raise self._gated()

    @contextmanager
    def stream(self, path: str, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Deliver the file ``path`` from byte ``offset`` on, at the commit that `info` pinned."""
        url = f"{self.address}/resolve/{self.commit}/{quote(path)}"
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
                self.name, revision=self._revision, files_metadata=True
            )
        except hub.http_error as error:
            response = error.response
            raise self._refusal(
                status_error(host, response.status_code, response.headers)
            ) from error
        except hub.invalid_argument as error:
            raise InvalidReference(
                f"{self.name!r} cannot be a repository.", values={"reference": self.name}
            ) from error
        except httpx2.TooManyRedirects as error:
            raise SourceUnavailable(
                f"{host} redirects more than {MAX_REDIRECTS} times.", values={"host": host}
            ) from error
        except httpx2.HTTPError as error:
            raise unreachable(host, error) from error
        except _MALFORMED as error:
            raise SourceUnavailable(
                f"{host} does not answer as a model hub does.", values={"host": host}
            ) from error

    def _api(self, hub: Library) -> HfApi:
        # False, not None: None would let the library look for a token on disk.
        return hub.api(
            endpoint=self._endpoint,
            token=self._token if self._token is not None else False,
            headers={name.lower(): value for name, value in OWN_HEADERS.items()},
        )

    def _authorization(self) -> Mapping[str, str]:
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    def _refusal(self, error: HttpStatusError) -> FreeholdError:
        status, code = error.status, error.error_code
        if code == "GatedRepo" or status == httpx2.codes.FORBIDDEN:
            return self._gated()
        if status == httpx2.codes.UNAUTHORIZED and self._token is not None:
            return GatedModel(
                f"The hub does not accept the token it was given for {self.name}.",
                hint="Set HF_TOKEN to a valid token, or unset it if the model needs none.",
                values=self._named(),
            )
        if code == "RevisionNotFound":
            return UnknownModel(
                f"{_PREFIX}{self.name}@{self._revision}",
                hint=f"{self.name} exists, but has no such branch, tag or commit.",
            )
        if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.NOT_FOUND):
            return self._unknown()
        return error

    def _gated(self) -> GatedModel:
        page = self.address
        if self._token is None:
            return GatedModel(
                f"{self.name} is given only to people who accepted its terms.",
                hint=f"Accept the terms at {page} and set HF_TOKEN to a token of that account.",
                values=self._named(),
            )
        return GatedModel(
            f"The token in use has no access to {self.name}.",
            hint=(
                f"Accept the terms at {page} with the account of HF_TOKEN; a fine-grained "
                "token also needs the permission to read gated repositories."
            ),
            values=self._named(),
        )

    def _named(self) -> Values:
        return {"repository": self.name, "host": parse_address(self._endpoint).host}

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
        return UnknownModel(f"{_PREFIX}{self.name}", hint=hint)


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
