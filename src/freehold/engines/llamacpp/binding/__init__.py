"""Owned handles on llama.cpp: a model, the contexts over it, a batch, errors mapped.

With `text.vocabulary` the only importer of `llama_cpp`. Everything here belongs to
one thread, the one that made it.
"""

from freehold.engines.llamacpp.binding.batch import BATCH_TOKENS, Entry
from freehold.engines.llamacpp.binding.context import (
    Aborted,
    Blob,
    Context,
    NoCache,
    NoRoom,
)
from freehold.engines.llamacpp.binding.embedding import EmbeddingContext, Vector
from freehold.engines.llamacpp.binding.model import Model, Pooling, system_info
from freehold.engines.llamacpp.binding.quantise import quantise

__all__ = [
    "BATCH_TOKENS",
    "Aborted",
    "Blob",
    "Context",
    "EmbeddingContext",
    "Entry",
    "Model",
    "NoCache",
    "NoRoom",
    "Pooling",
    "Vector",
    "quantise",
    "system_info",
]
