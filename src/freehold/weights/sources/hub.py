"""GGUF files from the Hugging Face hub, or from a server that speaks its API.

One question to the API (`HfApi.model_info`) pins the commit and brings sizes,
digests and the card; the bytes then come from the pinned address through
`stream_range`. Errors of the library end at `HubSource._ask`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2

from freehold.domain.errors import (
    FreeholdError,
    GatedModel,
    InvalidReference,
    InvalidSetting,
    OfflineRefused,
    SourceUnavailable,
    UnknownModel,
    UnsupportedFile,
)
from freehold.weights.sources.base import Offer, RemoteFile
from freehold.weights.sources.http import (
    DIRECT_HOSTS,
    MAX_REDIRECTS,
    OWN_HEADERS,
    TIMEOUT,
    HttpStatusError,
    check_hop,
    parse_address,
    status_error,
    stream_range,
    unreachable,
)
from freehold.weights.sources.quiet import quiet_environment
from freehold.weights.sources.url import is_path, is_sha256, refuse_other_formats, require_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo
    from huggingface_hub.errors import HfHubHTTPError

DEFAULT_ENDPOINT = "https://huggingface.co"
# The longest answers seen are a few hundred kB: a card, a chat template and a list of files.
MAX_ANSWER_BYTES = 16 << 20

_PREFIX = "hf:"
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_FILTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", re.ASCII)
_TOKEN = re.compile(r"[!-~]{1,512}", re.ASCII)
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>[0-9]{5})-of-(?P<parts>[0-9]{5})\.gguf", re.ASCII)
# Files that go with a model and are none: image projectors, quantisation statistics.
_COMPANION = re.compile(r"(?:mmproj|imatrix)[-_.]|.*[-_.](?:mmproj|imatrix)[-_.]", re.IGNORECASE)
_DECLARED = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,200}")
_MAX_LISTED = 40
_MAX_REVISION = 200

# What the library's parsing does when a server answers with something else than the API's JSON.
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError)

_CHOOSE = "Name a quantisation or a file: hf:{repository}:Q4_K_M or hf:{repository}:<file>.gguf"


@dataclass(frozen=True)
class HubReference:
    """``hf:owner/repo[@revision][:choice]``; ``choice`` is one of `HubSource`'s ``paths``."""

    repository: str
    revision: str | None = None
    choice: str | None = None


def parse_hub_reference(text: str) -> HubReference:
    """Read ``hf:owner/repo``, ``hf:owner/repo@commit:Q4_K_M``, ``hf:owner/repo:file.gguf``.

    Raises `InvalidReference`, or `UnsupportedFile` when the file named is not GGUF.
    """
    if not text.startswith(_PREFIX):
        raise InvalidReference(f"{text!r} does not begin with {_PREFIX}.")
    place, colon, choice = text[len(_PREFIX) :].partition(":")
    repository, at, revision = place.partition("@")
    reference = HubReference(repository, revision if at else None, choice if colon else None)
    _require_repository(reference.repository)
    _require_revision(reference.revision)
    if reference.choice is not None:
        _require_choice(reference.choice)
    return reference


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
        self._repository = _require_repository(repository)
        self._revision = _require_revision(revision)
        self._expected = {require_path(file.name): file for file in expected}
        choices = paths if paths is not None else tuple(self._expected) or None
        self._choices = None if choices is None else tuple(map(_require_choice, choices))
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
        hub = _load_library()
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

    def _api(self, hub: _Library) -> HfApi:
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
        found = _choose(_files_of(info), self._choices, self._repository)
        return Offer(
            origin=f"{self._endpoint}/{self._repository}",
            files=tuple(self._reconciled(file) for file in found),
            revision=commit,
            licence=_licence_of(info),
            base_models=_base_models_of(info),
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


def _require_repository(text: str) -> str:
    if not _REPOSITORY.fullmatch(text) or "--" in text or ".." in text or text.endswith(".git"):
        raise InvalidReference(
            f"{text!r} is not a repository of the hub.", hint="Write it as owner/name."
        )
    return text


def _require_revision(text: str | None) -> str | None:
    if text is None:
        return None
    if len(text) > _MAX_REVISION or ".." in text or not _REVISION.fullmatch(text):
        raise InvalidReference(
            f"{text!r} is not a revision.", hint="Give a branch, a tag or a commit."
        )
    return text


def _require_choice(text: str) -> str:
    if _is_gguf(text):
        return require_path(text)
    refuse_other_formats(text)
    if not _FILTER.fullmatch(text):
        raise InvalidReference(
            f"{text!r} names neither a GGUF file nor a quantisation.",
            hint="Write a file such as model-Q4_K_M.gguf, or a quantisation such as Q4_K_M.",
        )
    return text


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


# Which files make up a model.


@dataclass(frozen=True)
class _Candidate:
    """One model as the hub holds it: a file, or the parts of a split file in their order."""

    files: tuple[RemoteFile, ...]

    @property
    def name(self) -> str:
        return self.files[0].name

    def __str__(self) -> str:
        parts = f", {len(self.files)} parts" if len(self.files) > 1 else ""
        sizes = [file.size for file in self.files if file.size is not None]
        size = _readable(sum(sizes)) if len(sizes) == len(self.files) else "size unknown"
        return f"{self.name} ({size}{parts})"


def _choose(
    files: Iterable[RemoteFile], choices: tuple[str, ...] | None, repository: str
) -> tuple[RemoteFile, ...]:
    candidates = _candidates(files)
    if not candidates:
        raise UnsupportedFile(
            f"{repository} holds no GGUF file; freehold runs GGUF files only.",
            hint="Repositories whose name ends in -GGUF usually hold a converted copy.",
        )
    if choices is None:
        chosen = [_the_only(_models(candidates), repository)]
    else:
        chosen = [_chosen(candidates, choice, repository) for choice in choices]
    for candidate in chosen:
        _require_whole(candidate, repository)
    return tuple(dict.fromkeys(file for one in chosen for file in one.files))


def _candidates(files: Iterable[RemoteFile]) -> dict[str, _Candidate]:
    # Part numbers have leading zeros, so names in order are parts in order.
    groups: dict[str, list[RemoteFile]] = {}
    for file in sorted(files, key=lambda file: file.name):
        groups.setdefault(_first_part(file.name), []).append(file)
    return {name: _Candidate(tuple(group)) for name, group in groups.items()}


def _models(candidates: Mapping[str, _Candidate]) -> list[_Candidate]:
    models = [one for name, one in candidates.items() if not _COMPANION.match(_base(name))]
    return models or list(candidates.values())


def _chosen(candidates: Mapping[str, _Candidate], choice: str, repository: str) -> _Candidate:
    if _is_gguf(choice):
        found = candidates.get(_first_part(choice))
        if found is None:
            raise _no_such(choice, candidates.values(), repository)
        return found
    # A whole word of the name: Q4_K must not take Q4_K_M, nor Q4_K_M take IQ4_K_M.
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(choice)}(?![A-Za-z0-9_])", re.IGNORECASE)
    matching = [one for one in _models(candidates) if word.search(one.name)]
    if not matching:
        raise _no_such(choice, candidates.values(), repository)
    return _the_only(matching, repository)


def _the_only(candidates: Sequence[_Candidate], repository: str) -> _Candidate:
    if len(candidates) == 1:
        return candidates[0]
    raise InvalidReference(
        f"{repository} holds {len(candidates)} GGUF models that this may mean: "
        f"{_listing(candidates)}.",
        hint=_CHOOSE.format(repository=repository),
    )


def _no_such(choice: str, candidates: Iterable[_Candidate], repository: str) -> InvalidReference:
    return InvalidReference(
        f"{repository} holds no {choice}; it has {_listing(list(candidates))}.",
        hint=_CHOOSE.format(repository=repository),
    )


def _require_whole(candidate: _Candidate, repository: str) -> None:
    present = {file.name for file in candidate.files}
    missing = [name for name in _all_parts(candidate.name) if name not in present]
    if missing:
        more = f" and {len(missing) - 1} more parts" if len(missing) > 1 else ""
        raise SourceUnavailable(
            f"The split file is incomplete: {repository} lacks {missing[0]}{more}."
        )


def _listing(candidates: Sequence[_Candidate]) -> str:
    shown = ", ".join(map(str, candidates[:_MAX_LISTED]))
    left = len(candidates) - _MAX_LISTED
    return f"{shown} and {left} more" if left > 0 else shown


def _first_part(name: str) -> str:
    """The name that stands for all parts of a split file; any other name is its own."""
    match = _split(name)
    return name if match is None else f"{match['stem']}-00001-of-{match['parts']}.gguf"


def _all_parts(name: str) -> list[str]:
    match = _split(name)
    if match is None:
        return [name]
    stem, parts = match["stem"], match["parts"]
    return [f"{stem}-{part:05}-of-{parts}.gguf" for part in range(1, int(parts) + 1)]


def _split(name: str) -> re.Match[str] | None:
    match = _SPLIT.fullmatch(name)
    return match if match is not None and 1 <= int(match["part"]) <= int(match["parts"]) else None


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _readable(size: int) -> str:
    for unit, bytes_each in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_each:
            return f"{size / bytes_each:.1f} {unit}"
    return f"{size} bytes"


# What the hub says, none of it believed to have the shape it should.


def _files_of(info: ModelInfo) -> list[RemoteFile]:
    """The GGUF files; one whose name we would refuse from the user is not offered at all."""
    return [
        RemoteFile(
            sibling.rfilename,
            size=_size(sibling.size),
            sha256=_digest(sibling.lfs.sha256 if sibling.lfs is not None else None),
        )
        for sibling in info.siblings or ()
        if is_path(sibling.rfilename) and _is_gguf(sibling.rfilename)
    ]


def _size(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _digest(value: object) -> str | None:
    return value if isinstance(value, str) and is_sha256(value) else None


def _licence_of(info: ModelInfo) -> str | None:
    """The licence the card declares; for ``other``, the name it gives with it."""
    declared = _declared(info, "license")
    if declared == ("other",):
        declared = _declared(info, "license_name") or declared
    return ", ".join(declared) or None


def _base_models_of(info: ModelInfo) -> tuple[str, ...]:
    return _declared(info, "base_model")


def _declared(info: ModelInfo, field: str) -> tuple[str, ...]:
    # A card that is no mapping passes through the library as whatever it is.
    value: object = getattr(info.card_data, field, None)
    items = value if isinstance(value, list) else [value]
    return tuple(item for item in items if isinstance(item, str) and _DECLARED.fullmatch(item))


# The library, quiet and under our rules for HTTP.


@dataclass(frozen=True)
class _Library:
    api: type[HfApi]
    http_error: type[HfHubHTTPError]
    invalid_argument: type[ValueError]


def _load_library() -> _Library:
    library = _import_library()
    from huggingface_hub import constants  # noqa: PLC0415 (quiet first, see _import_library)

    if constants.is_offline_mode():
        raise OfflineRefused(
            "HF_HUB_OFFLINE is set, so the hub is not asked.", hint="Unset it to fetch models."
        )
    return library


@cache
def _import_library() -> _Library:
    settings = quiet_environment()
    # Imported here because it reads the environment once, at import.
    from huggingface_hub import HfApi, constants, set_client_factory  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    # Whoever imported it before us did so with the settings of that moment.
    for name, value in settings.items():
        if value == "1" and hasattr(constants, name):
            setattr(constants, name, True)
    set_client_factory(_library_client)
    return _Library(HfApi, HfHubHTTPError, HFValidationError)


def _library_client() -> httpx2.Client:
    return httpx2.Client(
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        mounts=DIRECT_HOSTS,
        event_hooks={"request": [_on_request], "response": [_on_response]},
    )


def _on_request(request: httpx2.Request) -> None:
    """Hold every request of the library, redirects included, to the rules of `http`."""
    # The library asks for no time limit at all; extensions travel along redirects.
    request.extensions["timeout"] = TIMEOUT.as_dict()
    start = request.extensions.setdefault("freehold_start", request.url)
    check_hop(request.url, start)
    if request.url.origin != start.origin:
        # httpx2 alone would keep it from http, port 80, to https, port 443.
        request.headers.pop("Authorization", None)


def _on_response(response: httpx2.Response) -> None:
    host = response.request.url.host
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise SourceUnavailable(f"{host} sends its answer compressed although asked not to.")
    if isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _BoundedStream(response.stream, host)


class _BoundedStream(httpx2.SyncByteStream):
    """An answer's body, refused beyond `MAX_ANSWER_BYTES`: the library reads it whole."""

    def __init__(self, stream: httpx2.SyncByteStream, host: str) -> None:
        self._stream = stream
        self._host = host

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        for chunk in self._stream:
            received += len(chunk)
            if received > MAX_ANSWER_BYTES:
                raise SourceUnavailable(
                    f"{self._host} answers with more than {MAX_ANSWER_BYTES >> 20} MiB."
                )
            yield chunk

    def close(self) -> None:
        self._stream.close()
