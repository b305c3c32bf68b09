"""Reading the documents of a hub repository: bounded, at the commit that was pinned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from freehold.domain.errors import FreeholdError, SourceUnavailable
from freehold.weights.documents import CARD, TEMPLATE, TOKENIZER, Documents, is_licence_text
from freehold.weights.naming import is_path
from freehold.weights.sources.hub_repository import HubRepository

MAX_TEXT_BYTES = 1 << 20
MAX_TEXTS = 12


def read_documents(repository: HubRepository) -> Documents:
    """Raises what `HubRepository.info` raises; a text that cannot be had is only noted."""
    commit = repository.commit
    texts: dict[str, bytes] = {}
    missing: list[str] = []
    for name in _wanted(
        getattr(each, "rfilename", None) for each in repository.info().siblings or ()
    ):
        try:
            texts[name] = _read(repository, name)
        except FreeholdError as error:
            missing.append(f"{name}: {error.message}")
    return Documents(repository.name, commit, texts, _card_of(repository), tuple(missing))


def _wanted(names: Iterable[object]) -> list[str]:
    known = [name for name in names if isinstance(name, str) and is_path(name)]
    licences = sorted(name for name in known if is_licence_text(name))
    others = [name for name in (CARD, TEMPLATE, TOKENIZER) if name in known]
    return [*others, *licences][:MAX_TEXTS]


def _read(repository: HubRepository, name: str) -> bytes:
    parts: list[bytes] = []
    received = 0
    with repository.stream(name) as chunks:
        for chunk in chunks:
            received += len(chunk)
            if received > MAX_TEXT_BYTES:
                raise SourceUnavailable(f"It is longer than {MAX_TEXT_BYTES >> 20} MiB.")
            parts.append(chunk)
    return b"".join(parts)


def _card_of(repository: HubRepository) -> Mapping[str, object] | None:
    card = repository.info().card_data
    to_dict = getattr(card, "to_dict", None)
    found = to_dict() if callable(to_dict) else None
    return found if isinstance(found, dict) else None
