"""What `freehold plan` says of one model that vLLM runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import click
import msgspec

from freehold.cli.common import print_table
from freehold.cli.plan_words import machine_line
from freehold.domain.engine import Precision, Quantization
from freehold.machine.computer import Computer
from freehold.machine.plan import gigabytes
from freehold.machine.vllm_cards import Layout
from freehold.machine.vllm_need import SHARE
from freehold.runtime.planning_vllm import VllmPlan


def show(plan: VllmPlan, computer: Computer) -> None:
    need = plan.need
    click.echo(f"{plan.reference}: in safetensors, which vLLM runs and llama.cpp does not")
    click.echo(machine_line(computer))
    click.echo("")
    rows = (
        ("weights", gigabytes(need.weights), _weights(plan)),
        ("cache", gigabytes(need.cache), _cache(plan)),
        ("processes", gigabytes(need.processes), "as seen with the CPU build and a small model"),
        ("in all", gigabytes(need.total), ""),
    )
    print_table(("MEMORY (ESTIMATED)", "", ""), rows)
    click.echo("")
    if plan.layout is not None:
        click.echo(f"Cards: {plan.layout.words}.")
    click.echo(_verdict(plan))
    click.echo(
        "Its speed is not estimated: with the model under vllm in freehold.toml, "
        f"`freehold bench {plan.reference}` measures it."
    )


def _weights(plan: VllmPlan) -> str:
    if plan.stored is not None:
        return f"as they were quantised: {plan.stored}"
    if plan.precision is Precision.FLOAT32:
        return "32 bits each: without AVX-512, a processor is several times as slow with 16"
    if plan.quantization is Quantization.NONE:
        return "16 bits each"
    return f"{plan.quantization}, while they are loaded (the setting quantization)"


def _cache(plan: VllmPlan) -> str:
    less = plan.trained is not None and plan.context < plan.trained
    trained = f", of {plan.trained:,} that it was trained for" if less else ""
    times = "" if plan.users == 1 else f", {plan.users} times"
    return f"for {plan.context:,} tokens{trained}{times}"


def _verdict(plan: VllmPlan) -> str:
    room = plan.room
    where = f"{room.cards} cards" if room.cards > 1 else "the card" if room.cards else "memory"
    numbers = f"{gigabytes(room.needed)} of {gigabytes(room.available)} of {where}"
    if plan.trained is not None and plan.context > plan.trained:
        return f"It was trained for {plan.trained:,} tokens of context, not {plan.context:,}."
    if room.enough:
        return f"It fits: {numbers}."
    if not room.available:
        return (
            f"It does not fit: vLLM takes {SHARE:.0%} of a card's memory, and starts on none where "
            "less is free."
        )
    shorter = f" With --context {plan.fitting} it would." if plan.fitting else ""
    return f"It does not fit: it needs {numbers}.{shorter}"


def data(plan: VllmPlan, computer: Computer) -> dict[str, Any]:
    need, room = plan.need, plan.room
    return {
        "computer": msgspec.to_builtins(computer),
        "engine": "vllm",
        "reference": plan.reference,
        "context": plan.context,
        "context_trained": plan.trained,
        "users": plan.users,
        "quantisation": plan.stored,
        "quantization": str(plan.quantization),
        "precision": str(plan.precision),
        "memory_estimated": {**dataclasses.asdict(need), "total": need.total},
        "room": {**dataclasses.asdict(room), "enough": room.enough},
        "cards": None if plan.layout is None else _cards(plan.layout),
    }


def _cards(layout: Layout) -> dict[str, Any]:
    return {
        "name": layout.name,
        "numbers": layout.cards,
        "found": layout.found,
        "tensor_parallel": layout.sharing.tensor,
        "pipeline_parallel": layout.sharing.pipeline,
        "why": layout.words,
    }
