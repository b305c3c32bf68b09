"""What vLLM would take for a model in safetensors that is here."""

from __future__ import annotations

from dataclasses import dataclass

from freehold.domain.engine import Quantization
from freehold.machine.computer import Computer
from freehold.machine.vllm_need import (
    Room,
    VllmNeed,
    cached_bytes,
    effective,
    room,
    trained_context,
    weight_bytes,
)
from freehold.machine.wishes import Wishes
from freehold.weights.checkpoint import quantisation
from freehold.weights.derived import config_of, tensors_of
from freehold.weights.library import Library
from freehold.weights.registry import Manifest


@dataclass(frozen=True)
class VllmPlan:
    """``stored`` is how its publisher quantised it, ``quantization`` what vLLM is to do. A
    ``context`` beyond ``trained`` tokens is not served.
    """

    reference: str
    context: int
    trained: int | None
    users: int
    stored: str | None
    quantization: Quantization
    need: VllmNeed
    room: Room


def plan_vllm(library: Library, manifest: Manifest, wishes: Wishes, computer: Computer) -> VllmPlan:
    """Raises `RefusedFile`."""
    settings, store = library.settings, library.store
    config = config_of(store, manifest)
    trained = trained_context(config)
    context = wishes.context or min(settings.context, trained or settings.context)
    quantization = effective(Quantization(settings.quantization), config)
    need = VllmNeed(
        weight_bytes(tensors_of(store, manifest), quantization),
        context * wishes.users * cached_bytes(config),
    )
    cards = settings.tensor_parallel * settings.pipeline_parallel
    return VllmPlan(
        reference=manifest.reference,
        context=context,
        trained=trained,
        users=wishes.users,
        stored=quantisation(config),
        quantization=quantization,
        need=need,
        room=room(need, computer, cards, wishes.memory),
    )
