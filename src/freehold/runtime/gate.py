"""What a model must pass before it is loaded: the locks it is held to, and the licence policy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from freehold.domain.errors import RefusedFile
from freehold.trust.comparing import require_locked
from freehold.trust.dossier import Dossiers, manifest_of
from freehold.trust.lock import Lock, template_digest
from freehold.trust.policy import Action
from freehold.trust.verdict import Use
from freehold.weights.library import LocalModel
from freehold.weights.registry import Manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gate:
    """``use`` is what loading is for; with ``locks`` nothing else is let in.

    ``notice`` is told about each model once. Called from several threads.
    """

    dossiers: Dossiers
    use: Use
    notice: Callable[[str], None]
    locks: tuple[Lock, ...] = ()
    _told: set[str] = field(default_factory=set)

    def admit(self, model: LocalModel) -> None:
        """Raise `LicenceRefused`, or `RefusedFile` for what no lock allows."""
        if self.locks:
            self._require_locked(model)
        permission = self.dossiers.require(model, self.use)
        if permission.decision is not None:
            log.info("%s: %s by decision of %s", model.name, self.use, permission.decision.who)
        if permission.action is Action.WARN and model.name not in self._told:
            self._told.add(model.name)
            ruling = permission.ruling
            reason = f" {ruling.reasons[0]}" if ruling.reasons else ""
            self.notice(
                f"{model.name}, {self.use}: {ruling.outcome}.{reason} "
                f"See: freehold licence {model.reference}"
            )

    def _require_locked(self, model: LocalModel) -> None:
        manifest = manifest_of(model)
        digests = {file.sha256 for file in manifest.files}
        near = [
            lock
            for lock in self.locks
            if lock.reference == manifest.reference
            or digests & {file.sha256 for file in lock.files}
        ]
        if not near:
            raise RefusedFile(
                f"{model.name} is in none of the locks this server is held to.",
                hint="Locked are: " + ", ".join(lock.reference for lock in self.locks) + ".",
            )
        template = template_digest(model.header.chat_template)
        refusals = [refusal for lock in near if (refusal := _refusal(lock, manifest, template))]
        if len(refusals) == len(near):
            raise refusals[0]


def _refusal(lock: Lock, manifest: Manifest, template: str | None) -> RefusedFile | None:
    """Why the model is not the one that was locked; None: it is."""
    try:
        require_locked(lock, manifest.files, template)
    except RefusedFile as refusal:
        return refusal
    return None
