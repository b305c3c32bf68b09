"""What a sequence says: from rows of logits to tokens, text and the reason it ends.

No device and no clock: rows in, words out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import EngineError, InvalidRequest
from freehold.domain.events import Alternative, FinishReason, TokenLogprob
from freehold.engines.answer import Answer
from freehold.engines.llamacpp.sampling import (
    Logits,
    NothingToChoose,
    Sampler,
    log_probabilities,
    log_probability,
)
from freehold.engines.llamacpp.tokens import TokenArray
from freehold.text.constraint import Matcher
from freehold.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Said:
    """What follows from one step. ``matched`` guesses were right: they are in the cache already.

    ``tokens`` are those of the answer, ``matched`` + 1 of them unless it ends.
    """

    tokens: tuple[int, ...]
    matched: int
    text: str
    logprobs: tuple[TokenLogprob, ...]
    reason: FinishReason | None


class Voice:
    """The sampler, the grammar and the text of one request.

    Raises `InvalidRequest` for a logit bias on a token that is not there.
    """

    def __init__(self, request: GenerateRequest, vocabulary: Vocabulary, fresh_seed: int) -> None:
        self._request = request
        self._vocabulary = vocabulary
        self._answer = Answer(request)
        self._shown = frozenset(request.shown)
        try:
            self.sampler = Sampler(request.sampling, fresh_seed, request.prompt, vocabulary)
        except ValueError as error:
            raise InvalidRequest(str(error), field="logit_bias") from error
        self.matcher: Matcher | None = None
        self._prompt_logprobs: list[TokenLogprob] = []

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._answer.stop

    def say(self, rows: Sequence[Logits], draft: TokenArray, room: int) -> Said:
        """Choose a token from each row, as long as the guess for the row before was right.

        ``room`` is how many more tokens the answer may have, at least one. Raises
        `InvalidRequest` when the constraint cannot be followed any further.
        """
        tokens: list[int] = []
        texts: list[str] = []
        logprobs: list[TokenLogprob] = []
        matched = 0
        reason: FinishReason | None = None
        for number, row in enumerate(rows):
            token = self._choose(row, logprobs)
            if self._vocabulary.is_end(token):
                reason = FinishReason.STOP
                break
            tokens.append(token)
            text, reason = self._speak(token)
            texts.append(text)
            if reason is None and len(tokens) == room:
                reason = FinishReason.LENGTH
                break
            if reason is not None or number == len(draft) or draft[number] != token:
                break
            matched += 1
        if reason is not None and not self._answer.stop:
            last = self._answer.end(reason)
            texts.append(last.text)
            reason = last.reason
        return Said(tuple(tokens), matched, "".join(texts), tuple(logprobs[: len(tokens)]), reason)

    def _choose(self, row: Logits, logprobs: list[TokenLogprob]) -> int:
        mask = self.matcher.mask() if self.matcher is not None else None
        top = self._request.top_logprobs
        raw = row.copy() if top is not None else row
        try:
            token = self.sampler.choose(row, mask)
        except NothingToChoose as error:
            raise EngineError("No token the request allows can follow.") from error
        if top is not None:
            logprobs.append(self._logprob(raw, token, top))
        return token

    def _speak(self, token: int) -> tuple[str, FinishReason | None]:
        self.sampler.accept(token)
        if self.matcher is not None:
            self.matcher.accept(token)
        piece = self._vocabulary.piece(token, special=token in self._shown)
        spoken = self._answer.speak(piece)
        if spoken.reason is None and self.matcher is not None and self.matcher.finished:
            return spoken.text, FinishReason.STOP
        return spoken.text, spoken.reason

    def _logprob(self, row: Logits, token: int, top: int) -> TokenLogprob:
        return self._worded(token, *log_probability(row, token, top))

    def _worded(self, token: int, own: float, best: list[tuple[int, float]]) -> TokenLogprob:
        return TokenLogprob(
            self._alternative(token, own),
            tuple(self._alternative(other, logprob) for other, logprob in best),
        )

    def _alternative(self, token: int, logprob: float) -> Alternative:
        return Alternative(token, self._vocabulary.piece(token, special=True), logprob)

    def hear(self, start: int, rows: Sequence[Logits], following: TokenArray) -> None:
        """Note how likely each token of the prompt was, after the row before it.

        ``start`` is the position of the first row. A prompt may be read again from its beginning.
        """
        top = self._request.prompt_logprobs
        assert top is not None
        del self._prompt_logprobs[start:]
        # The last row of a prompt is followed by the answer.
        found = log_probabilities(rows[: len(following)], following.tolist(), top)
        for token, (own, best) in zip(following.tolist(), found, strict=True):
            self._prompt_logprobs.append(self._worded(token, own, best))

    def heard(self) -> tuple[TokenLogprob, ...]:
        """All of the prompt's log-probabilities, once."""
        heard, self._prompt_logprobs = tuple(self._prompt_logprobs), []
        return heard
