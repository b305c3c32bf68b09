"""What the places that speak about a model say, as facts: hub repositories, headers, the catalogue.

Pure: whoever calls has read them. `gather` asks the places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from freehold.trust import licence_text
from freehold.trust.facts import Evidence, Rank, Relation, Release
from freehold.weights.catalog import CatalogFile, CatalogModel
from freehold.weights.documents import CARD
from freehold.weights.gguf_header import GgufHeader

_MAX_BASES = 16
_HUB_PAGE = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)/?", re.ASCII)
# A repository may license its code and its weights apart (deepseek-ai/DeepSeek-V3); the files of a
# model are its weights.
_OF_WEIGHTS = re.compile(r"(?:licen[cs]e|copying)(?!.*code)", re.IGNORECASE)


def of_repository(
    name: str, commit: str, texts: Mapping[str, bytes], card: Mapping[str, object] | None
) -> Release:
    """``texts`` are its card and licence files, ``card`` the front matter as the hub read it,
    which counts where the card itself could not be had.
    """
    # Imported only now: it brings a YAML parser, and who asks nobody reads no card.
    from freehold.trust import card as cards  # noqa: PLC0415

    place = f"hf:{name}@{commit}"
    evidence = [
        licence_text.read(data).evidence(f"{place}:{path}")
        for path, data in texts.items()
        if _OF_WEIGHTS.match(path)
    ]
    found = cards.read(texts[CARD] if CARD in texts else _written(card or {}, cards.WANTED))
    if (found.licence, found.licence_name, found.licence_link) != (None, None, None):
        evidence.append(found.evidence(f"{place}:{CARD}"))
    return Release(name, tuple(evidence), commit, found.base_models, found.relation)


def _written(card: Mapping[str, object], wanted: Iterable[str]) -> bytes:
    """Front matter that the hub has parsed, as a card: both are then read alike."""
    import yaml  # noqa: PLC0415

    plain = {
        key: value
        for key in wanted
        if isinstance(value := card.get(key), str)
        or (isinstance(value, list) and all(isinstance(each, str) for each in value))
    }
    return b"---\n" + yaml.safe_dump(plain, allow_unicode=True).encode() + b"---\n"


def of_header(name: str, header: GgufHeader) -> Release:
    """What the file says in its own header."""
    stated, called, link = (header.text(f"general.license{end}") for end in ("", ".name", ".link"))
    said = (stated, called, link) != (None, None, None)
    evidence = (Evidence(Rank.HEADER, "general.license in the file", stated, called, link),)
    return Release(name, evidence if said else (), None, tuple(_bases(header)))


def _bases(header: GgufHeader) -> Iterable[str]:
    count = header.integer("general.base_model.count") or 0
    for number in range(min(max(count, 0), _MAX_BASES)):
        key = f"general.base_model.{number}"
        page = _HUB_PAGE.fullmatch(header.text(f"{key}.repo_url") or "")
        name = page[1] if page else header.text(f"{key}.name")
        if name:
            yield name


def of_row(row: CatalogModel, file: CatalogFile | None) -> tuple[Release, ...]:
    """The catalogue's file and the model it was made of."""
    upstream = row.upstream or row.title
    said = row.licence is not None
    origin = f"the catalogue of {row.checked.isoformat()}, from {' '.join(row.source)}"
    evidence = Evidence(Rank.CATALOGUE, origin, row.licence, row.licence_name, row.licence_url)
    original = Release(upstream, (evidence,) if said else (), None, row.base_model, _relation(row))
    repository = file.repository if file is not None else None
    name = repository or f"{row.reference} (GGUF)"
    if name == upstream:
        return (original,)
    converted = Release(name, (), None, (upstream,), Relation.QUANTIZED)
    return (converted, original)


def _relation(row: CatalogModel) -> Relation | None:
    known = {each.value: each for each in Relation}
    return known.get(row.base_model_relation or "")


def merged(first: Release, second: Release) -> Release:
    """Both were said of one release. ``first`` goes before where only one can hold."""
    return Release(
        first.name,
        tuple(dict.fromkeys((*first.evidence, *second.evidence))),
        first.commit or second.commit,
        tuple(dict.fromkeys((*first.parents, *second.parents))),
        first.relation or second.relation,
    )
