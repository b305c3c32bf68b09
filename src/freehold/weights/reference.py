"""What a person types to mean a model, parsed into one of four kinds.

    deepseek-r1:1.5b                    a name from the catalogue or the store
    hf:owner/repo[@commit][:choice]     a repository on the Hugging Face hub
    https://host/file.gguf#sha256=HEX   a file on the web, with its digest
    ./file.gguf                         a file here

Parsing decides by form alone and touches neither disk nor network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.errors import InvalidReference

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w][\w.-]{0,99}", re.ASCII)
_CHOICE = re.compile(r"[\w][\w.+ -]*(?:/[\w][\w.+ -]*)*", re.ASCII)
_URL = re.compile(r"(?P<url>https?://[^#\s]+)#sha256=(?P<sha256>[0-9a-f]{64})")
MAX_REFERENCE = 1024

_FORMS = (
    "A model is named like deepseek-r1:1.5b, hf:owner/repo:file.gguf, ./file.gguf or "
    "https://host/file.gguf#sha256=<64 hex digits>."
)


@dataclass(frozen=True)
class NameReference:
    """A short name; ``tag`` None means the default tag of that name."""

    name: str
    tag: str | None

    def __str__(self) -> str:
        return self.name if self.tag is None else f"{self.name}:{self.tag}"


@dataclass(frozen=True)
class HubReference:
    """A hub repository; ``choice`` is a file name or a quantisation such as ``Q4_K_M``."""

    repository: str
    revision: str | None
    choice: str | None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        choice = f":{self.choice}" if self.choice else ""
        return f"hf:{self.repository}{revision}{choice}"


@dataclass(frozen=True)
class UrlReference:
    url: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.url}#sha256={self.sha256}"


@dataclass(frozen=True)
class PathReference:
    """A file as the user wrote it, with ``~`` expanded."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


Reference = NameReference | HubReference | UrlReference | PathReference


def parse(text: str) -> Reference:
    """Raise `InvalidReference` for text of no known form."""
    if not text or len(text) > MAX_REFERENCE or not text.isprintable():
        raise InvalidReference("That is not the name of a model.", hint=_FORMS)
    if text.startswith("hf:"):
        return _parse_hub(text)
    if text.startswith(("http://", "https://")):
        return _parse_url(text)
    if text.startswith((".", "/", "~")) or text.lower().endswith(".gguf") or "/" in text:
        return PathReference(Path(text).expanduser())
    return _parse_name(text)


def _parse_name(text: str) -> NameReference:
    name, colon, tag = text.lower().partition(":")
    if not _NAME.fullmatch(name) or (colon and not _NAME.fullmatch(tag)):
        raise InvalidReference(f"{text!r} is not the name of a model.", hint=_FORMS)
    return NameReference(name, tag or None)


def _parse_hub(text: str) -> HubReference:
    head, _, choice = text.removeprefix("hf:").partition(":")
    repository, at, revision = head.partition("@")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise InvalidReference(
            f"{text!r} does not name a repository.", hint="Write hf:owner/repo:file.gguf."
        )
    if at and not _REVISION.fullmatch(revision):
        raise InvalidReference(
            f"{revision!r} is not a revision.", hint="Write hf:owner/repo@commit:file.gguf."
        )
    if text.endswith(":") or (choice and (not _CHOICE.fullmatch(choice) or ".." in choice)):
        raise InvalidReference(
            f"{choice!r} names no file in a repository.",
            hint="Write hf:owner/repo:file.gguf or hf:owner/repo:Q4_K_M.",
        )
    return HubReference(repository, revision or None, choice or None)


def _parse_url(text: str) -> UrlReference:
    match = _URL.fullmatch(text)
    if match is None:
        raise InvalidReference(
            "A file from the web needs its SHA-256, so that what arrives can be verified.",
            hint="Write https://host/file.gguf#sha256=<64 lower-case hex digits>.",
        )
    return UrlReference(match["url"], match["sha256"])
