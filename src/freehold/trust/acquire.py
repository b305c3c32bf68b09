"""Fetching a model with its papers: facts, verdict and policy first, then the bytes, then the lock.

reference ──gather──► verdict ──permit──► refused? nothing is fetched
                                  │
                               library.pull ──► header ──► lock
"""

from __future__ import annotations

from dataclasses import dataclass

from freehold.domain.errors import SourceUnavailable
from freehold.domain.settings import Settings
from freehold.trust.dossier import Dossier, Dossiers, required
from freehold.trust.gather import Ask
from freehold.trust.policy import permit
from freehold.trust.verdict import Use
from freehold.weights.documents import Documents
from freehold.weights.progress import Progress
from freehold.weights.reference import PathReference, UrlReference
from freehold.weights.registry import Manifest


@dataclass(frozen=True)
class Acquired:
    """A fetched model and what is known of it."""

    manifest: Manifest
    dossier: Dossier


def acquire(
    dossiers: Dossiers, text: str, progress: Progress, *, accepted: str | None = None
) -> Acquired:
    """Fetch a model unless it is here, and keep its lock.

    ``accepted`` is why somebody answers for running it, whatever the verdict; it goes on record.
    Raises what `Library.pull` does, and `LicenceRefused` before anything is fetched.
    """
    library = dossiers.library
    reference = library.reference(text)
    if library.is_local(reference):
        manifest = library.pull(text, progress)
        return Acquired(manifest, dossiers.of(library.local(text, progress=progress)))
    ask = None if library.settings.offline else hub(library.settings)
    if not isinstance(reference, PathReference | UrlReference):
        verdict, _ = dossiers.preview(reference, ask)
        permission = permit(dossiers.policy, Use.RUN, str(reference), verdict)
        if accepted is None or not permission.decidable:
            required(permission, str(reference))
    manifest = library.pull(text, progress)
    model = library.local(manifest.reference, progress=progress)
    dossier = dossiers.keep(model, ask)
    if accepted is not None:
        dossier = dossiers.decide(model, Use.RUN, accepted)
    return Acquired(manifest, dossier)


def hub(settings: Settings) -> Ask:
    """Asks the hub for documents, each repository once, and no more once it was not there."""
    # Imported only now: nothing that does not fetch ever loads what can.
    from freehold.weights.sources.documents import read_documents  # noqa: PLC0415
    from freehold.weights.sources.hub_repository import HubRepository  # noqa: PLC0415

    answers: dict[tuple[str, str | None], Documents] = {}
    away: list[SourceUnavailable] = []

    def ask(name: str, revision: str | None) -> Documents:
        if away:
            raise away[0]
        if (name, revision) not in answers:
            repository = HubRepository(
                name,
                revision=revision,
                endpoint=settings.hub_endpoint,
                token=settings.hub_token,
            )
            try:
                found = read_documents(repository)
            except SourceUnavailable as error:
                away.append(error)
                raise
            answers[name, revision] = answers[name, found.commit] = found
        return answers[name, revision]

    return ask
