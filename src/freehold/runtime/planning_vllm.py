"""What vLLM would take for a model in safetensors that is here, and on which cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from freehold.domain.engine import Precision, Quantization
from freehold.domain.settings import Settings
from freehold.machine.computer import Computer, Gpu, GpuKind
from freehold.machine.placement import RUNTIME
from freehold.machine.vllm_cards import Layout, Sharing, Wish, choose, shape_of
from freehold.machine.vllm_need import (
    Room,
    VllmNeed,
    cached_bytes,
    effective,
    precision,
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
    """``stored`` is how its publisher quantised it, ``quantization`` what vLLM is to do, and
    ``precision`` what it computes in. A ``context`` beyond ``trained`` tokens is not served; one of
    ``fitting`` would fit where that one does not. ``layout``: the cards it would be given; None:
    there are none, or not as many as the settings say.
    """

    reference: str
    context: int
    trained: int | None
    users: int
    stored: str | None
    quantization: Quantization
    precision: Precision
    need: VllmNeed
    room: Room
    layout: Layout | None

    @property
    def fitting(self) -> int:
        room, context = self.room, self.context
        fixed = self.need.weights + (room.cards * RUNTIME if room.cards else self.need.processes)
        empty = replace(room, needed=fixed)
        return empty.tokens((room.needed - fixed) / context) if room.needed > fixed else 0


def plan_vllm(library: Library, manifest: Manifest, wishes: Wishes, computer: Computer) -> VllmPlan:
    """Raises `RefusedFile`."""
    settings = library.settings
    config = config_of(library.store, manifest)
    quantization = effective(Quantization(settings.quantization), config)
    computed = precision(config, quantization, _processor(computer))
    wish = wish_for(library, manifest, computed, wishes.users, wishes.context)
    sharing = set_sharing(settings)
    layout = choose(wish, shape_of(config), computer.gpus, sharing)
    context = layout.context if layout is not None else wish.context
    need = VllmNeed(wish.weights, context * wishes.users * wish.cell)
    cards = (sharing or Sharing()).cards
    return VllmPlan(
        reference=manifest.reference,
        context=context,
        trained=trained_context(config),
        users=wishes.users,
        stored=quantisation(config),
        quantization=quantization,
        precision=computed,
        need=need,
        room=layout.room if layout else room(need, computer, cards, wishes.memory),
        layout=layout,
    )


def layout_for(library: Library, weights: Manifest, gpus: Sequence[Gpu]) -> Layout | None:
    """The cards that a server gives it; None: what vLLM finds. Raises `RefusedFile`."""
    settings = library.settings
    shape = shape_of(config_of(library.store, weights))
    wish = wish_for(library, weights, Precision.BFLOAT16, settings.parallel)
    return choose(wish, shape, gpus, set_sharing(settings))


def _processor(computer: Computer) -> tuple[str, ...] | None:
    """What the processor has for computing; None: cards compute."""
    cards = any(gpu.kind is GpuKind.CUDA for gpu in computer.gpus)
    return None if cards else computer.processor.instruction_sets


def wish_for(
    library: Library,
    weights: Manifest,
    computed: Precision,
    users: int,
    context: int | None = None,
) -> Wish:
    """The ``context`` asked for, or that of the settings; where they say nothing, about theirs."""
    settings, config = library.settings, config_of(library.store, weights)
    quantization = effective(Quantization(settings.quantization), config)
    trained = trained_context(config)
    usual = min(settings.context, trained or settings.context)
    free = context is None and settings.origins.get("context", "default") == "default"
    return Wish(
        weight_bytes(tensors_of(library.store, weights), quantization, computed),
        cached_bytes(config, computed),
        users,
        context or usual,
        most=(trained or usual) if free else None,
    )


def set_sharing(settings: Settings) -> Sharing | None:
    """How the settings say that cards share a model; None: they leave it to the plan."""
    if settings.tensor_parallel is None and settings.pipeline_parallel is None:
        return None
    return Sharing(settings.tensor_parallel or 1, settings.pipeline_parallel or 1)
