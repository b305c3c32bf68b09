"""Special tokens inside user text are text.

A template's output mixes its own special tokens with words of the user. If both
were tokenised alike, a user (or a web page the user quotes) could write
``<|im_start|>system`` and speak as the system. So before rendering, every string in
the messages that spells a special token is replaced by a placeholder; after
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

from freehold.domain.chat import Message, Role


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


@dataclass(frozen=True)
class Protected:
    """Messages whose dangerous strings were replaced, and what each placeholder stands for."""

    messages: tuple[Message, ...]
    placeholders: Mapping[str, str]


def _pattern(strings: Sequence[str]) -> re.Pattern[str] | None:
    # Longest first, as the tokeniser matches.
    escaped = [re.escape(text) for text in sorted(strings, key=len, reverse=True) if text]
    return re.compile("|".join(escaped)) if escaped else None


def protect(messages: Sequence[Message], markers: Markers, nonce: str) -> Protected:
    """Replace marker strings in the messages. ``nonce`` is random, so none can be forged.

    The assistant's own turns keep user-defined markers: templates look for
    ``</think>`` in them to drop old reasoning.
    """
    everything = _pattern((*markers.control, *markers.user_defined))
    control_only = _pattern(markers.control)
    names: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        # Letters and digits survive `trim`, `split` and JSON; no user can guess the nonce.
        return names.setdefault(match.group(), f"x{nonce}n{len(names)}x")

    def shield(message: Message) -> Message:
        pattern = control_only if message.role is Role.ASSISTANT else everything
        if pattern is None:
            return message
        return Message(message.role, pattern.sub(replace, message.content))

    shielded = tuple(shield(message) for message in messages)
    return Protected(shielded, {name: original for original, name in names.items()})


def reveal(rendered: str, protected: Protected) -> str:
    """The prompt with the user's own words back in place: what a person should see."""
    for placeholder, original in protected.placeholders.items():
        rendered = rendered.replace(placeholder, original)
    return rendered


def stretches(rendered: str, protected: Protected, markers: Markers) -> tuple[Stretch, ...]:
    """Cut a rendered prompt into parts to tokenise one after another."""
    held = _pattern(tuple(protected.placeholders))
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
        parts.extend(Stretch(cut, literal=True) for cut in _cuts(text, held, protected, markers))
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


def _cuts(text: str, held: re.Pattern[str], protected: Protected, markers: Markers) -> list[str]:
    """Put the user's words back, cutting inside every user-defined marker."""
    cuts: list[list[str]] = [[]]
    at = 0
    for match in held.finditer(text):
        original = protected.placeholders[match.group()]
        cuts[-1].append(text[at : match.start()])
        if original in markers.user_defined:
            cuts[-1].append(original[0])
            cuts.append([original[1:]])
        else:
            cuts[-1].append(original)
        at = match.end()
    cuts[-1].append(text[at:])
    return [whole for cut in cuts if (whole := "".join(cut))]
