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
from freehold.weights.addresses import require_address
from freehold.weights.files import is_sha256
from freehold.weights.naming import (
    is_gguf,
    name_at,
    refuse_other_formats,
    require_choice,
    require_repository,
    require_revision,
)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PREFIX = "hf:"
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
    """A hub repository; ``choice`` is a GGUF file or a quantisation such as ``Q4_K_M``."""

    repository: str
    revision: str | None
    choice: str | None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        choice = f":{self.choice}" if self.choice else ""
        return f"{_PREFIX}{self.repository}{revision}{choice}"


@dataclass(frozen=True)
class UrlReference:
    """A file on the web and its SHA-256, in lower case."""

    url: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.url}#sha256={self.sha256}"


@dataclass(frozen=True)
class PathReference:
    """A file as the user wrote it, with ``~`` expanded."""

    path: Path

    def __str__(self) -> str:
        text = str(self.path)
        # Without the dot it would be read as something else.
        return text if _is_path(text) and not text.startswith("~") else f"./{text}"


Reference = NameReference | HubReference | UrlReference | PathReference


def parse(text: str) -> Reference:
    """Raise `InvalidReference` for text of no known form, `UnsupportedFile` for another format.

    ``str`` of the result parses to the same value.
    """
    _require_plain(text)
    reference = _parse(text)
    # A home folder may be long; everything else only shrinks.
    _require_plain(str(reference))
    return reference


def _parse(text: str) -> Reference:
    if text.startswith(_PREFIX):
        return _parse_hub(text)
    if _ADDRESS.match(text):
        return _parse_url(text)
    if _is_path(text):
        return _parse_path(text)
    return _parse_name(text)


def _require_plain(text: str) -> None:
    if not text or len(text) > MAX_REFERENCE or not text.isprintable():
        raise InvalidReference("That is not the name of a model.", hint=_FORMS)


def _is_path(text: str) -> bool:
    if text.startswith(_PREFIX) or _ADDRESS.match(text):
        return False
    return text.startswith((".", "/", "~")) or is_gguf(text) or "/" in text


def _parse_path(text: str) -> PathReference:
    path = Path(text)
    if not text.startswith("~"):
        return PathReference(path)
    try:
        return PathReference(path.expanduser())
    except RuntimeError as error:
        raise InvalidReference(f"{text!r} begins with the home of nobody here.") from error


def _parse_name(text: str) -> NameReference:
    name, colon, tag = text.lower().partition(":")
    named = _NAME.fullmatch(name) and (not colon or _NAME.fullmatch(tag))
    # Written down, "HF:x" in lower case would be a repository.
    if not named or not text.isascii() or f"{name}:" == _PREFIX:
        raise InvalidReference(
            f"{text!r} is not the name of a model.", hint=_FORMS, values={"reference": text}
        )
    return NameReference(name, tag or None)


def _parse_hub(text: str) -> HubReference:
    place, colon, choice = text.removeprefix(_PREFIX).partition(":")
    repository, at, revision = place.partition("@")
    return HubReference(
        require_repository(repository),
        require_revision(revision) if at else None,
        require_choice(choice) if colon else None,
    )


def _parse_url(text: str) -> UrlReference:
    url, _, fragment = text.partition("#")
    key, _, digest = fragment.partition("=")
    sha256 = digest.lower()
    if key != "sha256" or not is_sha256(sha256):
        raise InvalidReference(
            "A file from the web needs its SHA-256, so that what arrives can be verified.",
            hint="Write it after the address: https://host/file.gguf#sha256=<64 hex digits>",
        )
    refuse_other_formats(name_at(require_address(url)))
    return UrlReference(url, sha256)
