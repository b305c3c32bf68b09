"""From a plan to what programs are told of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from freehold.api.sentences import shown as sentence
from freehold.api.web.plan_schema import Estimated, Measured, PlannedModel, PlanReason, PlanShown
from freehold.machine.candidates import Candidate
from freehold.machine.plan import Choice, Estimate, Exclusion, Plan, measured_speed
from freehold.machine.profile import Profile

Files = Mapping[str, Sequence[Choice | Exclusion]]


def shown(plan: Plan, others: Files) -> PlanShown:
    """``others``: by reference, the further files of a model, weighed as well."""
    computer = plan.computer
    return PlanShown(
        processor=computer.processor.name,
        cores=computer.processor.cores,
        memory_available=computer.memory.available,
        disk_available=computer.disk.available,
        calibrated=None if plan.calibration is None else plan.calibration.measured_at[:10],
        users=plan.wishes.users,
        prompt=plan.wishes.prompt,
        models=[
            *(_model(each, others) for each in plan.choices),
            *(_model(each, others) for each in plan.excluded),
        ],
    )


def _model(weighed: Choice | Exclusion, others: Files) -> PlannedModel:
    told = _choice(weighed) if isinstance(weighed, Choice) else _exclusion(weighed)
    told.files = [_model(each, {}) for each in others.get(told.model, ())]
    return told


def _choice(choice: Choice) -> PlannedModel:
    measured = choice.measured
    return PlannedModel(
        **_candidate(choice.candidate),
        fits=True,
        reasons=[],
        context=choice.context,
        memory_estimated=choice.placement.total,
        estimated=_estimated(choice.estimate),
        measured=None if measured is None else _measured(measured, choice),
    )


def _exclusion(excluded: Exclusion) -> PlannedModel:
    return PlannedModel(
        **_candidate(excluded.candidate),
        fits=False,
        reasons=[
            PlanReason(why=each.why, said=sentence(each.text), wanted=each.wanted, has=each.has)
            for each in excluded.reasons
        ],
        context=None,
        memory_estimated=None,
        estimated=None,
        measured=None,
    )


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "model": candidate.reference,
        "title": candidate.title,
        "quantisation": candidate.quantisation,
        "here": candidate.here,
        "file_bytes": candidate.size,
        "files": [],
    }


def _estimated(estimate: Estimate) -> Estimated:
    return Estimated(
        tokens_per_second=estimate.tokens_per_second,
        prefill=estimate.prefill,
        first_token=estimate.first_token,
        depth=estimate.depth,
        band=estimate.band,
        basis=sentence(estimate.basis),
    )


def _measured(profile: Profile, choice: Choice) -> Measured:
    return Measured(
        measured_at=profile.measured_at,
        tokens_per_second=measured_speed(profile, choice.sequences, choice.estimate.depth),
        prefill=profile.after.prefill,
        depth=profile.depth,
        users=profile.users,
    )
