"""A context that generates: steps, and the cache they fill."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from freehold.domain.engine import CacheLayout, CacheType
from freehold.domain.errors import EngineError, LoadFailed
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.binding.batch import BATCH_TOKENS, Batch, Entry, pointer
from freehold.engines.llamacpp.binding.model import Model
from freehold.engines.llamacpp.drafting import LONGEST as LONGEST_DRAFT
from freehold.engines.llamacpp.sampling import Logits

# Rows of logits per call. Each costs memory for a whole vocabulary; log-probabilities of prompts
# are computed in chunks of this many.
SMALLEST_OUTPUTS = 64
# Guesses that may be verified beside every sequence's own row: one long one.
DRAFT_OUTPUTS = LONGEST_DRAFT
# In a unified cache a sequence id costs nothing: so many finished sequences are kept in place.
IDLE_SEQUENCES = 64

# ggml.h has it; the bindings leave it out.
_GGML_TYPE_BF16 = 30
_CACHE_TYPES = {
    CacheType.F32: native.GGML_TYPE_F32,
    CacheType.F16: native.GGML_TYPE_F16,
    CacheType.BF16: _GGML_TYPE_BF16,
    CacheType.Q8_0: native.GGML_TYPE_Q8_0,
}
# What llama_decode returns.
_NO_ROOM, _ABORTED = 1, 2

Blob = npt.NDArray[np.uint8]


class NoRoom(Exception):
    """The cache has no cells left for this step; nothing has changed."""


class Aborted(Exception):
    """The step was given up; part of it may be in the cache."""


class NoCache(Exception):
    """The model keeps nothing between steps: it embeds, and does not generate."""


class Context:
    """A loaded model with a cache for ``config.parallel`` running sequences.

    Raises `LoadFailed`, or `NoCache` for a ``loaded`` model that can only embed.
    """

    def __init__(self, config: EngineConfig, loaded: Model | None = None) -> None:
        self.loaded = loaded or Model(config)
        self.model = self.loaded.handle
        self.vocabulary = self.loaded.vocabulary
        self.context = self.loaded.context
        self.layers = int(native.llama_model_n_layer(self.model))
        self.width = int(native.llama_model_n_embd(self.model))
        self.layout = config.cache.layout
        unified = self.layout is CacheLayout.UNIFIED
        self.cells = self.context * config.parallel
        if unified and config.cache.cells is not None:
            self.cells = max(self.context, config.cache.cells)
        self.streams = min(256, config.parallel + IDLE_SEQUENCES) if unified else config.parallel
        self.outputs = max(SMALLEST_OUTPUTS, self.streams, config.parallel + DRAFT_OUTPUTS)
        self.handle = native.llama_init_from_model(self.model, self._parameters(config))
        if not self.handle:
            self.loaded.close()
            raise LoadFailed(
                f"There is not enough memory for {config.parallel} sequences of "
                f"{self.context} tokens beside the weights.",
                hint="Load with a smaller --context or --parallel.",
            )
        # In llama_decode, all calls together.
        self.decode_seconds = 0.0
        self._memory = native.llama_get_memory(self.handle)
        if not self._memory:
            native.llama_free(self.handle)
            raise NoCache
        self._window = int(native.llama_model_n_swa(self.model))
        # In a shared pool, cells behind a sliding window may be taken by others at any time.
        self.cuttable = not (self.loaded.stateful or (unified and self._window > 0))
        self._batch = Batch(BATCH_TOKENS)
        self._abort: Callable[[], bool] | None = None
        self._native_abort = native.ggml_abort_callback(self._should_abort)
        self._no_abort = native.ggml_abort_callback()

    def _parameters(self, config: EngineConfig) -> native.llama_context_params:
        cache = config.cache
        parameters = native.llama_context_default_params()
        parameters.n_ctx = self.cells
        parameters.n_batch = BATCH_TOKENS
        parameters.n_ubatch = min(config.micro_batch, BATCH_TOKENS)
        parameters.n_seq_max = self.streams
        parameters.n_outputs_max = self.outputs
        parameters.n_threads = parameters.n_threads_batch = config.threads
        parameters.flash_attn_type = (
            native.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if cache.flash_attention
            else native.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        parameters.type_k = _CACHE_TYPES[cache.key_type]
        parameters.type_v = _CACHE_TYPES[cache.value_type]
        parameters.kv_unified = self.layout is CacheLayout.UNIFIED
        parameters.no_perf = True
        return parameters

    # Steps

    def decode(
        self, entries: Sequence[Entry], abort: Callable[[], bool] | None = None
    ) -> list[Logits]:
        """Run the model over at most `BATCH_TOKENS` tokens, in ascending order of streams.

        Returns the rows of logits that were asked for, in order; the arrays are views that
        the next call overwrites. ``abort`` is asked again and again meanwhile, at some cost: the
        step is given up when it says so. Raises `NoRoom`, `Aborted`, or `EngineError`.
        """
        rows = self._batch.fill(entries)
        self._set_abort(abort)
        began = time.monotonic()
        status = native.llama_decode(self.handle, self._batch.native)
        self.decode_seconds += time.monotonic() - began
        if status == _NO_ROOM:
            raise NoRoom
        if status == _ABORTED:
            raise Aborted
        if status != 0:
            raise EngineError(f"llama.cpp could not process a step (llama_decode said {status}).")
        size = self.vocabulary.size
        return [
            np.ctypeslib.as_array(native.llama_get_logits_ith(self.handle, row), shape=(size,))
            for row in rows
        ]

    def _set_abort(self, abort: Callable[[], bool] | None) -> None:
        if abort is None and self._abort is None:
            return
        self._abort = abort
        callback = self._native_abort if abort is not None else self._no_abort
        native.llama_set_abort_callback(self.handle, callback, None)

    def _should_abort(self, _: object) -> bool:
        return self._abort is not None and self._abort()

    # Cache

    def truncate(self, stream: int, keep: int) -> int:
        """Drop what a stream holds from position ``keep`` on; returns how much could be kept.

        That is 0 where the model's memory cannot be cut there: recurrent and hybrid
        models, and a sliding window that has already moved past ``keep``.
        """
        if keep > 0 and self._window > 0:
            first = int(native.llama_memory_seq_pos_min(self._memory, stream))
            if first > max(0, keep - self._window):
                keep = 0
        if keep > 0 and native.llama_memory_seq_rm(self._memory, stream, keep, -1):
            return keep
        native.llama_memory_seq_rm(self._memory, stream, -1, -1)
        return 0

    def copy(self, source: int, target: int, keep: int) -> int:
        """Give ``target`` the first ``keep`` tokens of ``source``; returns how many it got.

        In a unified cache they share the cells. Between streams the used part is copied through
        host memory: llama.cpp's own copy would move the whole of both streams.
        """
        native.llama_memory_seq_rm(self._memory, target, -1, -1)
        if self.layout is CacheLayout.UNIFIED:
            native.llama_memory_seq_cp(
                self._memory, source, target, 0, keep if self.cuttable else -1
            )
            return self.truncate(target, keep)
        return self.restore(target, self.save(source), keep)

    def save(self, stream: int) -> Blob:
        """All that a stream holds, in host memory."""
        size = native.llama_state_seq_get_size(self.handle, stream)
        blob = np.empty(size, dtype=np.uint8)
        written = native.llama_state_seq_get_data(self.handle, bytes_of(blob), size, stream)
        return blob[:written]

    def saved_size(self, stream: int) -> int:
        """Bytes that `save` would return."""
        return int(native.llama_state_seq_get_size(self.handle, stream))

    def restore(self, stream: int, blob: Blob, keep: int) -> int:
        """Put the first ``keep`` saved tokens into a stream; returns how many it has now."""
        native.llama_memory_seq_rm(self._memory, stream, -1, -1)
        if not native.llama_state_seq_set_data(self.handle, bytes_of(blob), len(blob), stream):
            native.llama_memory_seq_rm(self._memory, stream, -1, -1)
            return 0
        return self.truncate(stream, keep)

    def held(self, stream: int) -> int:
        """How many positions a stream holds, as llama.cpp counts them."""
        return int(native.llama_memory_seq_pos_max(self._memory, stream)) + 1

    # Adapters

    def load_lora(self, path: str) -> object:
        """A LoRA adapter of this model, ready to be set. Raises `LoadFailed`."""
        handle = native.llama_adapter_lora_init(self.model, path.encode())
        if not handle:
            raise LoadFailed(
                f"llama.cpp cannot apply {path} to this model.",
                hint="Was it made for another model?",
            )
        return handle

    def free_lora(self, handle: object) -> None:
        native.llama_adapter_lora_free(handle)

    def set_loras(self, loras: Sequence[tuple[object, float]]) -> None:
        """Put these adapters in force, each at its scale, and no others."""
        handles = (native.llama_adapter_lora_p_ctypes * len(loras))(*[h for h, _ in loras])
        scales = (ctypes.c_float * len(loras))(*[scale for _, scale in loras])
        native.llama_set_adapters_lora(self.handle, handles, len(loras), scales)

    def set_control(self, directions: npt.NDArray[np.float32] | None) -> None:
        """Add a row to each layer's output, from the second layer on; None: add nothing."""
        if directions is None:
            native.llama_set_adapter_cvec(self.handle, None, 0, 0, 0, 0)
            return
        layers, width = directions.shape
        data = pointer(directions, ctypes.c_float)
        native.llama_set_adapter_cvec(self.handle, data, directions.size, width, 1, layers)

    def close(self) -> None:
        native.llama_free(self.handle)
        self.loaded.close()


def bytes_of(blob: Blob) -> Any:
    return pointer(blob, ctypes.c_uint8)
