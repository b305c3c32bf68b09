"""Prompt-lookup drafting: guess the next tokens from what was said before. Pure.

If the last `NGRAM` tokens occurred earlier, what followed them then is a likely
continuation now: code that is edited, text that is quoted. A guess is verified in the same
batch as the next token, so it never changes the answer, only how fast it comes. Source: prompt
lookup decoding, https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
SHORTEST = 2
LONGEST = 16
# A sequence whose guesses keep failing pauses for this many tokens, then twice as many, …
FIRST_PAUSE = 8
LONGEST_PAUSE = 256
# What a guess is given before it has a record: three tokens in a row that return often go on.
FIRST_CHANCE = 0.7
# Weight of the record so far against one more guessed token.
MEMORY = 0.8
# How fast a bad record is forgotten, per token.
RECOVERY = 0.005


class Drafter:
    """The guesses of one sequence, and how well they have done.

    ``length`` is the next guess's: doubled when a whole guess was right, otherwise what
    was right plus one. When nothing of a guess was right it pauses. ``chance`` is the share
    of guessed tokens that were right lately.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._follows: dict[tuple[int, ...], int] = {}
        self._prompt: Sequence[int] | None = prompt
        self._pause = 0
        self._next_pause = FIRST_PAUSE
        self.length = SHORTEST
        self.chance = FIRST_CHANCE

    def append(self, token: int) -> None:
        """One more token of the answer."""
        if self._prompt is not None:
            self._read_prompt()
        self._remember(token)
        self._pause = max(0, self._pause - 1)
        # What did not pay once may pay again: nobody would find out without another try.
        self.chance += RECOVERY * (FIRST_CHANCE - self.chance)

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

    def draft(self, limit: int) -> tuple[int, ...]:
        """At most ``limit`` tokens that may come next; none while it pauses or knows nothing."""
        if self._pause or limit < 1 or len(self._tokens) < NGRAM:
            return ()
        start = self._follows.get(tuple(self._tokens[-NGRAM:]))
        if start is None:
            return ()
        draft: list[int] = []
        for at in range(start, start + min(limit, self.length)):
            # A repetition that is just going on continues into its own guess.
            known = at - len(self._tokens)
            draft.append(self._tokens[at] if known < 0 else draft[known])
        return tuple(draft)

    def learn(self, drafted: int, accepted: int) -> None:
        """``accepted`` of the last ``drafted`` guesses were right."""
        # What follows a wrong guess was not tried.
        tried = accepted + (accepted < drafted)
        self.chance += (1 - MEMORY**tried) * (accepted / tried - self.chance)
        if accepted == 0:
            self._pause, self._next_pause = (
                self._next_pause,
                min(LONGEST_PAUSE, 2 * self._next_pause),
            )
            self.length = SHORTEST
        else:
            self._next_pause = FIRST_PAUSE
            whole = accepted == drafted
            grown = 2 * self.length if whole else accepted + 1
            self.length = max(SHORTEST, min(LONGEST, grown))
