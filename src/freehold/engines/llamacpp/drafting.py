"""Prompt-lookup drafting: guess the next tokens from what was said before. Pure.

If the last `NGRAM` tokens occurred earlier, what followed them then is a likely
continuation now: code that is edited, text that is quoted. The longer the stretch that returns,
the likelier it goes on. A guess is verified in the same batch as the next token, so it
never changes the answer, only how fast it comes. Source: prompt lookup decoding,
https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
LONGEST = 48
# How far back a stretch that returns is followed.
LONGEST_STRETCH = 32
# Before there is a record, a stretch of n tokens goes on with a chance of n / (n + 1): this is
# worth so many guessed tokens of a record.
PRIOR_WEIGHT = 4.0
# What is left of the record after one more token: what failed once may be right again.
FADE = 0.99


class Drafter:
    """The guesses of one sequence, and how well they have done.

    The record is kept by the length of the stretch that returned, in classes 3, 4 to 7, 8 to
    15, …: (right, wrong) guesses, not counting those after a wrong one.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._follows: dict[tuple[int, ...], int] = {}
        self._prompt: Sequence[int] | None = prompt
        self._record: dict[int, tuple[float, float]] = {}
        self._class = 0

    def append(self, token: int) -> None:
        """One more token of the answer."""
        if self._prompt is not None:
            self._read_prompt()
        self._remember(token)
        self._record = {
            known: (right * FADE, wrong * FADE) for known, (right, wrong) in self._record.items()
        }

    def _read_prompt(self) -> None:
        """Index the prompt, when the first token of the answer shows that it is needed."""
        prompt, self._prompt = self._prompt, None
        for token in prompt or ():
            self._remember(token)

    def _remember(self, token: int) -> None:
        # The n-gram that ends before this token is followed by it.
        if len(self._tokens) >= NGRAM:
            self._follows[tuple(self._tokens[-NGRAM:])] = len(self._tokens)
        self._tokens.append(token)

    @property
    def _start(self) -> int | None:
        """Where what followed the last tokens earlier begins."""
        return self._follows.get(tuple(self._tokens[-NGRAM:]))

    def chance(self) -> float | None:
        """How likely the next guess is right, and each after it if those before it are.

        None: there is nothing to guess from.
        """
        start = self._start
        if start is None:
            return None
        stretch = self._stretch(start)
        right, wrong = self._record.get(_class_of(stretch), (0.0, 0.0))
        prior = PRIOR_WEIGHT * stretch / (stretch + 1)
        return (prior + right) / (PRIOR_WEIGHT + right + wrong)

    def _stretch(self, start: int) -> int:
        """How many tokens before ``start`` are the last tokens over again."""
        tokens, length = self._tokens, NGRAM
        most = min(LONGEST_STRETCH, start)
        while length < most and tokens[start - length - 1] == tokens[-length - 1]:
            length += 1
        return length

    def draft(self, length: int) -> tuple[int, ...]:
        """``length`` tokens that may come next; none if there is nothing to guess from."""
        start = self._start
        if start is None or length < 1:
            return ()
        self._class = _class_of(self._stretch(start))
        draft: list[int] = []
        for at in range(start, start + length):
            # A repetition that is just going on continues into its own guess.
            known = at - len(self._tokens)
            draft.append(self._tokens[at] if known < 0 else draft[known])
        return tuple(draft)

    def learn(self, drafted: int, accepted: int) -> None:
        """``accepted`` of the last ``drafted`` guesses were right."""
        right, wrong = self._record.get(self._class, (0.0, 0.0))
        self._record[self._class] = (right + accepted, wrong + (accepted < drafted))


def _class_of(stretch: int) -> int:
    return stretch.bit_length()
