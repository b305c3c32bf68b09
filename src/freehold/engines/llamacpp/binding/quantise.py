"""Writing a model's weights again in another format."""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as native

from freehold.domain.errors import EngineError


def quantise(source: str, target: str, file_type: int, threads: int) -> None:
    """Read ``source``, a whole model, and write ``target`` as ``file_type`` (``llama_ftype``).

    Weights that are quantised already are quantised again. Raises `EngineError`.
    """
    parameters = native.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = threads
    parameters.allow_requantize = True
    status = native.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
    if status != 0:
        raise EngineError("llama.cpp could not write the weights in this format.")
