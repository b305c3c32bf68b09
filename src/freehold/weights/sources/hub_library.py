"""The hub's library, quiet and under our rules for HTTP.

It is imported only when a hub is asked, after the environment was made quiet,
and every request it makes goes through a client of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import httpx2

from freehold.domain.errors import OfflineRefused, SourceUnavailable
from freehold.weights.sources.http import (
    DIRECT_HOSTS,
    MAX_REDIRECTS,
    TIMEOUT,
    check_hop,
    proxies_are_usable,
)
from freehold.weights.sources.quiet import quiet_environment

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

# The longest answers seen are a few hundred kB: a card, a chat template and a list of files.
MAX_ANSWER_BYTES = 16 << 20


@dataclass(frozen=True)
class Library:
    """The few names we take from it."""

    api: type[HfApi]
    http_error: type[HfHubHTTPError]
    invalid_argument: type[ValueError]


def load_library() -> Library:
    """Import the library on first use. Raises `OfflineRefused` when it is told to stay offline."""
    library = _import_library()
    from huggingface_hub import constants  # noqa: PLC0415 (quiet first, see _import_library)

    if constants.is_offline_mode():
        raise OfflineRefused(
            "HF_HUB_OFFLINE is set, so the hub is not asked.", hint="Unset it to fetch models."
        )
    return library


@cache
def _import_library() -> Library:
    settings = quiet_environment()
    # Imported here because it reads the environment once, at import.
    from huggingface_hub import HfApi, constants, set_client_factory  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    # Whoever imported it before us did so with the settings of that moment.
    for name, value in settings.items():
        if value == "1" and hasattr(constants, name):
            setattr(constants, name, True)
    set_client_factory(_library_client)
    return Library(HfApi, HfHubHTTPError, HFValidationError)


def _library_client() -> httpx2.Client:
    with proxies_are_usable():
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
        raise SourceUnavailable(
            f"{host} sends its answer compressed although asked not to.", values={"host": host}
        )
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
                    f"{self._host} answers with more than {MAX_ANSWER_BYTES >> 20} MiB.",
                    values={"host": self._host},
                )
            yield chunk

    def close(self) -> None:
        self._stream.close()
