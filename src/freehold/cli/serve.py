"""`freehold serve`: models over HTTP."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import click

from freehold.cli.common import OFFLINE_OPTION, notice, settings_from
from freehold.cli.completing import LOCAL_MODEL
from freehold.domain.errors import InvalidReference
from freehold.domain.settings import Settings
from freehold.process.confine import deny_network
from freehold.trust import lock as locking
from freehold.trust.egress import refuse_egress
from freehold.trust.lock import Lock
from freehold.trust.verdict import Use
from freehold.weights.addresses import is_loopback
from freehold.weights.files import require_file
from freehold.weights.gguf import read_header
from freehold.weights.library import Library
from freehold.weights.reference import PathReference


@click.command("serve")
@click.argument("models", nargs=-1, shell_complete=LOCAL_MODEL)
@click.option("--host", help="Address to listen on (127.0.0.1: this machine only).")
@click.option("--port", type=int, help="Port to listen on (7333); 0 takes a free one.")
@click.option("--context", type=int, help="Tokens per sequence (8192).")
@click.option("--parallel", type=int, help="Sequences at once for each model (4).")
@click.option("--max-tokens", type=int, help="Answer length where a request names none.")
@click.option("--threads", type=int, help="Threads per model (all cores).")
@click.option("--cache-layout", help="streams: cells for each sequence; unified: a shared pool.")
@click.option("--cache-type", help="How the key-value cache is stored: f16, f32, bf16 or q8_0.")
@click.option("--flash-attention/--no-flash-attention", default=None, help="Fused attention.")
@click.option("--cells", type=int, help="Tokens all sequences share in a unified cache.")
@click.option("--prefix-memory", type=int, help="MiB that keep finished prefixes (1024).")
@click.option("--latency", type=int, help="Milliseconds between tokens to aim for (500).")
@click.option("--speculate/--no-speculate", default=None, help="Guess tokens that repeat.")
@click.option("--alias", "aliases", multiple=True, help="NAME=MODEL: another name of a model.")
@click.option(
    "--locked",
    "lock_files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="A lock: only models that are exactly as locked are served.",
)
@OFFLINE_OPTION
def command(
    models: tuple[str, ...],
    host: str | None,
    port: int | None,
    context: int | None,
    parallel: int | None,
    max_tokens: int | None,
    threads: int | None,
    cache_layout: str | None,
    cache_type: str | None,
    flash_attention: bool | None,
    cells: int | None,
    prefix_memory: int | None,
    latency: int | None,
    speculate: bool | None,
    aliases: tuple[str, ...],
    lock_files: tuple[Path, ...],
    offline: bool | None,
) -> None:
    """Serve every model in the store, and the files named here, over HTTP.

    MODELS are loaded at once; others are loaded when they are first asked for.
    """
    settings = settings_from(
        host=host,
        port=port,
        context=context,
        parallel=parallel,
        max_tokens=max_tokens,
        threads=threads,
        cache_layout=cache_layout,
        cache_type=cache_type,
        flash_attention=flash_attention,
        cells=cells,
        prefix_memory=prefix_memory,
        latency=latency,
        speculate=speculate,
        aliases=aliases or None,
        offline=offline,
    )
    served = _check(Library.open(settings), models)
    if settings.offline:
        refuse_egress()
    locks = tuple(map(locking.read, lock_files))

    from freehold.api.server import bind

    sock = bind(settings)
    if settings.offline:
        deny_network()  # the one socket a server needs is there
    asyncio.run(_serve(settings, sock, models, served, locks))
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
) -> None:
    from freehold.api.server import serve
    from freehold.runtime.wiring import open_runtime

    # Whoever can reach only this machine is its owner; anybody else is served.
    use = Use.RUN if is_loopback(settings.host) else Use.SERVE
    async with open_runtime(
        settings, notice=notice, served_paths=served, use=use, locks=locks
    ) as runtime:
        await serve(runtime, sock, preload=models, say=notice)
