"""`freehold serve`: models over HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from freehold.cli.common import notice, settings_from
from freehold.cli.completing import LOCAL_MODEL
from freehold.cli.setting_flags import given_flags, setting_flags
from freehold.cli.upstream_words import require_usable, said_of
from freehold.domain.errors import InvalidReference, InvalidRequest
from freehold.domain.hosts import is_loopback
from freehold.domain.settings import Settings, resolve
from freehold.process.confine import deny_network
from freehold.trust import lock as locking
from freehold.trust.egress import refuse_egress
from freehold.trust.lock import Lock
from freehold.trust.verdict import Use
from freehold.weights.files import require_file
from freehold.weights.gguf import read_header
from freehold.weights.library import Library
from freehold.weights.reference import PathReference

if TYPE_CHECKING:
    from freehold.engines.vllm.door import Door


@click.command("serve")
@click.argument("models", nargs=-1, shell_complete=LOCAL_MODEL)
@setting_flags
@click.option(
    "--locked",
    "lock_files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="A lock: only models that are exactly as locked are served.",
)
def command(models: tuple[str, ...], lock_files: tuple[Path, ...]) -> None:
    """Serve every model in the store, and the files named here, over HTTP.

    MODELS are loaded at once; others are loaded when they are first asked for. Upstreams are
    asked, not loaded.
    """
    flags = given_flags()
    settings = settings_from(**flags)
    require_usable(settings)
    if lock_files and settings.upstreams:
        raise InvalidRequest(
            "What an upstream runs is in no lock, so with --locked it is not served.",
            hint="Leave the upstreams out with: --upstream none",
        )
    here = tuple(name for name in models if name not in settings.upstreams)
    served = _check(Library.open(settings), here)
    for upstream in settings.upstreams.values():
        notice(said_of(upstream, sealed=settings.offline))
    if settings.offline:
        refuse_egress()
    locks = tuple(map(locking.read, lock_files))

    from freehold.api.server import bind
    from freehold.runtime.vllm import open_door

    sock, door = bind(settings), open_door(settings)
    if settings.offline:
        deny_network()  # the one socket a server needs is there
    asyncio.run(_serve(settings, sock, here, served, locks, lambda: resolve(flags), door))
    notice("Stopped.")


def _check(library: Library, models: tuple[str, ...]) -> tuple[Path, ...]:
    """Refuse what cannot be served before anything is started; returns the files named."""
    served: dict[str, Path] = {}
    for text in models:
        reference = library.reference(text)
        if not isinstance(reference, PathReference):
            library.registry.get(str(reference))
            continue
        require_file(reference.path)
        read_header(reference.path)
        other = served.setdefault(reference.path.stem, reference.path)
        if other.resolve() != reference.path.resolve():
            raise InvalidReference(
                f"{other} and {reference.path} would both be called {reference.path.stem}.",
                hint="Rename one of the files.",
            )
    return tuple(served.values())


async def _serve(
    settings: Settings,
    sock: socket.socket,
    models: tuple[str, ...],
    served: tuple[Path, ...],
    locks: tuple[Lock, ...],
    reread: Callable[[], Settings],
    door: Door | None,
) -> None:
    from freehold.api.server import serve
    from freehold.runtime.wiring import open_runtime

    # Whoever can reach only this machine is its owner; anybody else is served.
    use = Use.RUN if is_loopback(settings.host) else Use.SERVE
    async with open_runtime(
        settings,
        notice=notice,
        served_paths=served,
        use=use,
        locks=locks,
        sealed=settings.offline,
        door=door,
    ) as runtime:
        await serve(runtime, sock, preload=models, say=notice, reread=reread)
