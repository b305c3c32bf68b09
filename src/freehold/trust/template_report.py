"""What a person is told of a chat template: whose it is, what is unusual, how it differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from freehold.trust.lock import KeptText, Lock
from freehold.trust.template_audit import TemplateAudit, audit, difference

_SHOWN = 8


@dataclass(frozen=True)
class TemplateReport:
    """``ancestor`` is the template of the nearest release it was made of that has one, and
    ``changes`` how this one differs from it: empty where it does not.
    """

    audit: TemplateAudit
    ancestor: KeptText | None
    changes: str

    @property
    def sentence(self) -> str:
        """Whose template it is, in a sentence."""
        official, family = self.audit.official, self.audit.family
        if self.ancestor is not None and not self.changes:
            return f"the same as at {self.ancestor.origin}"
        if official is not None and not self.audit.differs:
            return f"official, {official.published[0].published}"
        if self.ancestor is not None:
            return f"differs from {self.ancestor.origin}"
        if official is not None:
            return f"that of {official.published[0].published}, not the one of {family}"
        if self.audit.differs:
            return f"none that is published for {family}"
        return "not known"

    @property
    def worrying(self) -> tuple[str, ...]:
        """What to warn of; nothing in a template that is its publisher's own."""
        if self.ancestor is not None and not self.changes:
            return tuple(map(str, self.audit.refused))
        found = [str(finding) for finding in self.audit.suspicious]
        left = len(found) - _SHOWN
        return (*found[:_SHOWN], *([f"and {left} places more"] if left > 0 else []))

    @property
    def data(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "sha256": self.audit.sha256,
            "says": self.sentence,
            "official": self.audit.official is not None,
            "family": self.audit.family,
            "ancestor": self.ancestor.origin if self.ancestor else None,
            "differs": self.audit.differs if self.ancestor is None else bool(self.changes),
            "refused": list(map(str, self.audit.refused)),
            "reported": list(map(str, self.audit.reported)),
        }


def report(
    template: str, lock: Lock, names: tuple[str, ...], texts: Callable[[str], bytes | None]
) -> TemplateReport:
    """``names`` are what the model calls itself; ``texts`` reads what the lock has kept."""
    called = (*names, *(release.name for release in lock.releases))
    ancestor, text = _nearest(lock, texts)
    changes = "" if text is None or _same(template, text) else difference(template, text)
    return TemplateReport(audit(template, called), ancestor, changes)


def _nearest(
    lock: Lock, texts: Callable[[str], bytes | None]
) -> tuple[KeptText | None, str | None]:
    for kept in lock.templates:
        data = texts(kept.sha256)
        if data is not None:
            return kept, data.decode("utf-8", "replace")
    return None, None


def _same(template: str, other: str) -> bool:
    """But for a newline at the end, which Jinja drops."""
    return template.removesuffix("\n") == other.removesuffix("\n")
