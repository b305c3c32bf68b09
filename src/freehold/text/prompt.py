"""Special tokens inside user text are text.

A template's output mixes its own special tokens with words of the user. If both
were tokenised alike, a user (or a web page the user quotes) could write
``<|im_start|>system`` and speak as the system. So before rendering, everything in
the conversation that spells a special token is replaced by a placeholder; after
rendering, the prompt is cut at the template's own special tokens, placeholders are
put back, and the stretches that had any are tokenised as plain text. A prompt
without such strings is tokenised whole, exactly as the model's authors would.

Control tokens are held off by asking the tokeniser not to look for them. User-defined
tokens it always looks for; those that act as markers in the template are held off by
cutting the stretch inside the marker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Markers:
    """Strings that mean something to the model.

    ``control`` tokens; and ``user_defined`` ones that the template mentions.
    """

    control: tuple[str, ...]
    user_defined: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stretch:
    """A part of the prompt; ``literal`` parts are tokenised without special tokens."""

    text: str
    literal: bool


def _pattern(strings: Sequence[str]) -> re.Pattern[str] | None:
    # Longest first, as the tokeniser matches.
    escaped = [re.escape(text) for text in sorted(strings, key=len, reverse=True) if text]
    return re.compile("|".join(escaped)) if escaped else None


class Protection:
    """Replaces marker strings by placeholders. ``nonce`` is random, so none can be forged."""

    def __init__(self, markers: Markers, nonce: str) -> None:
        self._everything = _pattern((*markers.control, *markers.user_defined))
        self._control_only = _pattern(markers.control)
        self._nonce = nonce
        self._names: dict[str, str] = {}

    def shield(self, text: str, own: bool) -> str:
        """``text`` without marker strings.

        What the model said itself (``own``) keeps user-defined markers: templates look for
        ``</think>`` in it to drop old reasoning.
        """
        pattern = self._control_only if own else self._everything
        return text if pattern is None else pattern.sub(self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        # Letters and digits survive `trim`, `split` and JSON; no user can guess the nonce.
        return self._names.setdefault(match.group(), f"x{self._nonce}n{len(self._names)}x")

    @property
    def placeholders(self) -> Mapping[str, str]:
        """What each placeholder stands for."""
        return {name: original for original, name in self._names.items()}


def reveal(rendered: str, placeholders: Mapping[str, str]) -> str:
    """The prompt with the user's own words back in place: what a person should see."""
    for placeholder, original in placeholders.items():
        rendered = rendered.replace(placeholder, original)
    return rendered


def stretches(
    rendered: str, placeholders: Mapping[str, str], markers: Markers
) -> tuple[Stretch, ...]:
    """Cut a rendered prompt into parts to tokenise one after another."""
    held = _pattern(tuple(placeholders))
    if held is None:
        return (Stretch(rendered, literal=False),) if rendered else ()
    special = _pattern((*markers.control, *markers.user_defined))
    parts: list[Stretch] = []
    plain: list[str] = []

    def flush() -> None:
        if plain:
            parts.append(Stretch("".join(plain), literal=False))
            plain.clear()

    for text in _split_keeping(special, rendered):
        if held.search(text) is None:
            plain.append(text)
            continue
        flush()
        parts.extend(Stretch(cut, literal=True) for cut in _cuts(text, held, placeholders, markers))
    flush()
    return tuple(parts)


def _split_keeping(pattern: re.Pattern[str] | None, text: str) -> list[str]:
    if pattern is None:
        return [text]
    pieces: list[str] = []
    at = 0
    for match in pattern.finditer(text):
        pieces += [text[at : match.start()], match.group()]
        at = match.end()
    return [piece for piece in (*pieces, text[at:]) if piece]


def _cuts(
    text: str, held: re.Pattern[str], placeholders: Mapping[str, str], markers: Markers
) -> list[str]:
    """Put the user's words back, cutting inside every user-defined marker."""
    cuts: list[list[str]] = [[]]
    at = 0
    for match in held.finditer(text):
        original = placeholders[match.group()]
        cuts[-1].append(text[at : match.start()])
        if original in markers.user_defined:
            cuts[-1].append(original[0])
            cuts.append([original[1:]])
        else:
            cuts[-1].append(original)
        at = match.end()
    cuts[-1].append(text[at:])
    return [whole for cut in cuts if (whole := "".join(cut))]
