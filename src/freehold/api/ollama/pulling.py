"""A pull as Ollama's clients watch it: lines while it goes on, an end when they leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from freehold.api.ollama.models_schema import Progress
from freehold.api.pulls import Pulls, Telling
from freehold.trust.dossier import Dossiers
from freehold.trust.verdict import Verdict
from freehold.weights.registry import ModelFile

_TELL_SECONDS = 0.1


async def lines(
    pulls: Pulls, dossiers: Dossiers, name: str, asked_for: str
) -> AsyncGenerator[Progress, None]:
    """Pull, telling how far it is. Raises what `Pulls.begin` and `acquire` do. Closing it ends the
    pull.
    """
    pull = await pulls.begin(dossiers, name, asked_for)
    try:
        while not pull.pulling.done():
            await asyncio.wait({pull.pulling}, timeout=_TELL_SECONDS)
            for telling in pull.watch.taken():
                yield _line(telling, pull.digest)
    finally:
        pull.watch.stop()
    acquired = pull.pulling.result()
    yield Progress(status=_verdict(acquired.dossier.verdict))
    for file in acquired.manifest.files:
        yield _arrived(file)
    yield Progress(status="success")


def _line(telling: Telling, digest: str | None) -> Progress:
    if telling.completed is None:  # a note
        return Progress(status=telling.status)
    return Progress(
        status=telling.status, digest=digest, total=telling.total, completed=telling.completed
    )


def _verdict(verdict: Verdict) -> str:
    return (
        f"licence {verdict.concluded or 'unknown'}; "
        f"run: {verdict.run.outcome}, serve: {verdict.serve.outcome}"
    )


def _arrived(file: ModelFile) -> Progress:
    return Progress(
        status=f"verified {file.name}",
        digest=f"sha256:{file.sha256}",
        total=file.size,
        completed=file.size,
    )
