"""Which models vLLM runs, and how it is to load them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from freehold.domain.errors import InvalidReference, InvalidSetting
from freehold.domain.settings import Settings, environment
from freehold.engines.vllm.client import VllmEngine
from freehold.engines.vllm.installation import Place
from freehold.engines.vllm.launch import GIBIBYTE, VllmConfig
from freehold.engines.vllm.server import VllmServer
from freehold.machine.probe import usable_cores
from freehold.runtime.needs import cached_numbers
from freehold.text.client import TextService
from freehold.text.messages import VocabularySource
from freehold.weights.derived import as_safetensors, assemble
from freehold.weights.library import Library, LocalModel

# vLLM's processes without weights and cache, and what PyTorch adds while it loads; measured with
# the CPU build and a model of 0.5 billion parameters.
_PROCESSES = 3 * GIBIBYTE
_BF16 = 2


@dataclass(frozen=True)
class Vllm:
    """``named`` are the models it runs, by their references."""

    library: Library
    text: TextService
    settings: Settings
    named: frozenset[str]

    @classmethod
    def of(cls, library: Library, text: TextService, settings: Settings) -> Vllm:
        """Raises `UnknownModel` or `InvalidReference` for a name in the setting."""
        named = frozenset(str(library.reference(name)) for name in settings.vllm)
        return cls(library, text, settings, named)

    def runs(self, model: LocalModel) -> bool:
        return model.reference in self.named

    def needed(self, model: LocalModel) -> int:
        """Bytes of its processes."""
        weights = as_safetensors(self.library, model)
        size = weights.size if weights is not None else model.header.parameter_count * _BF16
        return size + self._cache(model) + _PROCESSES

    async def builder(
        self, model: LocalModel, source: VocabularySource
    ) -> Callable[[], VllmEngine]:
        """What makes an engine for it, again after each crash. Raises `EngineNotInstalled`,
        `InvalidSetting` where freehold is offline, and `InvalidReference` for a model whose
        safetensors are not here.
        """
        if self.settings.offline:
            raise InvalidSetting(
                f"{model.name} is to be run by vLLM, and an offline server makes no connections, "
                "not even to vLLM on this machine.",
                hint="Leave out --offline: vLLM has a network of its own, with only loopback.",
            )
        config = await asyncio.to_thread(self._config, model)
        cache = Place.of(self.settings.home).folder / "cache"

        def build() -> VllmEngine:
            server = VllmServer(config, environment(), cache)
            return VllmEngine(server, lambda: self.text.table(source))

        return build

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
        return VllmConfig(
            model=model.name,
            build=installed.build,
            python=place.python,
            weights=assemble(self.library.store, weights, folder),
            context=self._context(model),
            parallel=self.settings.parallel,
            threads=self.settings.threads or usable_cores(),
            cache_bytes=self._cache(model),
            tensor_parallel=self.settings.tensor_parallel,
            pipeline_parallel=self.settings.pipeline_parallel,
        )

    def _context(self, model: LocalModel) -> int:
        trained = model.header.context_length
        return min(self.settings.context, trained) if trained else self.settings.context

    def _cache(self, model: LocalModel) -> int:
        """Bytes for every sequence's whole context; vLLM counts them in GiB."""
        cells = self._context(model) * self.settings.parallel
        exact = cells * cached_numbers(model.header) * _BF16
        return (exact // GIBIBYTE + 1) * GIBIBYTE
