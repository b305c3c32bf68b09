"""A model's vocabulary: text to token ids, token ids to bytes.

One of the two modules that import `llama_cpp` (the other is
`engines.llamacpp.binding`). Loaded without weights in the text child, and wrapped
around a whole model's vocabulary in a worker. Not thread-safe while loading;
reading is.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native

from freehold.domain.errors import LoadFailed
from freehold.text.prompt import Markers
from freehold.text.token_table import TokenTable

log = logging.getLogger(__name__)

_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}
_PIECE_BUFFER = 256


@native.llama_log_callback  # type: ignore[untyped-decorator]
def _native_log(level: int, text: bytes, _: Any) -> None:
    # Native logs name tensors and buffers, never prompts.
    log.log(_LEVELS.get(level, logging.DEBUG), "%s", text.decode("utf-8", "replace").rstrip())


def start_native() -> None:
    """Initialise llama.cpp once per process and send its log to ours."""
    native.llama_log_set(_native_log, ctypes.c_void_p(0))
    native.llama_backend_init()


class Vocabulary:
    """The tokeniser of one model. Keep the model alive as long as this object."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._vocab = native.llama_model_get_vocab(model)
        self.size = int(native.llama_vocab_n_tokens(self._vocab))

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids of ``text``; control tokens are recognised only if ``special``.

        Nothing is added at either end.
        """
        data = text.encode("utf-8", "replace")
        room = len(data) + 16
        buffer = (native.llama_token * room)()
        count = native.llama_tokenize(
            self._vocab,
            data,
            len(data),
            buffer,
            room,
            False,
            special,
        )
        if count < 0:
            room = -count
            buffer = (native.llama_token * room)()
            count = native.llama_tokenize(
                self._vocab,
                data,
                len(data),
                buffer,
                room,
                False,
                special,
            )
        return list(buffer[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; control tokens are empty unless ``special``."""
        buffer = ctypes.create_string_buffer(_PIECE_BUFFER)
        count = native.llama_token_to_piece(self._vocab, token, buffer, _PIECE_BUFFER, 0, special)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = native.llama_token_to_piece(self._vocab, token, buffer, -count, 0, special)
        return buffer.raw[:count]

    def table(self) -> TokenTable:
        """All tokens at once; a quarter of a second for 150,000 of them."""
        hidden = (
            native.LLAMA_TOKEN_ATTR_CONTROL
            | native.LLAMA_TOKEN_ATTR_UNKNOWN
            | native.LLAMA_TOKEN_ATTR_UNUSED
        )
        vocab, attributes = self._vocab, native.llama_vocab_get_attr
        return TokenTable(
            pieces=self._pieces(),
            unseen=frozenset(t for t in range(self.size) if attributes(vocab, t) & hidden),
            ends=self.ends,
        )

    def _pieces(self) -> list[bytes]:
        vocab, to_piece = self._vocab, native.llama_token_to_piece
        buffer = ctypes.create_string_buffer(_PIECE_BUFFER)  # one for all: most of the time saved
        view = memoryview(buffer)
        pieces: list[bytes] = []
        for token in range(self.size):
            count = to_piece(vocab, token, buffer, _PIECE_BUFFER, 0, True)
            pieces.append(bytes(view[:count]) if count >= 0 else self.piece(token, special=True))
        return pieces

    def native_tokenizer(self) -> tuple[int, int]:
        """Where `llama_tokenize` and its vocabulary are, for native code that calls it itself."""
        return int(self._vocab), ctypes.cast(native.llama_tokenize, ctypes.c_void_p).value or 0

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Every token that ends a turn."""
        return tuple(token for token in range(self.size) if self.is_end(token))

    def is_end(self, token: int) -> bool:
        """Whether the token ends a turn (any of the model's end-of-generation tokens)."""
        return bool(native.llama_vocab_is_eog(self._vocab, token))

    def around_a_hole(self, before: str, after: str) -> list[int] | None:
        """The prompt for what is missing between two texts; None if the model has no way to ask."""
        marks = [
            int(ask(self._vocab))
            for ask in (
                native.llama_vocab_fim_pre,
                native.llama_vocab_fim_suf,
                native.llama_vocab_fim_mid,
            )
        ]
        if min(marks) < 0:
            return None
        start, suffix, middle = marks
        return [
            *(start, *self.tokenize(before, special=False)),
            *(suffix, *self.tokenize(after, special=False), middle),
        ]

    def token_of(self, spelling: str) -> int | None:
        """The one token that is spelled so, if there is one."""
        tokens = self.tokenize(spelling, special=True)
        one = len(tokens) == 1 and self.piece(tokens[0], special=True) == spelling.encode()
        return tokens[0] if one else None

    def with_beginning(self, tokens: Sequence[int]) -> list[int]:
        """Put the beginning-of-sequence token first if the model wants it and it is not there."""
        beginning = int(native.llama_vocab_bos(self._vocab))
        wanted = native.llama_vocab_get_add_bos(self._vocab) and beginning >= 0
        if wanted and (not tokens or tokens[0] != beginning):
            return [beginning, *tokens]
        return list(tokens)

    def with_ending(self, tokens: Sequence[int]) -> list[int]:
        """Put the tokens last that the model wants after a text that is complete."""
        ends = (
            (native.llama_vocab_get_add_sep, native.llama_vocab_sep),
            (native.llama_vocab_get_add_eos, native.llama_vocab_eos),
        )
        added = [int(token(self._vocab)) for wanted, token in ends if wanted(self._vocab)]
        return [*tokens, *(token for token in added if token >= 0)]

    def special_tokens(self) -> dict[str, str]:
        """The template variables ``bos_token``, ``eos_token``, … as far as the model has them."""
        known = {
            "bos_token": native.llama_vocab_bos,
            "eos_token": native.llama_vocab_eos,
            "pad_token": native.llama_vocab_pad,
            "sep_token": native.llama_vocab_sep,
        }
        ids = {name: int(ask(self._vocab)) for name, ask in known.items()}
        return {
            name: self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""
            for name, token in ids.items()
        }

    def markers(self, template: str) -> Markers:
        """What must not be smuggled in by a message (see `prompt`)."""
        control: list[str] = []
        user_defined: list[str] = []
        for token in range(self.size):
            attributes = native.llama_vocab_get_attr(self._vocab, token)
            if attributes & (
                native.LLAMA_TOKEN_ATTR_CONTROL
                | native.LLAMA_TOKEN_ATTR_UNKNOWN
                | native.LLAMA_TOKEN_ATTR_USER_DEFINED
            ):
                text = self._text(token)
                if attributes & native.LLAMA_TOKEN_ATTR_USER_DEFINED:
                    if len(text) > 1 and not text.isspace() and text in template:
                        user_defined.append(text)
                elif text:
                    control.append(text)
        return Markers(tuple(control), tuple(user_defined))

    def _text(self, token: int) -> str:
        raw = native.llama_vocab_get_text(self._vocab, token)
        return raw.decode("utf-8", "replace") if raw else ""


def open_vocabulary(paths: Sequence[Path]) -> Vocabulary:
    """Load only the vocabulary of a model's files. Raises `LoadFailed`."""
    parameters = native.llama_model_default_params()
    parameters.vocab_only = True
    encoded = [str(path).encode() for path in paths]
    if len(encoded) == 1:
        model = native.llama_model_load_from_file(encoded[0], parameters)
    else:
        array = (ctypes.c_char_p * len(encoded))(*encoded)
        model = native.llama_model_load_from_splits(array, len(encoded), parameters)
    if not model:
        raise LoadFailed(f"llama.cpp cannot read the vocabulary of {paths[0].name}.")
    return Vocabulary(model)


def close_vocabulary(vocabulary: Vocabulary) -> None:
    """Free a vocabulary opened by `open_vocabulary`; it must not be used afterwards."""
    native.llama_model_free(vocabulary._model)
