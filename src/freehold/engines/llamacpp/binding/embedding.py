"""A context that embeds."""

from __future__ import annotations

from collections.abc import Sequence

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from freehold.domain.errors import EngineError
from freehold.engines.llamacpp.binding.batch import BATCH_TOKENS, Batch, Entry
from freehold.engines.llamacpp.binding.model import Model, Pooling

Vector = npt.NDArray[np.float32]


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
        self._batch = Batch(batch)

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
