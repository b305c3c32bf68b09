"""A plan in words and as data. Estimates and measured values never share a column or a key."""

from __future__ import annotations

import dataclasses
from typing import Any

import click
import msgspec

from freehold.cli.common import print_table
from freehold.machine.candidates import Candidate
from freehold.machine.computer import Computer
from freehold.machine.explain import Explanation
from freehold.machine.footprint import Footprint
from freehold.machine.plan import (
    READING_SPEED,
    Choice,
    Exclusion,
    Given,
    Plan,
    Reason,
    gigabytes,
    measured_speed,
)
from freehold.machine.profile import Profile
from freehold.machine.wishes import Wishes
from freehold.trust.verdict import Use

# Words


def print_plan(plan: Plan) -> None:
    click.echo(machine_line(plan.computer))
    click.echo(_workload(plan.wishes))
    click.echo("")
    if plan.choices:
        print_table(
            (
                *("MODEL", "FILE", "CONTEXT", "MEMORY (EST.)", "TOKENS/S (EST.)"),
                *("FIRST TOKEN (EST.)", "TOKENS/S (MEASURED)", "RUN", "SERVE", ""),
            ),
            map(_row, plan.choices),
        )
        click.echo("")
        click.echo(_basis(plan))
        readable = plan.readable
        if readable is not None:
            click.echo(
                f"The best that should write as fast as one reads ({READING_SPEED:g} tokens/s): "
                f"{readable.candidate.reference}."
            )
    else:
        click.echo("No model that is known fits.")
    if plan.excluded:
        click.echo("")
        print_table(
            ("DOES NOT FIT", "FILE", "WHY"),
            (
                (
                    each.candidate.reference,
                    each.candidate.quantisation or "",
                    " ".join(reason.text for reason in each.reasons),
                )
                for each in plan.excluded
            ),
        )


def machine_line(computer: Computer) -> str:
    memory, processor = computer.memory, computer.processor
    limit = f" (limited by {memory.limited_by})" if memory.limited_by else ""
    cards = (
        f"{gpu.name}, {gigabytes(gpu.available)} of {gigabytes(gpu.total)} available"
        for gpu in computer.gpus
    )
    return "; ".join(
        (
            f"{processor.cores} cores of {processor.name}",
            f"{gigabytes(memory.available)} of {gigabytes(memory.total)} memory available{limit}",
            *cards,
            f"{gigabytes(computer.disk.available)} of disk",
        )
    )


def _workload(wishes: Wishes) -> str:
    users = "one user" if wishes.users == 1 else f"{wishes.users} users at the same time"
    return f"For {users}, with prompts of {wishes.prompt:,} tokens."


def _row(choice: Choice) -> tuple[str, ...]:
    candidate, estimate = choice.candidate, choice.estimate
    return (
        candidate.reference,
        candidate.quantisation or "",
        f"{choice.context:,}",
        gigabytes(choice.placement.total),
        f"{_rounded(estimate.tokens_per_second)} ± {estimate.band:.0%}",
        f"{_rounded(estimate.first_token)} s ± {estimate.band:.0%}",
        _measured(choice),
        *(_outcome(candidate, use) for use in (Use.RUN, Use.SERVE)),
        _remark(choice),
    )


def _rounded(value: float) -> str:
    """Two digits that count, without an exponent."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _outcome(candidate: Candidate, use: Use) -> str:
    return candidate.outcomes[use] if candidate.outcomes else "not judged"


def _measured(choice: Choice) -> str:
    profile = choice.measured
    if profile is None:
        return "-"
    speed = measured_speed(profile, choice.sequences, choice.estimate.depth)
    return "-" if speed is None else f"{_rounded(speed)} ({profile.date})"


def _remark(choice: Choice) -> str:
    words = ["here"] if choice.candidate.here else []
    if choice.candidate.distillate_of:
        words.append(f"distilled from {choice.candidate.distillate_of}")
    placed = choice.placement
    if placed.cards:
        words.append(f"{placed.offloaded} of {placed.layers} layers on cards")
    if choice.vllm:
        words.append(choice.vllm)
    return "; ".join(words)


def _basis(plan: Plan) -> str:
    calibration = plan.calibration
    if calibration is None:
        return (
            "Speeds are from nameplates, not from this machine; `freehold plan --calibrate` "
            "measures it (half a minute)."
        )
    return (
        f"Speeds are predicted from this machine's calibration of {calibration.measured_at[:10]}: "
        f"{calibration.bandwidth / 1e9:.1f} GB/s from memory."
    )


def not_known(candidate: Candidate) -> str:
    """What can be said of a model whose architecture is not known."""
    size = f" Its weights are {gigabytes(candidate.size)}." if candidate.size else ""
    return f"{candidate.reference}: {candidate.unknown}{size}"


def print_explanation(explained: Explanation, given: Given) -> None:
    candidate, needs = explained.candidate, explained.needs
    users, anatomy = given.wishes.users, candidate.anatomy
    if needs is None or anatomy is None:
        raise AssertionError("an unknown architecture is refused before")
    about = "" if anatomy.exact else " (estimated from its catalogue row)"
    click.echo(f"{candidate.reference}: {candidate.title}, {candidate.quantisation or 'unknown'}")
    click.echo(machine_line(given.computer))
    click.echo("")
    parts = (
        ("weights", needs.weights, f"{anatomy.parameters / 1e9:,.2f} billion{about}"),
        ("repacked copy", needs.repacked, "of weights the processor wants in another order"),
        ("cache", needs.cache, _cache_words(explained, needs, users)),
        ("state", needs.state, "of recurrent layers, whatever the context"),
        ("buffers", needs.compute + needs.outputs, "of a step's results"),
        ("process", needs.vocabulary + needs.process, "with its vocabulary"),
        ("in all", needs.total, ""),
    )
    rows = ((name, gigabytes(count), words) for name, count, words in parts if count)
    print_table(("MEMORY (ESTIMATED)", "", ""), rows)
    if given.cache.host_bytes:
        click.echo(
            f"Beside it, up to {gigabytes(given.cache.host_bytes)} of prefixes of finished "
            "conversations in the course of time (the setting prefix_memory)."
        )
    click.echo("")
    click.echo(_verdict(explained, given))
    click.echo(_reach(explained, users))


def _cache_words(explained: Explanation, needs: Footprint, users: int) -> str:
    sequence = gigabytes(explained.cache_per_sequence)
    words = f"{needs.cache_per_token / 1e3:,.1f} kB a token, {sequence} for {explained.context:,}"
    return words if users == 1 else f"{words}, {users} times"


def _verdict(explained: Explanation, given: Given) -> str:
    weighed = explained.weighed
    if isinstance(weighed, Exclusion):
        return "It does not fit: " + " ".join(reason.text for reason in weighed.reasons)
    estimate, placed = weighed.estimate, weighed.placement
    lines = [f"It fits: {gigabytes(placed.host)} of {gigabytes(given.memory)} of memory."]
    lines += [
        f"{card.name}: {card.layers} of {placed.layers} layers, {gigabytes(card.needed)} of "
        f"{gigabytes(card.available)}."
        for card in placed.cards
    ]
    lines.append(
        f"Estimated: {_rounded(estimate.tokens_per_second)} tokens/s each, prompts at "
        f"{_rounded(estimate.prefill)} tokens/s, the first token after "
        f"{_rounded(estimate.first_token)} s; within {estimate.band:.0%}. Basis: {estimate.basis}."
    )
    if weighed.measured is not None:
        lines.append(_measured_line(weighed.measured))
    if weighed.vllm:
        lines.append(weighed.vllm)
    return "\n".join(lines)


def _measured_line(profile: Profile) -> str:
    after = profile.after
    return (
        f"Measured on {profile.date}, build {profile.build[:12]}: {_rounded(after.empty)} tokens/s "
        f"in an empty context, {_rounded(after.deep)} behind {profile.depth:,} tokens, "
        f"{_rounded(after.many)} with {profile.users} together; prompts at "
        f"{_rounded(after.prefill)} tokens/s."
    )


def _reach(explained: Explanation, users: int) -> str:
    each = "" if users == 1 else f" for each of {users} users"
    longest = (
        f"The largest context that fits: {explained.largest_context:,} tokens{each}."
        if explained.largest_context
        else "No context fits."
    )
    most = f" Users that fit at {explained.context:,} tokens each: {explained.most_users}."
    return longest + most


# Data


def plan_data(plan: Plan) -> dict[str, Any]:
    return {
        "computer": msgspec.to_builtins(plan.computer),
        "wishes": _wishes(plan.wishes),
        "calibration": msgspec.to_builtins(plan.calibration),
        "readable": plan.readable.candidate.reference if plan.readable else None,
        "choices": [_choice(choice) for choice in plan.choices],
        "excluded": [_exclusion(each) for each in plan.excluded],
    }


def explanation_data(explained: Explanation, given: Given) -> dict[str, Any]:
    weighed = explained.weighed
    return {
        "computer": msgspec.to_builtins(given.computer),
        "wishes": _wishes(given.wishes),
        "context": explained.context,
        "memory_estimated": _footprint(explained.needs) if explained.needs else None,
        "cache_per_sequence": explained.cache_per_sequence,
        "prefixes_at_most": given.cache.host_bytes,
        "largest_context": explained.largest_context,
        "most_users": explained.most_users,
        "choice": _choice(weighed) if isinstance(weighed, Choice) else None,
        "excluded": _exclusion(weighed) if isinstance(weighed, Exclusion) else None,
    }


def _wishes(wishes: Wishes) -> dict[str, Any]:
    return {**msgspec.to_builtins(wishes), "uses": sorted(wishes.uses)}


def _candidate(candidate: Candidate) -> dict[str, Any]:
    quality = candidate.quality
    return {
        "model": candidate.reference,
        "title": candidate.title,
        "quantisation": candidate.quantisation,
        "file_size": candidate.size,
        "here": candidate.here,
        "distillate_of": candidate.distillate_of,
        "tasks": list(candidate.tasks),
        "licence": {use: _outcome(candidate, use) for use in Use},
        "quality": msgspec.to_builtins(quality) if quality else None,
    }


def _choice(choice: Choice) -> dict[str, Any]:
    placed, anatomy = choice.placement, choice.candidate.anatomy
    return {
        **_candidate(choice.candidate),
        "engine": "llama.cpp",
        "settings": {
            "context": choice.context,
            "parallel": choice.sequences,
            "layers_on_cards": placed.offloaded,
            "layers": placed.layers,
            **msgspec.to_builtins(choice.settings),
        },
        "memory_estimated": {
            **_footprint(choice.footprint),
            "exact_shapes": anatomy is not None and anatomy.exact,
            "on_host": placed.host,
            "on_cards": msgspec.to_builtins(placed.cards),
        },
        "estimated": dataclasses.asdict(choice.estimate),
        "measured": _profile(choice.measured) if choice.measured else None,
        "vllm": choice.vllm,
    }


def _footprint(needs: Footprint) -> dict[str, int]:
    parts: dict[str, int] = {**msgspec.to_builtins(needs), "total": needs.total}
    del parts["layers"]
    return parts


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "measured_at": profile.measured_at,
        "build": profile.build,
        "depth": profile.depth,
        "users": profile.users,
        "tokens_per_second": msgspec.to_builtins(profile.after),
    }


def _exclusion(each: Exclusion) -> dict[str, Any]:
    return {**_candidate(each.candidate), "reasons": [_reason(reason) for reason in each.reasons]}


def _reason(reason: Reason) -> dict[str, Any]:
    return {
        "why": reason.why,
        "text": reason.text,
        "wanted": reason.wanted,
        "has": reason.has,
    }
