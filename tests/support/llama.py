"""llama.cpp asked directly, past all of freehold: what our own answers are compared with."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as native
from llama_cpp import _utils

# The package opens these when it is imported and leaves them to the interpreter's end.
atexit.register(_utils.outnull_file.close)
atexit.register(_utils.errnull_file.close)


class Tokenizer:
    """`llama_tokenize` and `llama_token_to_piece` of one model, with nothing added."""

    def __init__(self, model: Any) -> None:
        self._vocab = native.llama_model_get_vocab(model)

    def __call__(self, text: str, *, special: bool) -> tuple[int, ...]:
        data = text.encode()
        buffer = (native.llama_token * (len(data) + 8))()
        count = native.llama_tokenize(
            self._vocab, data, len(data), buffer, len(buffer), False, special
        )
        assert count >= 0
        return tuple(buffer[:count])

    def text(self, tokens: Sequence[int]) -> str:
        """What these tokens spell; invalid bytes become U+FFFD."""
        return b"".join(map(self._piece, tokens)).decode("utf-8", "replace")

    def _piece(self, token: int) -> bytes:
        buffer = bytearray(64)
        raw = (native.ctypes.c_char * len(buffer)).from_buffer(buffer)
        count = native.llama_token_to_piece(self._vocab, token, raw, len(buffer), 0, False)
        assert count >= 0
        return bytes(buffer[:count])


@contextlib.contextmanager
def tokenizer_of(path: Path) -> Iterator[Tokenizer]:
    parameters = native.llama_model_default_params()
    parameters.vocab_only = True
    model = native.llama_model_load_from_file(str(path).encode(), parameters)
    assert model
    try:
        yield Tokenizer(model)
    finally:
        native.llama_model_free(model)


def greedy(path: Path, prompt: Sequence[int], count: int) -> tuple[int, ...]:
    """``count`` tokens by llama-cpp-python's own class and sampler, end tokens included."""
    model = llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    try:
        tokens = model.generate(list(prompt), temp=0.0, repeat_penalty=1.0)
        return tuple(int(next(tokens)) for _ in range(count))
    finally:
        model.close()
