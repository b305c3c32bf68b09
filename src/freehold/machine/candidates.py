"""What a plan chooses from: rows of the catalogue and models that are here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from freehold.domain.errors import FreeholdError
from freehold.machine.anatomy import Anatomy
from freehold.machine.dissect import anatomy_of_header, anatomy_of_row
from freehold.machine.quality import Quality, quality
from freehold.trust.verdict import Outcome, Use, Verdict
from freehold.weights.catalog import CatalogFile, CatalogModel
from freehold.weights.gguf_header import GgufHeader, TensorInfo

# What is assumed of a row that lists no file: the format most people publish first.
USUAL = "Q4_K_M"


@dataclass(frozen=True)
class Candidate:
    """One model in one file. ``size`` is what the file says or its parameters come to.

    ``digest`` identifies weights that are here, else None. ``obtainable``: it is here or can be
    fetched. ``anatomy`` None: memory and speed cannot be told, for the reason in ``unknown``.
    """

    reference: str
    title: str
    quantisation: str | None
    size: int | None
    anatomy: Anatomy | None
    unknown: str | None = None
    quality: Quality | None = None
    digest: str | None = None
    obtainable: bool = True
    upstream: str | None = None
    distillate_of: str | None = None
    tasks: tuple[str, ...] = ()
    outcomes: Mapping[Use, Outcome] | None = None

    @property
    def here(self) -> bool:
        return self.digest is not None


def of_row(
    row: CatalogModel, verdict: Verdict | None, other: CatalogFile | None = None
) -> Candidate:
    """The row's first file that can be fetched, or a usual one where it lists none; or ``other``
    of its files, under the reference that fetches that."""
    usual = row.default_file or (row.file[0] if row.file else CatalogFile(quantisation=USUAL))
    file = other or usual
    anatomy, unknown = _tried(row, file)
    return Candidate(
        reference=row.reference if other is None else other.reference,
        title=row.title,
        quantisation=file.quantisation,
        size=file.size or (anatomy.bytes if anatomy else None),
        anatomy=anatomy,
        unknown=unknown,
        quality=_quality(anatomy, file.quantisation, None, row.architecture.active_parameters),
        obtainable=row.fetchable,
        upstream=row.upstream,
        distillate_of=row.distillate_of,
        tasks=row.tasks,
        outcomes=_outcomes(verdict),
    )


def _tried(row: CatalogModel, file: CatalogFile) -> tuple[Anatomy | None, str | None]:
    try:
        return anatomy_of_row(row, file), None
    except FreeholdError as error:
        return None, error.message


@dataclass(frozen=True)
class Local:
    """A model that is here. ``tensors`` are those of all its files; ``row`` the catalogue's, where
    its name or its bytes are known there; ``source_bits`` bits per weight of what it was made
    from, if it was made here."""

    reference: str
    digest: str
    size: int
    header: GgufHeader
    tensors: tuple[TensorInfo, ...]
    row: CatalogModel | None = None
    source_bits: float | None = None


def of_local(model: Local, verdict: Verdict | None) -> Candidate:
    """Exact, from its own header."""
    row, header = model.row, model.header
    anatomy, unknown = None, None
    try:
        anatomy = anatomy_of_header(header, model.tensors)
    except FreeholdError as error:
        unknown = error.message
    return Candidate(
        reference=model.reference,
        title=row.title if row else header.text("general.name") or model.reference,
        quantisation=header.quantisation,
        size=model.size,
        anatomy=anatomy,
        unknown=unknown,
        quality=_quality(anatomy, header.quantisation, model.source_bits, None),
        digest=model.digest,
        upstream=row.upstream if row else None,
        distillate_of=row.distillate_of if row else None,
        tasks=row.tasks if row else (),
        outcomes=_outcomes(verdict),
    )


def of_safetensors(reference: str, digest: str, size: int, verdict: Verdict) -> Candidate:
    """vLLM runs it; its speed is not estimated, so it is never a choice."""
    return Candidate(
        reference=reference,
        title=reference,
        quantisation=None,
        size=size,
        anatomy=None,
        unknown="It is in safetensors, which vLLM runs; `freehold plan` with its name says what "
        "it takes.",
        digest=digest,
        outcomes=_outcomes(verdict),
    )


def _quality(
    anatomy: Anatomy | None, quantisation: str | None, limit: float | None, active: int | None
) -> Quality | None:
    if anatomy is None or not anatomy.parameters:
        return None
    bits = 8 * anatomy.bytes / anatomy.parameters
    bits = bits if limit is None else min(bits, limit)
    return quality(anatomy.parameters, active or anatomy.active_parameters, bits, quantisation)


def _outcomes(verdict: Verdict | None) -> Mapping[Use, Outcome] | None:
    return None if verdict is None else {use: verdict.ruling(use).outcome for use in Use}
