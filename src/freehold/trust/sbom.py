"""A model as a CycloneDX 1.6 bill of materials: files, licences, lineage, model card.

Pure: the same lock, verdict and header give the same document, serial number included, so
two people can compare theirs. What nobody stated is left out rather than guessed.
"""

from __future__ import annotations

import functools
import hashlib
import re
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import license_expression
import rfc8785

from freehold.trust import licences
from freehold.trust.lock import Lock
from freehold.trust.verdict import Ancestor, Verdict
from freehold.weights.gguf_header import GgufHeader
from freehold.weights.naming import is_repository

Json = str | int | list["Json"] | dict[str, "Json"]

_MODEL: Final = "model"
_TEMPLATE: Final = "chat-template"
_HUB: Final = "https://huggingface.co"
_ADDRESS = re.compile(r"https?://[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]{1,2000}")
_HUB_ORIGIN = re.compile(r"hf:(?P<repository>[^@:]+)@(?P<commit>[0-9a-f]{40}):(?P<path>.+)")


@dataclass(frozen=True)
class HeaderFacts:
    """What a header tells a model card; None for what it does not say."""

    architecture: str | None
    family: str | None
    task: str | None
    quantisation: str | None
    parameters: int | None
    context_length: int | None

    @classmethod
    def of(cls, header: GgufHeader) -> HeaderFacts:
        architecture = header.architecture
        return cls(
            architecture=architecture,
            family=_family(header),
            task=_task(header),
            quantisation=header.quantisation,
            # A part of a split model knows only its own tensors.
            parameters=header.parameter_count if header.split_count == 1 else None,
            context_length=header.context_length,
        )


def _family(header: GgufHeader) -> str | None:
    kinds = [
        name
        for key, name in (
            ("attention.head_count", "transformer"),
            ("ssm.state_size", "state space model"),
        )
        if f"{header.architecture}.{key}" in header.metadata
    ]
    return " and ".join(kinds) or None


def _task(header: GgufHeader) -> str | None:
    if header.architecture is None:
        return None
    pooled = f"{header.architecture}.pooling_type" in header.metadata
    return "feature-extraction" if pooled else "text-generation"


def sbom(lock: Lock, verdict: Verdict, facts: HeaderFacts) -> dict[str, Json]:
    """The document, ready for `json.dumps`."""
    document: dict[str, Json] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": lock.fetched_at,
            "tools": {
                "components": [
                    {"type": "application", "name": "freehold", "version": lock.tool_version}
                ]
            },
        },
        "components": [_model(lock, verdict, facts), *_template(lock)],
        "dependencies": [{"ref": _MODEL, "dependsOn": [_TEMPLATE] if lock.template_sha256 else []}],
    }
    content = hashlib.sha256(rfc8785.dumps(document)).hexdigest()
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, content).urn
    return document


def _model(lock: Lock, verdict: Verdict, facts: HeaderFacts) -> Json:
    files: list[Json] = [
        {
            "type": "file",
            "bom-ref": f"file:{file.path}",
            "name": file.path,
            "hashes": _hashes(file.sha256),
            "properties": _properties([("size", str(file.size))]),
        }
        for file in lock.files
    ]
    component: dict[str, Json] = {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": lock.reference,
        **_identity(lock.releases[0].name, lock.commit),
        # Of several files none alone is the model, and nothing hashes them together.
        **({"hashes": _hashes(lock.files[0].sha256)} if len(lock.files) == 1 else {}),
        **_some("licenses", _licences(verdict.declared, verdict.concluded)),
        **_some("copyright", "; ".join(_copyrights(verdict.lineage.root))),
        "pedigree": _pedigree(verdict),
        **_some("externalReferences", list(_references(lock))),
        "components": files,
        "modelCard": _card(facts),
        "properties": _properties(_verdict_properties(verdict)),
    }
    return component


def _template(lock: Lock) -> Iterator[Json]:
    if lock.template_sha256 is not None:
        yield {
            "type": "data",
            "bom-ref": _TEMPLATE,
            "name": "chat template",
            "hashes": _hashes(lock.template_sha256),
            "data": [{"type": "configuration", "name": "tokenizer.chat_template"}],
        }


def _card(facts: HeaderFacts) -> Json:
    parameters: dict[str, Json] = {
        **_some("task", facts.task),
        **_some("architectureFamily", facts.family),
        **_some("modelArchitecture", facts.architecture),
    }
    counted = (("parameters", facts.parameters), ("context-length", facts.context_length))
    properties = [
        *([("quantisation", facts.quantisation)] if facts.quantisation else []),
        *((name, str(count)) for name, count in counted if count is not None),
    ]
    return {**_some("modelParameters", parameters), **_some("properties", _properties(properties))}


def _pedigree(verdict: Verdict) -> Json:
    notes = " ".join((*verdict.overrides, *verdict.lineage.gaps))
    return {
        "ancestors": [_ancestor(parent) for parent in verdict.lineage.root.parents],
        **_some("notes", notes),
    }


def _ancestor(release: Ancestor) -> Json:
    parents = [_ancestor(parent) for parent in release.parents]
    properties = [
        *([] if release.relation is None else [("relation", str(release.relation))]),
        *([] if release.known else [("unread", "nothing is known about this release")]),
    ]
    return {
        "type": "machine-learning-model",
        "name": release.name,
        **_identity(release.name, release.commit),
        **_some("licenses", _licences(None, release.licence)),
        **_some("copyright", "; ".join(_copyrights(release))),
        **_some("pedigree", {"ancestors": parents} if parents else None),
        **_some("properties", _properties(properties)),
    }


def _identity(name: str, commit: str | None) -> dict[str, Json]:
    """Version and package address of a hub repository at one commit."""
    if commit is None:
        return {}
    if not is_repository(name):
        return {"version": commit}
    return {"version": commit, "purl": f"pkg:huggingface/{name}@{commit}"}


def _copyrights(release: Ancestor) -> list[str]:
    lines = (weighed.evidence.copyright for weighed in release.evidence)
    return sorted({line for line in lines if line})


def _verdict_properties(verdict: Verdict) -> Iterator[tuple[str, str]]:
    for name, ruling in (("run", verdict.run), ("serve", verdict.serve)):
        yield f"verdict:{name}", ruling.outcome
        yield from ((f"reason:{name}", reason) for reason in ruling.reasons)
        yield from ((f"duty:{name}", duty.text) for duty in ruling.duties)
    if verdict.concluded is not None:
        yield "licence:concluded", verdict.concluded
    yield "lineage:complete", "yes" if verdict.lineage.complete else "no"


# Licences


def _licences(declared: str | None, concluded: str | None) -> list[Json]:
    """A list of licences cannot hold an expression beside others, so one of AND is taken apart."""
    found: list[Json] = []
    if declared:
        found.append(_licence(declared, "declared"))
    if concluded:
        found += [_licence(part, "concluded") for part in _conjuncts(concluded)]
    return found


def _licence(text: str, acknowledgement: str) -> Json:
    spdx = _spdx_ids().get(text.lower())
    identified: dict[str, Json] = {"name": text} if spdx is None else {"id": spdx}
    return {"license": {**identified, "acknowledgement": acknowledgement}}


def _conjuncts(expression: str) -> list[str]:
    if "(" in expression or " OR " in expression:
        return [expression]
    return expression.split(" AND ")


@functools.cache
def _spdx_ids() -> dict[str, str]:
    """Identifiers on the SPDX list, by their lower-case spelling."""
    index = (
        row["spdx_license_key"]
        for row in license_expression.get_license_index()
        if not row["is_exception"]
    )
    table = (row.spdx for row in licences.bundled().rows)  # knows some that are newer
    found = [key for key in (*index, *table) if key and not key.startswith("LicenseRef-")]
    return {key.lower(): key for key in found}


# Places


def _references(lock: Lock) -> Iterator[Json]:
    if _ADDRESS.fullmatch(lock.source):
        url = lock.source
        if lock.commit is not None and url.startswith(f"{_HUB}/"):
            url = f"{url}/tree/{lock.commit}"
        yield {"type": "distribution", "url": url}
    for text in lock.texts:
        url_of_text = _address(text.origin)
        if url_of_text is not None:
            yield {"type": "license", "url": url_of_text, "hashes": _hashes(text.sha256)}


def _address(origin: str) -> str | None:
    """The address of a place on the public hub or the web; None for every other."""
    if _ADDRESS.fullmatch(origin):
        return origin
    match = _HUB_ORIGIN.fullmatch(origin)
    if match is None or not is_repository(match["repository"]):
        return None
    path = urllib.parse.quote(match["path"])
    return f"{_HUB}/{match['repository']}/blob/{match['commit']}/{path}"


# Small shapes


def _hashes(sha256: str) -> Json:
    return [{"alg": "SHA-256", "content": sha256}]


def _properties(pairs: Iterable[tuple[str, str]]) -> list[Json]:
    return [{"name": f"freehold:{name}", "value": value} for name, value in pairs]


def _some(key: str, value: Json | None) -> dict[str, Json]:
    """The entry, unless there is nothing to enter."""
    return {key: value} if value else {}
