"""Owned handles on llama.cpp: a model, the contexts over it, a batch, errors mapped.

With `text.vocabulary` the only importer of `llama_cpp`. Everything here belongs to
one thread, the one that made it.
"""

from __future__ import annotations

import ctypes
import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from freehold.domain.errors import EngineError, LoadFailed
from freehold.engines.base import CacheLayout, CacheType, EngineConfig, Kernels
from freehold.engines.llamacpp.drafting import LONGEST as LONGEST_DRAFT
from freehold.engines.llamacpp.sampling import Logits
from freehold.engines.llamacpp.tokens import TokenArray
from freehold.text.vocabulary import Vocabulary

# Tokens per llama_decode call and per micro-batch: llama.cpp's own default for the latter.
BATCH_TOKENS = 512
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
Vector = npt.NDArray[np.float32]


class NoRoom(Exception):
    """The cache has no cells left for this step; nothing has changed."""


class Aborted(Exception):
    """The step was given up; part of it may be in the cache."""


class NoCache(Exception):
    """The model keeps nothing between steps: it embeds, and does not generate."""


@dataclass(frozen=True, eq=False)
class Entry:
    """Consecutive tokens of one sequence, from position ``start``.

    The last ``outputs`` of them want logits.
    """

    stream: int
    start: int
    tokens: TokenArray
    outputs: int


class Pooling(enum.Enum):
    """How the vectors of a text's tokens become one; the values are llama.cpp's."""

    MEAN = 1
    CLS = 2
    LAST = 3


class Model:
    """Loaded weights and their vocabulary; contexts are made over them.

    ``context`` is how many tokens a sequence may have: never more than the model was trained for.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.handle = _load_model(config.paths, config.kernels)
        if native.llama_model_has_encoder(self.handle):
            native.llama_model_free(self.handle)
            raise LoadFailed("This model has an encoder; only decoder models can be run.")
        self.vocabulary = Vocabulary(self.handle)
        trained = int(native.llama_model_n_ctx_train(self.handle))
        self.context = min(config.context, trained) if trained > 0 else config.context

    @property
    def stateful(self) -> bool:
        """Whether a sequence has a state of fixed size, rather than cells by its length."""
        ask = (native.llama_model_is_recurrent, native.llama_model_is_hybrid)
        return any(of(self.handle) for of in ask)

    @property
    def description(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        native.llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def pooling(self, *, cached: bool) -> Pooling | None:
        """As its file says; None: it does not embed. A decoder (``cached``) that says nothing is
        taken by its last token, an encoder that says nothing cannot be used.
        """
        architecture = self._metadata("general.architecture")
        stated = self._metadata(f"{architecture}.pooling_type")
        if stated in (None, str(native.LLAMA_POOLING_TYPE_NONE)):
            return Pooling.LAST if cached else None
        known = {str(pooling.value): pooling for pooling in Pooling}
        return known.get(stated)  # a ranking model's vectors are no embeddings

    def _metadata(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(256)
        size = native.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None

    def close(self) -> None:
        native.llama_model_free(self.handle)


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
        self._batch = _Batch(BATCH_TOKENS)
        self._abort: Callable[[], bool] | None = None
        self._native_abort = native.ggml_abort_callback(self._should_abort)
        self._no_abort = native.ggml_abort_callback()

    def _parameters(self, config: EngineConfig) -> native.llama_context_params:
        cache = config.cache
        parameters = native.llama_context_default_params()
        parameters.n_ctx = self.cells
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
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
        written = native.llama_state_seq_get_data(self.handle, _bytes_of(blob), size, stream)
        return blob[:written]

    def saved_size(self, stream: int) -> int:
        """Bytes that `save` would return."""
        return int(native.llama_state_seq_get_size(self.handle, stream))

    def restore(self, stream: int, blob: Blob, keep: int) -> int:
        """Put the first ``keep`` saved tokens into a stream; returns how many it has now."""
        native.llama_memory_seq_rm(self._memory, stream, -1, -1)
        if not native.llama_state_seq_set_data(self.handle, _bytes_of(blob), len(blob), stream):
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
        data = _pointer(directions, ctypes.c_float)
        native.llama_set_adapter_cvec(self.handle, data, directions.size, width, 1, layers)

    def close(self) -> None:
        native.llama_free(self.handle)
        self.loaded.close()


class EmbeddingContext:
    """A further context over a model: token ids in, one vector a text out.

    ``sliced``: texts are read piece by piece into a cache, and their last tokens give the vectors.
    Otherwise every call takes whole texts. There is room for ``texts`` at once, which have ``room``
    tokens together. Raises `EngineError` where there is no memory for it.
    """

    def __init__(
        self,
        model: Model,
        threads: int,
        pooling: Pooling,
        *,
        sliced: bool,
        texts: int,
        room: int,
    ) -> None:
        self._width = int(native.llama_model_n_embd_out(model.handle))
        self.room = room
        batch = BATCH_TOKENS if sliced else room
        parameters = native.llama_context_default_params()
        parameters.embeddings = True
        parameters.pooling_type = pooling.value
        parameters.n_ctx = room
        parameters.n_batch = parameters.n_ubatch = batch
        parameters.n_seq_max = texts
        # A row of logits comes with every vector, wanted or not; so as few as can be.
        parameters.n_outputs_max = texts if sliced else batch
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.flash_attn_type = native.LLAMA_FLASH_ATTN_TYPE_DISABLED
        # In streams of their own, texts of unequal lengths would be computed in pieces.
        parameters.kv_unified = True
        parameters.no_perf = True
        self._handle = native.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            raise EngineError(f"There is not enough memory to embed {room} tokens at once.")
        self._memory = native.llama_get_memory(self._handle)
        self._batch = _Batch(batch)

    def read(self, entries: Sequence[Entry]) -> None:
        """Take these tokens into the cache, where ``sliced``."""
        native.llama_set_embeddings(self._handle, False)
        self._run(entries)
        native.llama_set_embeddings(self._handle, True)

    def embed(self, entries: Sequence[Entry]) -> list[Vector]:
        """The vectors of these texts, as the model gives them; the arrays are copies.

        All their tokens want outputs: the whole of each text, or, where ``sliced``, its last
        token. Nothing is kept for the next call.
        """
        self._run(entries)
        vectors = []
        for entry in entries:
            pointer = native.llama_get_embeddings_seq(self._handle, entry.stream)
            if not pointer:
                raise EngineError("llama.cpp gave no vector for a text.")
            vectors.append(np.ctypeslib.as_array(pointer, shape=(self._width,)).copy())
        self.clear()
        return vectors

    def _run(self, entries: Sequence[Entry]) -> None:
        self._batch.fill(entries)
        status = native.llama_decode(self._handle, self._batch.native)
        if status != 0:
            raise EngineError(f"llama.cpp could not embed (llama_decode said {status}).")

    def clear(self) -> None:
        """Forget what has been read."""
        if self._memory:
            native.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        native.llama_free(self._handle)


class _Batch:
    """A `llama_batch` over arrays of ours: filled without a Python loop over tokens."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, dtype=np.int32)
        self._pos = np.zeros(capacity, dtype=np.int32)
        self._streams = np.zeros(capacity, dtype=np.int32)
        self._logits = np.zeros(capacity, dtype=np.int8)
        # llama.cpp wants a list of sequence ids per token: ours have one id each.
        self._counts = np.ones(capacity, dtype=np.int32)
        addresses = self._streams.ctypes.data + self._streams.itemsize * np.arange(capacity)
        self._lists = addresses.astype(np.uintp)
        self.native = native.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._pos, ctypes.c_int32),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=_pointer(self._lists, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    def fill(self, entries: Sequence[Entry]) -> list[int]:
        """Returns the places of the tokens whose logits are wanted."""
        rows: list[int] = []
        count = 0
        for entry in entries:
            end = count + len(entry.tokens)
            self._token[count:end] = entry.tokens
            self._pos[count:end] = np.arange(entry.start, entry.start + len(entry.tokens))
            self._streams[count:end] = entry.stream
            self._logits[count:end] = 0
            self._logits[end - entry.outputs : end] = 1
            rows.extend(range(end - entry.outputs, end))
            count = end
        self.native.n_tokens = count
        return rows


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


def _bytes_of(blob: Blob) -> Any:
    return _pointer(blob, ctypes.c_uint8)


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
