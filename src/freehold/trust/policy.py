"""What this machine's owner lets a verdict mean: allow, warn, or refuse.

    verdict + policy + decisions on record ──permit──► Permission

A rule for the model goes before one for a licence, and both before a rule for the verdict; where
several of one kind fit, the strictest holds. A decision on record answers the verdict it was
taken on: it lifts the refusal or the warning of a verdict, never a rule for the model or licence.
"""

from __future__ import annotations

import difflib
import enum
import fnmatch
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from freehold.domain.errors import InvalidSetting
from freehold.process.decoding import from_values
from freehold.trust.verdict import Outcome, Ruling, Use, Verdict


class Action(enum.StrEnum):
    """Ordered: the later, the stricter."""

    ALLOW = "allow"
    WARN = "warn"
    REFUSE = "refuse"


_STRICTNESS = tuple(Action)


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules for one use. ``model`` has patterns of references or hub names (``hf:acme/*``),
    ``licence`` identifiers of the licence table, ``verdict`` outcomes.
    """

    model: dict[str, Action] = {}
    licence: dict[str, Action] = {}
    verdict: dict[Outcome, Action] = {}


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``run`` is asked when a model is fetched or loaded for oneself, ``serve`` when it is loaded
    by a server that others can reach.
    """

    run: Rules = Rules()
    serve: Rules = Rules()


_DEFAULT: dict[Use, dict[Outcome, Action]] = {
    Use.RUN: {
        Outcome.OK: Action.ALLOW,
        Outcome.DUTIES: Action.ALLOW,
        Outcome.NON_COMMERCIAL: Action.WARN,
        Outcome.RESTRICTED: Action.WARN,
        Outcome.CONFLICT: Action.WARN,
        Outcome.UNKNOWN: Action.WARN,
    },
    Use.SERVE: {
        Outcome.OK: Action.ALLOW,
        Outcome.DUTIES: Action.WARN,
        Outcome.NON_COMMERCIAL: Action.WARN,
        Outcome.RESTRICTED: Action.WARN,
        Outcome.CONFLICT: Action.REFUSE,
        Outcome.UNKNOWN: Action.REFUSE,
    },
}


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody's answer to a verdict, kept in the model's lock.

    It is about one ``outcome`` reached on one ``concluded`` expression: another verdict asks
    anew. ``when`` is ISO 8601 in UTC.
    """

    use: Use
    outcome: Outcome
    concluded: str | None
    who: str
    when: str
    why: str

    def covers(self, use: Use, verdict: Verdict) -> bool:
        return (
            self.use is use
            and self.outcome is verdict.ruling(use).outcome
            and self.concluded == verdict.concluded
        )


@dataclass(frozen=True)
class Permission:
    """What the policy says to one use of one model. ``rule`` names what decided; ``decidable``:
    that was the verdict, so that somebody may answer for it.
    """

    use: Use
    action: Action
    rule: str
    verdict: Verdict
    decision: Decision | None = None
    decidable: bool = False

    @property
    def ruling(self) -> Ruling:
        return self.verdict.ruling(self.use)


def permit(
    policy: Policy, use: Use, reference: str, verdict: Verdict, decisions: Iterable[Decision] = ()
) -> Permission:
    """Pure. ``reference`` is how the model is called here."""
    rules = policy.run if use is Use.RUN else policy.serve
    named = _named(rules, reference, verdict)
    if named is not None:
        return Permission(use, *named, verdict)
    decision = next((each for each in decisions if each.covers(use, verdict)), None)
    if decision is not None:
        return Permission(use, Action.ALLOW, f"decision of {decision.who}", verdict, decision)
    outcome = verdict.ruling(use).outcome
    action = rules.verdict.get(outcome, _DEFAULT[use][outcome])
    return Permission(use, action, f"verdict {outcome}", verdict, decidable=True)


def _named(rules: Rules, reference: str, verdict: Verdict) -> tuple[Action, str] | None:
    """What the rules say of this very model, or else of its licences."""
    names = {reference, verdict.model, f"hf:{verdict.model}"}
    found = [
        (action, f"model {pattern}")
        for pattern, action in rules.model.items()
        if any(fnmatch.fnmatchcase(name, pattern) for name in names)
    ]
    found = found or [
        (action, f"licence {licence}")
        for licence, action in rules.licence.items()
        if licence in verdict.licences
    ]
    return max(found, key=lambda pair: _STRICTNESS.index(pair[0]), default=None)


_EXAMPLE = "A policy has tables [run.verdict], [serve.licence] and so on; see docs/trust.md."


def read_policy(path: Path, *, required: bool) -> Policy:
    """The policy in ``path``; the default where there is none. Raises `InvalidSetting`."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        if required:
            raise InvalidSetting(f"The policy file {path} does not exist.") from None
        return Policy()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"The policy file {path} cannot be read: {error}.") from error
    try:
        return from_values(tomllib.loads(text), Policy)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InvalidSetting(f"The policy file {path} is wrong: {error}.", hint=_EXAMPLE) from error


def require_known(policy: Policy, licences: Iterable[str]) -> None:
    """Raise `InvalidSetting` for a rule about a licence the table does not have: it would never
    hold.
    """
    known = set(licences)
    for licence in (*policy.run.licence, *policy.serve.licence):
        if licence not in known:
            near = difflib.get_close_matches(licence, known, n=1)
            raise InvalidSetting(
                f"The policy has a rule for the licence {licence!r}, which is not in the table.",
                hint=f"Did you mean {near[0]}?" if near else _EXAMPLE,
            )
