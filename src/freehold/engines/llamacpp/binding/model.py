"""Loaded weights."""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable, Sequence
from pathlib import Path

import llama_cpp.llama_cpp as native

from freehold.domain.engine import Kernels
from freehold.domain.errors import LoadFailed
from freehold.engines.base import EngineConfig
from freehold.text.vocabulary import Vocabulary

# llama.cpp tells of every tensor.
_PROGRESS_STEP = 0.02


class Pooling(enum.Enum):
    """How the vectors of a text's tokens become one; the values are llama.cpp's."""

    MEAN = 1
    CLS = 2
    LAST = 3


class Model:
    """Loaded weights and their vocabulary; contexts are made over them.

    ``context`` is how many tokens a sequence may have: never more than the model was trained for.
    """

    def __init__(self, config: EngineConfig, heard: Callable[[float], None] | None = None) -> None:
        """``heard`` is told how much has been read, from 0 to 1, some fifty times."""
        self.handle = _load_model(config.paths, config.kernels, heard or (lambda _: None))
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


def _load_model(paths: Sequence[str], kernels: Kernels, heard: Callable[[float], None]) -> object:
    parameters = native.llama_model_default_params()
    parameters.use_extra_bufts = kernels is Kernels.FAST
    told = -1.0

    def progress(done: float, _: object) -> bool:
        nonlocal told
        if done - told >= _PROGRESS_STEP or done >= 1:
            told = done
            heard(done)
        return True

    callback = native.llama_progress_callback(progress)  # it must live as long as the load
    parameters.progress_callback = callback
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
