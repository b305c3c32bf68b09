"""What Ollama's clients are told of a model, from its header and manifest. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from freehold.api.ollama.models_schema import Details, Shown
from freehold.domain.sampling import Sampling
from freehold.domain.upstreams import Upstream
from freehold.text.reasoning import marks_of
from freehold.text.tools.families import format_of
from freehold.trust.verdict import Verdict
from freehold.weights.gguf_header import GgufArray, GgufHeader, MetadataValue

Capability = Literal["completion", "tools", "thinking", "insert", "embedding"]

UNREADABLE = Details(family="", families=[], parameter_size="", quantization_level="")

# What another server runs: its files are not ours to describe.
ELSEWHERE = Details(
    family="upstream", families=["upstream"], parameter_size="", quantization_level=""
)

# Arrays longer than this are left empty unless they are asked for, as Ollama does.
_SHORT_ARRAY = 5
_LONG_AGO = "1970-01-01T00:00:00Z"
_TEMPLATE = "tokenizer.chat_template"


def details(header: GgufHeader, parameter_count: int) -> Details:
    """``parameter_count`` is that of all parts."""
    family = header.architecture or ""
    return Details(
        family=family,
        families=[family],
        parameter_size=human_count(parameter_count),
        quantization_level=header.quantisation or "unknown",
    )


def human_count(count: int) -> str:
    """``8.0B``, ``494.03M``, ``12.50K``, ``288``."""
    if count >= 1e9:
        return f"{count / 1e9:.1f}B"
    if count >= 1e6:
        return f"{count / 1e6:.2f}M"
    return f"{count / 1e3:.2f}K" if count >= 1e3 else str(count)


def model_info(header: GgufHeader, parameter_count: int, *, verbose: bool) -> dict[str, Any]:
    """The header's metadata without the template. Reads the file where ``verbose``."""
    metadata: Mapping[str, MetadataValue] = header.metadata
    told = {key: _told(value, verbose) for key, value in metadata.items() if key != _TEMPLATE}
    return {**told, "general.parameter_count": parameter_count}


def _told(value: MetadataValue, verbose: bool) -> Any:
    if isinstance(value, GgufArray):
        whole = verbose or value.count <= _SHORT_ARRAY
        return [_json_value(item) for item in value.read()] if whole else []
    return _json_value(value)


def _json_value(value: Any) -> Any:
    """JSON has no word for infinity and what is no number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def capabilities(template: str, *, fills_holes: bool) -> list[Capability]:
    """What requests may ask of a model with this chat template. Every decoder embeds, too."""
    found: list[Capability] = ["completion"]
    if format_of(template) is not None:
        found.append("tools")
    if marks_of(template) is not None:
        found.append("thinking")
    if fills_holes:
        found.append("insert")
    return found


def is_for_embedding(header: GgufHeader) -> bool:
    """Whether a model was made to embed."""
    return bool(header.integer(f"{header.architecture}.pooling_type"))


def parameters(context: int) -> str:
    """Options with their values where a request gives none, as a Modelfile would list them."""
    default = Sampling()
    pairs = {
        "num_ctx": context,
        "repeat_penalty": default.repetition_penalty,
        "temperature": default.temperature,
        "top_k": default.top_k,
        "top_p": default.top_p,
    }
    return "\n".join(f"{name:<30} {value}" for name, value in pairs.items())


def remote(upstream: Upstream, context: int | None) -> Shown:
    """A model that another server runs, and renders for."""
    info: dict[str, Any] = {"general.architecture": "upstream"}
    if context is not None:
        info["upstream.context_length"] = context
    return Shown(
        modified_at=_LONG_AGO,
        details=ELSEWHERE,
        model_info=info,
        capabilities=["completion", "tools"],
        template="",
        parameters="",
        license=f"Not known here: it runs at {upstream.destination}. It keeps its own template.",
    )


def licence(verdict: Verdict) -> str | None:
    """In the one text that Ollama's clients show. None: nothing is known of it."""
    if verdict.concluded is None and verdict.declared is None:
        return None
    lines = [
        verdict.concluded or verdict.declared or "",
        f"run: {verdict.run.outcome}",
        f"serve: {verdict.serve.outcome}",
        *(f"- {duty.text}" for duty in verdict.serve.duties),
    ]
    return "\n".join(lines)
