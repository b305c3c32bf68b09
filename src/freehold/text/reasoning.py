"""Reasoning before the answer: ``<think> … </think>`` and its like.

                 begin mark                 end mark
    BEFORE ────────────────────▶ INSIDE ──────────────▶ AFTER
      │  anything else but whitespace                     ▲
      └───────────────────────────────────────────────────┘

Some templates write the begin mark themselves, at the end of the prompt: then the model is
INSIDE from its first word. A model that never writes the end mark has only reasoned.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from freehold.text.answer import AnswerParser, Piece, ReasoningText, held_back


@dataclass(frozen=True)
class Marks:
    """Around reasoning, as one family of models writes it.

    ``gap`` stands inside and behind reasoning that is left out. ``answer``: what else the model
    writes before its answer.
    """

    begin: str
    end: str
    gap: str = "\n\n"
    answer: str | None = None


# Recognised by the end mark in the chat template: all that drop old reasoning look for it.
FAMILIES = (
    Marks("<think>", "</think>"),  # DeepSeek R1 and V3.1, Qwen3, QwQ, GLM, MiniMax …
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks("<seed:think>", "</seed:think>"),  # Seed-OSS
)

# gpt-oss, whose end mark ends every message: recognised by the begin mark. See `tools.harmony`.
HARMONY = Marks(
    "<|channel|>analysis<|message|>", "<|end|>", gap="", answer="<|channel|>final<|message|>"
)


def marks_of(template: str) -> Marks | None:
    """The marks a model with this chat template reasons in; None if it does not reason."""
    if HARMONY.begin in template:
        return HARMONY
    return next((marks for marks in FAMILIES if marks.end in template), None)


class Opening(enum.Enum):
    """What the prompt says about reasoning."""

    INSIDE = "inside"  # it ends with the begin mark
    DONE = "done"  # it ends with the end mark: this answer comes without
    UNSAID = "unsaid"  # the model decides


def opening_of(prompt: str, marks: Marks) -> Opening:
    """How the answer to a rendered ``prompt`` begins."""
    end = prompt.rstrip()
    if end.endswith(marks.begin):
        return Opening.INSIDE
    return Opening.DONE if end.endswith(marks.end) else Opening.UNSAID


def closing_of(prompt: str, marks: Marks) -> str:
    """What to write behind ``prompt`` so that the model answers without reasoning."""
    match opening_of(prompt, marks):
        case Opening.DONE:
            return ""
        case Opening.INSIDE:
            return f"\n{marks.end}\n\n"
        case Opening.UNSAID:
            return f"{marks.begin}{marks.gap}{marks.end}{marks.gap}"


def before_answer(prompt: str, marks: Marks) -> str | None:
    """What the model will have written, last, when the answer proper begins; None: nothing."""
    if marks.answer is not None:
        # Every message ends with the end mark: one that does not is the answer, to be continued.
        continued = prompt.rfind(marks.answer) > prompt.rfind(marks.end)
        return None if continued else marks.answer
    return None if opening_of(prompt, marks) is Opening.DONE else marks.end


class _State(enum.Enum):
    BEFORE = "before"
    INSIDE = "inside"
    AFTER = "after"


class ReasoningParser:
    """Splits reasoning off; what follows goes to ``answer``.

    Whitespace next to the marks is no part of either side.
    """

    def __init__(self, marks: Marks, answer: AnswerParser, *, inside: bool) -> None:
        self._marks = marks
        self._answer = answer
        self._state = _State.INSIDE if inside else _State.BEFORE
        self._held = ""
        self._blank = True  # nothing but whitespace has come in this state

    @property
    def reasoning(self) -> bool:
        """Whether it is in the middle of reasoning."""
        return self._state is _State.INSIDE

    def feed(self, text: str) -> tuple[Piece, ...]:
        if self._state is _State.BEFORE:
            self._held += text
            text = self._leave_before()
        if self._state is _State.INSIDE:
            return self._inside(text)
        return self._after(text) if text else ()

    def _leave_before(self) -> str:
        """Decide whether this is reasoning, if enough has come; what of it is to be read on."""
        begun = self._held.lstrip()
        if begun.startswith(self._marks.begin):
            self._state, self._held = _State.INSIDE, ""
            return begun[len(self._marks.begin) :]
        if self._marks.begin.startswith(begun):
            return ""
        held, self._held = self._held, ""
        self._state, self._blank = _State.AFTER, False  # no mark: its whitespace is its own
        return held

    def _inside(self, text: str) -> tuple[Piece, ...]:
        self._held += text
        if self._blank:
            self._held = self._held.lstrip()
            self._blank = not self._held
        found = self._held.find(self._marks.end)
        if found >= 0:
            before, rest = self._held[:found], self._held[found + len(self._marks.end) :]
            self._held, self._state, self._blank = "", _State.AFTER, True
            return (*_reasoning(before.rstrip()), *self._after(rest))
        keep = held_back(self._held, self._marks.end)
        # Whitespace is held back too: it may turn out to stand before the end mark.
        shown = self._held[: len(self._held) - keep].rstrip()
        self._held = self._held[len(shown) :]
        return _reasoning(shown)

    def _after(self, text: str) -> tuple[Piece, ...]:
        if self._blank:
            text = text.lstrip()
            self._blank = not text
        return self._answer.feed(text) if text else ()

    def finish(self) -> tuple[Piece, ...]:
        held, self._held = self._held, ""
        if self._state is _State.INSIDE:
            return (*_reasoning(held.rstrip()), *self._answer.finish())
        return (*(self._answer.feed(held) if held else ()), *self._answer.finish())


def _reasoning(text: str) -> tuple[Piece, ...]:
    return (ReasoningText(text),) if text else ()
