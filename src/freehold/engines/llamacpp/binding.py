"""Owned handles on llama.cpp: a model and its context, a batch, errors mapped.

With `text.vocabulary` the only importer of `llama_cpp`. Everything here belongs to
one thread, the one that made it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as native
import numpy as np

from freehold.domain.errors import EngineError, LoadFailed
from freehold.engines.base import EngineConfig, Kernels
from freehold.engines.llamacpp.sampling import Logits
from freehold.text.vocabulary import Vocabulary

# Tokens per llama_decode call and per micro-batch: llama.cpp's own defaults.
BATCH_TOKENS = 512


@dataclass(frozen=True)
class Entry:
    """Consecutive tokens of one sequence, from position ``start``."""

    slot: int
    start: int
    tokens: Sequence[int]
    wants_logits: bool


class Context:
    """A loaded model with a cache of ``config.parallel`` streams.

    Streams (`kv_unified` off): each sequence has ``config.context`` cells of its own, so
    one that runs cannot take room from another. Flash attention is off: with an f16 cache on
    a CPU it halves the decode speed at depth, for a fifth more at prefill.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._model = _load_model(config.paths, config.kernels)
        if native.llama_model_has_encoder(self._model):
            native.llama_model_free(self._model)
            raise LoadFailed("This model has an encoder; only decoder models can be run.")
        self.vocabulary = Vocabulary(self._model)
        trained = int(native.llama_model_n_ctx_train(self._model))
        self.context = min(config.context, trained) if trained > 0 else config.context
        parameters = native.llama_context_default_params()
        parameters.n_ctx = self.context * config.parallel
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_seq_max = config.parallel
        parameters.n_outputs_max = config.parallel
        parameters.n_threads = parameters.n_threads_batch = config.threads
        parameters.flash_attn_type = native.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.kv_unified = False
        self._context = native.llama_init_from_model(self._model, parameters)
        if not self._context:
            native.llama_model_free(self._model)
            raise LoadFailed(
                f"There is not enough memory for {config.parallel} sequences of "
                f"{self.context} tokens beside the weights.",
                hint="Load with a smaller --context or --parallel.",
            )
        self._memory = native.llama_get_memory(self._context)
        self._window = int(native.llama_model_n_swa(self._model))
        self._batch = native.llama_batch_init(BATCH_TOKENS, 0, 1)

    @property
    def description(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        native.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def decode(self, entries: Sequence[Entry]) -> list[Logits]:
        """Run the model over at most `BATCH_TOKENS` tokens.

        Returns the logits of each entry that wants them, in order; the arrays are
        views that the next call overwrites. Raises `EngineError` if llama.cpp cannot.
        """
        rows: list[int] = []
        count = 0
        batch = self._batch
        for entry in entries:
            for offset, token in enumerate(entry.tokens):
                batch.token[count] = token
                batch.pos[count] = entry.start + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = entry.slot
                batch.logits[count] = 0
                count += 1
            if entry.wants_logits:
                batch.logits[count - 1] = 1
                rows.append(count - 1)
        batch.n_tokens = count
        status = native.llama_decode(self._context, batch)
        if status != 0:
            raise EngineError(f"llama.cpp could not process a step (llama_decode said {status}).")
        size = self.vocabulary.size
        return [
            np.ctypeslib.as_array(native.llama_get_logits_ith(self._context, row), shape=(size,))
            for row in rows
        ]

    def truncate(self, slot: int, keep: int) -> int:
        """Drop what a slot holds from position ``keep`` on; returns how much could be kept.

        That is 0 where the model's memory cannot be cut there: recurrent and hybrid
        models, and a sliding window that has already moved past ``keep``.
        """
        if keep > 0 and self._window > 0:
            first = int(native.llama_memory_seq_pos_min(self._memory, slot))
            if first > max(0, keep - self._window):
                keep = 0
        if keep > 0 and native.llama_memory_seq_rm(self._memory, slot, keep, -1):
            return keep
        native.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return 0

    def close(self) -> None:
        native.llama_batch_free(self._batch)
        native.llama_free(self._context)
        native.llama_model_free(self._model)


def _load_model(paths: Sequence[str], kernels: Kernels) -> object:
    parameters = native.llama_model_default_params()
    parameters.use_extra_bufts = kernels is Kernels.FAST
    encoded = [path.encode() for path in paths]
    if len(encoded) == 1:
        model = native.llama_model_load_from_file(encoded[0], parameters)
    else:
        array = (ctypes.c_char_p * len(encoded))(*encoded)
        model = native.llama_model_load_from_splits(array, len(encoded), parameters)
    if not model:
        raise LoadFailed(f"llama.cpp cannot load {Path(paths[0]).name}.")
    return model


def system_info() -> str:
    """llama.cpp's own line about the instruction sets it was built with and found."""
    return str(native.llama_print_system_info().decode("utf-8", "replace"))
