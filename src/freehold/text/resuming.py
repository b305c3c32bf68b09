"""An answer that was cut, read again from its tokens, so that it can be gone on with. Pure.

The model goes on behind the very tokens it wrote: text that is tokenised again may come out as
others, and what it wrote around its reasoning is not in the text that people see.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from freehold.text.answer import AnswerParser, ContentText, ReasoningText


@dataclass(frozen=True)
class Resumed:
    """``tokens`` to go on behind; they spell ``raw``, which says ``reasoning`` and ``content``.

    Less than was written where a character had been cut in the middle.
    """

    tokens: tuple[int, ...]
    raw: str
    reasoning: str
    content: str


def resumed(tokens: Sequence[int], pieces: Sequence[bytes], parser: AnswerParser) -> Resumed:
    """``pieces`` are the bytes of ``tokens`` as the answer shows them."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    read: list[str] = []
    kept = 0
    for piece in pieces:
        read.append(decoder.decode(piece))
        if not decoder.getstate()[0]:  # no character is half there
            kept = len(read)
    raw = "".join(read[:kept])
    said = parser.feed(raw)
    return Resumed(
        tokens=tuple(tokens[:kept]),
        raw=raw,
        reasoning="".join(piece.text for piece in said if isinstance(piece, ReasoningText)),
        content="".join(piece.text for piece in said if isinstance(piece, ContentText)),
    )
