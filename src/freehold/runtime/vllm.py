"""Which models vLLM runs, and how it is to load them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from freehold.domain.engine import Precision, Quantization
from freehold.domain.errors import InvalidReference, InvalidSetting
from freehold.domain.settings import Settings, environment
from freehold.engines.vllm import plugin
from freehold.engines.vllm.client import VllmEngine
from freehold.engines.vllm.door import Door
from freehold.engines.vllm.installation import Build, Place
from freehold.engines.vllm.launch import GIBIBYTE, VllmConfig
from freehold.engines.vllm.server import VllmServer
from freehold.machine import gpu as graphics
from freehold.machine.computer import Gpu
from freehold.machine.probe import own_instruction_sets, usable_cores
from freehold.machine.vllm_cards import Layout, Sharing
from freehold.machine.vllm_need import (
    PROCESSES,
    VllmNeed,
    effective,
    precision,
    weight_bytes,
)
from freehold.runtime.needs import cached_numbers
from freehold.runtime.planning_vllm import layout_for, set_sharing
from freehold.text.client import TextService
from freehold.text.messages import VocabularySource
from freehold.weights.derived import as_safetensors, assemble, config_of, tensors_of
from freehold.weights.library import Library, LocalModel
from freehold.weights.registry import Manifest

log = logging.getLogger(__name__)

# As GGUF numbers them.
_POOLINGS = {1: "MEAN", 2: "CLS", 3: "LAST"}


def _cards() -> tuple[Gpu, ...]:
    return graphics.nvidia(environment())


@dataclass(frozen=True)
class Vllm:
    """``named`` are the models it runs, by their references; ``door`` is how it is reached from
    where no connection can be made. ``say`` is told on which ``cards`` a model is put.
    """

    library: Library
    text: TextService
    settings: Settings
    named: frozenset[str]
    door: Door | None = None
    say: Callable[[str], None] = log.info
    cards: Callable[[], tuple[Gpu, ...]] = _cards

    @classmethod
    def of(
        cls,
        library: Library,
        text: TextService,
        settings: Settings,
        door: Door | None = None,
        say: Callable[[str], None] = log.info,
    ) -> Vllm:
        """Raises `UnknownModel` or `InvalidReference` for a name in the setting."""
        return cls(library, text, settings, run_by_vllm(library), door, say)

    def runs(self, model: LocalModel) -> bool:
        return model.reference in self.named

    def needed(self, model: LocalModel) -> int:
        """Bytes of its processes, in ordinary memory."""
        if self._found():
            return PROCESSES
        weights = as_safetensors(self.library, model)
        computed = self._precision(weights)
        if weights is None:
            size = model.header.parameter_count * computed.bytes
        else:
            tensors = tensors_of(self.library.store, weights)
            size = weight_bytes(tensors, self._quantization(weights), computed)
        return VllmNeed(size, self._cache(model, computed)).total

    def _found(self) -> tuple[Gpu, ...]:
        """The cards that what is installed can use."""
        installed = Place.of(self.settings.home).installed()
        return self.cards() if installed is not None and installed.build is Build.CUDA else ()

    def _quantization(self, weights: Manifest) -> Quantization:
        """What is to be done to them: nothing, where their publisher has."""
        config = config_of(self.library.store, weights)
        return effective(Quantization(self.settings.quantization), config)

    def _precision(self, weights: Manifest | None) -> Precision:
        """Of weights that are not here (None): what it will be once they are made."""
        config = {} if weights is None else config_of(self.library.store, weights)
        processor = None if self._found() else own_instruction_sets()
        return precision(config, Quantization(self.settings.quantization), processor)

    async def builder(
        self, model: LocalModel, source: VocabularySource
    ) -> Callable[[], VllmEngine]:
        """What makes an engine for it, again after each crash. Raises `EngineNotInstalled`,
        `InvalidSetting` where freehold is offline and that cannot be enforced, and
        `InvalidReference` for a model whose safetensors are not here.
        """
        if self.settings.offline:
            self._require_enforced(model)
        config = await asyncio.to_thread(self._config, model)
        cache = Place.of(self.settings.home).folder / "cache"

        def build() -> VllmEngine:
            server = VllmServer(config, environment(), cache, self.door)
            return VllmEngine(server, lambda: self.text.table(source))

        return build

    def _require_enforced(self, model: LocalModel) -> None:
        network = self.door.network if self.door is not None else None
        if network is None or not network.active:
            why = "nothing keeps it so here" if network is None else network.detail
            raise InvalidSetting(
                f"{model.name} is to be run by vLLM, and nothing would keep that offline: {why}.",
                hint="Leave out --offline, or allow user namespaces.",
            )

    def _config(self, model: LocalModel) -> VllmConfig:
        place = Place.of(self.settings.home)
        installed = place.require()
        weights = as_safetensors(self.library, model)
        if weights is None:
            raise InvalidReference(
                f"vLLM cannot read the weights of {model.name} as they are (GGUF).",
                hint=f"Make others of them: freehold convert {model.reference} --to safetensors",
            )
        folder = place.folder / "models" / weights.files[0].sha256[:16]
        layout = layout_for(self.library, weights, self._found())
        if layout is not None:
            self._tell(model, layout)
        computed = self._precision(weights)
        if computed is Precision.FLOAT32:
            self.say(
                f"{model.name} is computed in float32, for this processor has no AVX-512: prompts "
                "are read several times as fast as in bfloat16, for twice the memory."
            )
        sharing = layout.sharing if layout else set_sharing(self.settings) or Sharing()
        return VllmConfig(
            model=model.name,
            build=installed.build,
            python=place.python,
            weights=assemble(self.library.store, weights, folder),
            context=layout.context if layout else self._context(model),
            parallel=self.settings.parallel,
            threads=self.settings.threads or usable_cores(),
            cache_bytes=self._cache(model, computed),
            precision=computed,
            tensor_parallel=sharing.tensor,
            pipeline_parallel=sharing.pipeline,
            cards=layout.cards if layout and len(layout.cards) < layout.found else (),
            pooling=_pooling(model),
            plugin=plugin.put(place.folder / "plugin"),
            lora_slots=self.settings.lora_slots,
            quantization=self._told(weights),
        )

    def _tell(self, model: LocalModel, layout: Layout) -> None:
        trained = model.header.context_length
        of = f", of {trained:,} that it was trained for" if trained != layout.context else ""
        doubt = "" if layout.room.enough else " Going by the plan, that does not fit."
        self.say(
            f"{model.name} is put on {layout.words}, with {layout.context:,} tokens of context for "
            f"each of {self.settings.parallel}{of if trained else ''}.{doubt}"
        )

    def _told(self, weights: Manifest) -> str | None:
        quantization = self._quantization(weights)
        return None if quantization is Quantization.NONE else str(quantization)

    def _context(self, model: LocalModel) -> int:
        trained = model.header.context_length
        return min(self.settings.context, trained) if trained else self.settings.context

    def _cache(self, model: LocalModel, computed: Precision) -> int:
        """Bytes for every sequence's whole context; vLLM counts them in GiB."""
        cells = self._context(model) * self.settings.parallel
        exact = cells * cached_numbers(model.header) * computed.bytes
        return (exact // GIBIBYTE + 1) * GIBIBYTE


def run_by_vllm(library: Library) -> frozenset[str]:
    """The references that the setting names. Raises `UnknownModel` or `InvalidReference`."""
    return frozenset(str(library.reference(name)) for name in library.settings.vllm)


def open_door(settings: Settings) -> Door | None:
    """To vLLM, for a process that is about to give up making connections; None: there is no need.
    Raises `LoadFailed`.
    """
    if not settings.offline or not settings.vllm:
        return None
    return Door.open(Place.of(settings.home).python)


def _pooling(model: LocalModel) -> str | None:
    """How it embeds, in vLLM's words; None: it writes. Raises `InvalidReference`."""
    header = model.header
    stated = header.integer(f"{header.architecture}.pooling_type") or 0
    if stated == 0:
        return None
    if stated not in _POOLINGS:
        raise InvalidReference(
            f"{model.name} neither writes nor embeds, and vLLM is asked for nothing else.",
            hint="Models that rank are not run.",
        )
    return _POOLINGS[stated]
