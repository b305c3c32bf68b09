"""Recognising a licence by its words: a file's text, normalised and hashed.

Two files are the same licence when their words are: case, white space, punctuation, quotation
marks, markdown and copyright lines do not count, anything else does. A licence with one
sentence added is therefore another licence.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

from freehold.trust.facts import Evidence, Rank

LONGEST_TEXT = 1024 * 1024  # bytes; the longest licence known here has 35 KB
LONGEST_COPYRIGHT = 200  # characters of a copyright line that are kept

_NO_WORDS = hashlib.sha256(b"").hexdigest()
_COPYRIGHT = re.compile(
    r"""\W* (?: (?:portions\ )? copyright \s* (?:\(c\)|©|&copy;|[\[<{(]\s*(?:yyyy|year)|\d{4})
              | (?:\(c\)|©) \s* (?:copyright\b | \d{4} | [\[<{(]\s*(?:yyyy|year)) ) """,
    re.IGNORECASE | re.VERBOSE,
)
_BLANK = re.compile(r"[\[<{(]\s*(?:yyyy|year|name|fullname|copyright holders?)", re.IGNORECASE)
_RESERVED = re.compile(r"\W*all rights reserved\W*", re.IGNORECASE)
# A line that says more than whose copyright it is stays part of the text.
_TERMS = re.compile(
    r"\b(?:may|must|shall|not?|except|only|use[ds]?|usage|permi\w+|prohibited|forbidden|allow\w*"
    r"|grant\w*|licen[cs]\w*|\w*commercial\w*|research\w*|personal|purposes?|agree\w*|consent"
    r"|without|subject|terms|conditions?)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LicenceFile:
    """``text_sha256`` is of the bytes, ``normalised_sha256`` of the words."""

    text_sha256: str
    normalised_sha256: str
    copyright: str | None

    def evidence(self, origin: str) -> Evidence:
        return Evidence(
            rank=Rank.LICENCE_FILE,
            origin=origin,
            text_sha256=self.text_sha256,
            normalised_sha256=self.normalised_sha256,
            copyright=self.copyright,
        )


def read(data: bytes) -> LicenceFile:
    """What identifies the licence in ``data``; of a larger file, the first `LONGEST_TEXT` bytes."""
    text = data[:LONGEST_TEXT].decode("utf-8-sig", "replace")
    return LicenceFile(
        text_sha256=hashlib.sha256(data).hexdigest(),
        normalised_sha256=digest(text),
        copyright=copyright_line(text),
    )


def digest(text: str) -> str:
    """SHA-256 of the words of ``text``, lower-case hex."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()


def normalise(text: str) -> str:
    """The words of ``text`` in lower case, one space apart, without its copyright lines."""
    kept = (line for line in text.splitlines() if not _is_copyright(line))
    folded = unicodedata.normalize("NFKC", " ".join(kept)).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


def copyright_line(text: str) -> str | None:
    """The first line that names a copyright holder; a template's blanks name nobody."""
    for line in text.splitlines():
        if _is_copyright(line) and not _RESERVED.fullmatch(line) and not _is_template(line):
            return " ".join(line.split())[:LONGEST_COPYRIGHT]
    return None


def is_empty(normalised_sha256: str) -> bool:
    """No words at all: an empty file, or copyright lines and nothing else."""
    return normalised_sha256 == _NO_WORDS


def _is_copyright(line: str) -> bool:
    if _RESERVED.fullmatch(line):
        return True
    if len(line) > LONGEST_COPYRIGHT or not _COPYRIGHT.match(line):
        return False
    return _TERMS.search(line) is None


def _is_template(line: str) -> bool:
    return _BLANK.search(line) is not None
