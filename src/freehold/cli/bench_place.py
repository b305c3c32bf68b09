"""What `freehold bench` measures: a URL, this store's running server, or one started for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from freehold.cli.backend import find_server
from freehold.cli.common import notice
from freehold.domain.errors import OfflineRefused
from freehold.domain.settings import Settings
from freehold.lab.bench.endpoint import Endpoint, parse_endpoint
from freehold.lab.bench.own import own_server
from freehold.lab.bench.report import Target
from freehold.weights.files import require_file
from freehold.weights.library import Library
from freehold.weights.reference import PathReference

# The server, what is said of it, and how it ended if that is known.
Place: TypeAlias = AbstractAsyncContextManager[tuple[Endpoint, Target, Callable[[], str | None]]]


def _unknown() -> str | None:
    return None


@contextlib.asynccontextmanager
async def _as_it_is(
    endpoint: Endpoint, target: Target
) -> AsyncIterator[tuple[Endpoint, Target, Callable[[], str | None]]]:
    yield endpoint, target, _unknown


def remote(url: str, model: str | None, key: str | None, settings: Settings) -> Place:
    """Someone's server. That it is beyond this machine is said. Raises `OfflineRefused`."""
    endpoint = parse_endpoint(url, key)
    if not endpoint.here:
        if settings.offline:
            raise OfflineRefused(
                f"freehold is offline and does not measure {endpoint.host}.",
                hint="Leave out --offline (and FREEHOLD_OFFLINE) to allow the network.",
            )
        how = "" if endpoint.scheme == "https" else ", unencrypted"
        also = " and the key" if key else ""
        notice(
            f"{endpoint.host} is beyond this machine: prompts of made-up words{also} go there{how}."
        )
    return _as_it_is(endpoint, Target(endpoint.url, model or "", ours=False))


@contextlib.asynccontextmanager
async def local(
    text: str, settings: Settings, flags: Sequence[str]
) -> AsyncIterator[tuple[Endpoint, Target, Callable[[], str | None]]]:
    """A model of this store or a file, served here. ``flags`` are for a server of its own."""
    library = await asyncio.to_thread(Library.open, settings)
    reference = library.reference(text)
    if isinstance(reference, PathReference):
        reference = PathReference(reference.path.absolute())
        require_file(reference.path)
    else:
        library.registry.get(str(reference))
    name = str(reference)
    running = None if flags else await find_server(settings, name)
    if running is not None:
        notice(f"Measuring the server that runs at {running.url}.")
        endpoint = parse_endpoint(running.url, settings.api_key)
        yield endpoint, Target(endpoint.url, name, ours=True), _unknown
        return
    notice(f"Starting a server for {text}.")
    offline = ("--offline",) if settings.offline else ()
    async with own_server(name, (*flags, *offline), notice) as server:
        endpoint = parse_endpoint(server.url, settings.api_key)
        target = Target(endpoint.url, name, ours=True, settings=tuple(flags))
        yield endpoint, target, lambda: server.ended
