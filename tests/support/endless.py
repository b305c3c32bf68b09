"""A tiny model that never ends its turn by itself."""

from __future__ import annotations

from pathlib import Path

from freehold.engines.llamacpp.probe_model import END_OF_TEXT, VOCABULARY_SIZE
from freehold.weights.gguf import read_header
from tests.support.tiny_model import write_tiny_llama


def write_endless_llama(path: Path, *, layers: int = 2, context_length: int = 512) -> Path:
    """Like `write_tiny_llama`, but its control tokens all have the logit 0.

    Of 288 random ones about half are larger, so greedy and top-k never choose one.
    """
    write_tiny_llama(path, layers=layers, embedding=128, context_length=context_length)
    header = read_header(path)
    (output,) = (tensor for tensor in header.tensors if tensor.name == "output.weight")
    row = output.nbytes // VOCABULARY_SIZE
    with path.open("r+b") as file:
        file.seek(header.data_offset + output.offset + END_OF_TEXT * row)
        file.write(bytes((VOCABULARY_SIZE - END_OF_TEXT) * row))
    return path
