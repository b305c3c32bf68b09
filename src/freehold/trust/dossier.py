"""The dossier of a model: its lock, the verdict on it, and what the policy makes of that.

    lock in the store? ── no ──► what header, catalogue and manifest say, asking nobody
          │ yes                              │
          └────────────── releases ──────────┴──► judge ──► verdict ──► permit

The lock is written when a model is fetched (`acquire`) or when somebody asks for it.
"""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from freehold.domain.errors import InvalidLock, LicenceRefused
from freehold.domain.settings import default_policy
from freehold.trust import licences, overrides
from freehold.trust.background import background
from freehold.trust.facts import Evidence, Rank, Relation, Release
from freehold.trust.gather import Ask, Gathered, gather
from freehold.trust.judge import judge
from freehold.trust.lock import Lock, lock_of, with_decision
from freehold.trust.locks import Locks, Texts
from freehold.trust.policy import (
    Action,
    Decision,
    Permission,
    Policy,
    permit,
    read_policy,
    require_known,
)
from freehold.trust.statements import merged, of_header, of_row
from freehold.trust.verdict import Use, Verdict
from freehold.weights.catalog import Catalog
from freehold.weights.gguf_header import GgufHeader
from freehold.weights.library import Library, LocalModel, now
from freehold.weights.reference import HubReference, NameReference, Reference, parse
from freehold.weights.registry import Manifest

if TYPE_CHECKING:
    from freehold.trust.template_report import TemplateReport

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dossier:
    """``kept`` tells whether the lock is in the store; ``notes`` what could not be asked."""

    lock: Lock
    verdict: Verdict
    kept: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dossiers:
    """Of every model of one library, under one policy."""

    library: Library
    policy: Policy

    @classmethod
    def open(cls, library: Library) -> Dossiers:
        """With the policy that the library's settings name. Raises `InvalidSetting`."""
        named = library.settings.policy
        policy = read_policy(named or default_policy(), required=named is not None)
        require_known(policy, (row.id for row in licences.bundled().rows))
        return cls(library, policy)

    @property
    def locks(self) -> Locks:
        return Locks(self.library.store.home)

    @property
    def texts(self) -> Texts:
        return Texts(self.library.store.home)

    def of(self, model: LocalModel) -> Dossier:
        """Asks nobody. Raises `InvalidLock`."""
        manifest = manifest_of(model)
        lock = self.locks.get(manifest.reference)
        if lock is not None and _same_files(lock, manifest):
            return Dossier(lock, self.judge(lock.releases), kept=True)
        made = _made(model, self._gathered(model, None), lock)
        notes = tuple(_namesake(self.library.catalog, model))
        return Dossier(made, self.judge(made.releases), kept=False, notes=notes)

    def keep(self, model: LocalModel, ask: Ask | None) -> Dossier:
        """Collect the facts anew, asking ``ask``, and write the lock and the licence texts.

        Decisions on record stay, unless the lock they stood in is damaged.
        """
        before = self._readable(manifest_of(model).reference)
        gathered = self._gathered(model, ask)
        for text, data in (*gathered.texts, *gathered.templates):
            if self.texts.put(data) != text.sha256:
                raise AssertionError("a text changed in our hands")
        lock = _made(model, gathered, before)
        self.locks.put(lock)
        verdict = self.judge(lock.releases)
        return Dossier(lock, verdict, kept=True, notes=gathered.notes)

    def preview(self, reference: Reference, ask: Ask | None) -> tuple[Verdict, tuple[str, ...]]:
        """The verdict on a model that is not here, and what could not be asked."""
        known, commit = known_of_reference(self.library, reference)
        gathered = gather([*known, *background(self.library.catalog)], commit, ask)
        return self.judge(gathered.releases), gathered.notes

    def previews(self, references: Iterable[Reference]) -> list[Verdict]:
        """Of models that are not here, for a listing: asks nobody."""
        behind = background(self.library.catalog)
        known = (known_of_reference(self.library, reference) for reference in references)
        return [
            self.judge(gather([*said, *behind], commit, None).releases) for said, commit in known
        ]

    def template(self, model: LocalModel, dossier: Dossier) -> TemplateReport | None:
        """What can be said of its chat template; None: it has none."""
        template = model.header.chat_template
        if template is None:
            return None
        # Imported only now: it brings Jinja's parser, and a listing needs none.
        from freehold.trust.template_report import report  # noqa: PLC0415

        own = (model.header.text("general.name"), model.header.text("general.basename"))
        names = (*(name for name in own if name), dossier.lock.reference)
        return report(template, dossier.lock, names, self.texts.get)

    def judge(self, releases: tuple[Release, ...]) -> Verdict:
        """Today's verdict on facts; the first release is the model."""
        by_name = {release.name: release for release in releases}
        return judge(releases[0].name, by_name, licences.bundled(), overrides.bundled())

    def verdicts(self, manifests: Iterable[Manifest]) -> list[Verdict]:
        """Of models in the store, for a listing: opens no file of weights, so a header counts
        only where the lock has it.
        """
        return [self._listed(manifest) for manifest in manifests]

    def _listed(self, manifest: Manifest) -> Verdict:
        lock = self._readable(manifest.reference)
        if lock is not None and _same_files(lock, manifest):
            return self.judge(lock.releases)
        known, commit = known_of(self.library, manifest.files[0].sha256, manifest)
        known += background(self.library.catalog)
        return self.judge(gather(known, commit, None).releases)

    def _readable(self, reference: str) -> Lock | None:
        """The lock, if there is one that can be believed; a damaged one is named in the log."""
        try:
            return self.locks.get(reference)
        except InvalidLock as error:
            log.warning("%s", error)
            return None

    # What may be done

    def permission(self, model: LocalModel, use: Use) -> Permission:
        dossier = self.of(model)
        return permit(
            self.policy, use, dossier.lock.reference, dossier.verdict, dossier.lock.decisions
        )

    def require(self, model: LocalModel, use: Use) -> Permission:
        """Raise `LicenceRefused` where the policy refuses this use of the model."""
        return required(self.permission(model, use), model.reference)

    def decide(self, model: LocalModel, use: Use, why: str) -> Dossier:
        """Record that somebody has looked at the verdict and answers for this use."""
        dossier = self.of(model)
        decision = Decision(
            use=use,
            outcome=dossier.verdict.ruling(use).outcome,
            concluded=dossier.verdict.concluded,
            who=getpass.getuser(),
            when=now(),
            why=why,
        )
        lock = with_decision(dossier.lock, decision)
        self.locks.put(lock)
        return dataclasses.replace(dossier, lock=lock, kept=True)

    # Facts

    def _gathered(self, model: LocalModel, ask: Ask | None) -> Gathered:
        known, commit = known_of(self.library, model.digest, model.manifest, model.name)
        gathered = gather([*known, *background(self.library.catalog)], commit, ask)
        releases = with_header(gathered.releases, model.header)
        return dataclasses.replace(gathered, releases=releases)


def _made(model: LocalModel, found: Gathered, before: Lock | None) -> Lock:
    """A lock of what was found, with the decisions of the one before."""
    lock = lock_of(
        manifest_of(model),
        template=model.header.chat_template,
        releases=found.releases,
        texts=tuple(text for text, _ in found.texts),
        templates=tuple(text for text, _ in found.templates),
    )
    for decision in before.decisions if before is not None else ():
        lock = with_decision(lock, decision)
    return lock


def required(permission: Permission, reference: str) -> Permission:
    """Raise `LicenceRefused` if it is refused."""
    if permission.action is not Action.REFUSE:
        return permission
    ruling, use = permission.ruling, permission.use
    doing = "Running" if use is Use.RUN else "Serving to other machines"
    reason = f" {ruling.reasons[0]}" if ruling.reasons else ""
    hint = f"Read `freehold licence {reference}`; "
    if permission.decidable:
        hint += (
            "if you answer for it, put that on record with: "
            f"freehold licence {reference} --accept {use} --why REASON"
            f" (before it is here: freehold pull {reference} --accept REASON)"
        )
    else:
        hint += "the rule stands in the policy file (docs/trust.md)."
    raise LicenceRefused(
        f"{doing} {reference} is refused by {permission.rule}: {ruling.outcome}.{reason}",
        hint=hint,
        values={
            "model": reference,
            "use": str(use),
            "outcome": str(ruling.outcome),
            "rule": permission.rule,
        },
    )


def manifest_of(model: LocalModel) -> Manifest:
    """Of a file outside the store: one made up, under its digest, of when it was last written."""
    if model.manifest is not None:
        return model.manifest
    written = datetime.datetime.fromtimestamp(model.paths[0].stat().st_mtime, datetime.UTC)
    return Manifest(
        reference=f"sha256:{model.digest}",
        files=model.files,
        origin="a file on this machine",
        fetched_at=written.isoformat(timespec="seconds"),
        tool_version=version("freehold"),
    )


def known_of(
    library: Library, digest: str, manifest: Manifest | None, name: str = "a file"
) -> tuple[list[Release], str | None]:
    """What the catalogue and the manifest say of a model that is here, and its commit."""
    listed = library.catalog.with_digest(digest)
    if listed is not None:
        known = [*of_row(*listed)]
        same = manifest is not None and (listed[1].repository or "-") in manifest.origin
        return known, manifest.revision if manifest is not None and same else listed[1].revision
    if manifest is None:
        return [Release(name)], None
    known, commit = known_of_reference(library, parse(manifest.reference), pinned=False)
    if manifest.licence is not None and manifest.licence_source == manifest.origin:
        stated = Evidence(Rank.CARD, manifest.origin, manifest.licence)
        said = Release(known[0].name, (stated,), manifest.revision, manifest.base_models)
        known[0] = merged(known[0], said)
    return known, manifest.revision or commit


def known_of_reference(
    library: Library, reference: Reference, *, pinned: bool = True
) -> tuple[list[Release], str | None]:
    """What the catalogue says of a reference. ``pinned`` False: of a model whose bytes are not
    those the catalogue has, so that only an unpinned row can be meant.
    """
    if isinstance(reference, HubReference):
        return [Release(reference.repository)], reference.revision
    row = library.row(reference)
    if isinstance(reference, NameReference) and row is not None:
        file = row.default_file
        if pinned or file is None or file.sha256 is None:
            return [*of_row(row, file)], file.revision if file is not None else None
    return [Release(str(reference))], None


def with_header(releases: tuple[Release, ...], header: GgufHeader) -> tuple[Release, ...]:
    """Add what the file itself says. A conversion's header speaks of the model it was made of."""
    first = releases[0]
    index = 0
    if first.relation is Relation.QUANTIZED and len(first.parents) == 1:
        names = [release.name for release in releases]
        index = names.index(first.parents[0]) if first.parents[0] in names else 0
    target = releases[index]
    said = of_header(target.name, header)
    if target.parents:
        said = Release(said.name, said.evidence)
    return (*releases[:index], merged(target, said), *releases[index + 1 :])


def _namesake(catalog: Catalog, model: LocalModel) -> Iterator[str]:
    """A hint for a file that nobody fetched by a name: its header may say what it should be."""
    name = model.header.text("general.name")
    if model.manifest is not None or name is None or catalog.with_digest(model.digest):
        return
    for row in catalog.models:
        if _letters(row.title) == _letters(name):
            yield (
                f"{model.name} calls itself {name!r}, as {row.reference} of the catalogue does. "
                f"That proves nothing; `freehold pull {row.reference}` fetches the real one."
            )


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _same_files(lock: Lock, manifest: Manifest) -> bool:
    return [file.sha256 for file in lock.files] == [file.sha256 for file in manifest.files]
