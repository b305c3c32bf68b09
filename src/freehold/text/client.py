"""The gateway's face of the text children: prompts and tokens from one, verdicts from another."""

from __future__ import annotations

import asyncio
import collections
import hashlib
from dataclasses import dataclass

from freehold.domain.chat import Conversation
from freehold.domain.sampling import Constraint
from freehold.text.exchange import Answer, Exchange, refused
from freehold.text.messages import (
    MAX_CONSTRAINT_BYTES,
    CheckConstraint,
    Detokenize,
    Detokenized,
    ReadTable,
    Render,
    Rendered,
    TableRead,
    Tokenize,
    VocabularySource,
)
from freehold.text.token_table import TokenTable

CONSTRAINTS_REMEMBERED = 256

# Beside threads that decode on every core, a grammar then gets about a tenth of one.
TRYING_NICENESS = 10


@dataclass(frozen=True)
class Prompt:
    """What the model will see, as text and as token ids; the rest as in `Rendered`."""

    text: str
    tokens: tuple[int, ...]
    shown: tuple[int, ...] = ()
    reasoning_end: int | None = None


class TextService:
    """Renders and tokenises for every model and engine. Owned by one event loop.

    Requests are answered one at a time, by one child. Constraints are tried by another, begun
    with the first of them: a grammar may take its seconds, and nobody's prompt waits for it.
    """

    def __init__(self) -> None:
        self._rendering = Exchange()
        self._trying = Exchange(niceness=TRYING_NICENESS)
        self._accepted: collections.OrderedDict[bytes, None] = collections.OrderedDict()

    async def start(self) -> None:
        """Start the child early, so that the first request need not wait for it."""
        await self._rendering.start()

    async def render(self, source: VocabularySource, conversation: Conversation) -> Prompt:
        """Raises `TemplateFailed`, `LoadFailed` or `TextChildFailed`."""
        return _prompt(await self._rendering.ask(Render(source=source, conversation=conversation)))

    async def tokenize(
        self,
        source: VocabularySource,
        text: str,
        *,
        special: bool = False,
        beginning: bool = True,
        ending: bool = False,
        suffix: str | None = None,
    ) -> Prompt:
        """As `Tokenize` says. Raises `InvalidRequest`, `LoadFailed` or `TextChildFailed`."""
        asked = Tokenize(
            source=source,
            text=text,
            special=special,
            beginning=beginning,
            ending=ending,
            suffix=suffix,
        )
        return _prompt(await self._rendering.ask(asked))

    async def detokenize(
        self,
        source: VocabularySource,
        tokens: tuple[int, ...],
        shown: tuple[int, ...] | None = None,
    ) -> tuple[bytes, ...]:
        """The bytes of each token, as `Detokenize` says. Raises `InvalidRequest`, `LoadFailed` or
        `TextChildFailed`.
        """
        asked = Detokenize(source=source, tokens=tokens, shown=shown)
        answer = await self._rendering.ask(asked)
        assert isinstance(answer, Detokenized)
        return tuple(answer.pieces)

    async def table(self, source: VocabularySource) -> TokenTable:
        """The whole vocabulary. Raises `LoadFailed` or `TextChildFailed`."""
        answer = await self._rendering.ask(ReadTable(source=source))
        assert isinstance(answer, TableRead)
        return TokenTable(answer.pieces, frozenset(answer.unseen), answer.ends)

    async def check_constraint(self, source: VocabularySource, constraint: Constraint) -> None:
        """Raises `InvalidRequest` with the reason, `LoadFailed` or `TextChildFailed`.

        What has been accepted is remembered, by its digest.
        """
        if len(constraint.text) > MAX_CONSTRAINT_BYTES:
            raise refused(
                f"The grammar has {len(constraint.text)} characters; "
                f"at most {MAX_CONSTRAINT_BYTES} bytes are accepted."
            )
        key = _digest(source, constraint)
        if key not in self._accepted:
            await self._trying.ask(CheckConstraint(source=source, constraint=constraint))
            self._accepted[key] = None
        self._accepted.move_to_end(key)
        if len(self._accepted) > CONSTRAINTS_REMEMBERED:
            self._accepted.popitem(last=False)

    async def close(self) -> None:
        await asyncio.gather(self._rendering.close(), self._trying.close())


def _prompt(answer: Answer) -> Prompt:
    assert isinstance(answer, Rendered)
    return Prompt(answer.prompt, tuple(answer.tokens), tuple(answer.shown), answer.reasoning_end)


def _digest(source: VocabularySource, constraint: Constraint) -> bytes:
    parts = (source.digest, constraint.grammar.value, constraint.text, repr(constraint))
    whole = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).digest()
