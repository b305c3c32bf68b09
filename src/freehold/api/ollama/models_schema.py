"""What is asked and told of models themselves: listing, showing, fetching, copying, deleting."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from freehold.api.ollama.schema import ModelName, NamedModel, Request


class ShowRequest(Request):
    """``verbose``: with the whole of long arrays, such as the vocabulary."""

    model: NamedModel
    verbose: bool | None = None


class PullRequest(Request):
    """``stream`` left out means true."""

    model: NamedModel
    stream: bool | None = None
    insecure: Literal[False] | None = None


class CopyRequest(Request):
    source: ModelName
    destination: ModelName


class DeleteRequest(Request):
    model: NamedModel


class Version(BaseModel):
    version: str


class Details(BaseModel):
    """``family`` is the architecture that the file names."""

    parent_model: str = ""
    format: Literal["gguf"] = "gguf"
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ListedModel(BaseModel):
    """``digest`` is the SHA-256 of the weights' first file; empty for a served file that has not
    been loaded yet.
    """

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class ModelList(BaseModel):
    models: list[ListedModel]


class LoadedModel(BaseModel):
    """``size`` is that of the weights. ``expires_at`` is the end of time for a model that stays
    until another one needs the room.
    """

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int = Field(default=0, description="Nothing is on a graphics card.")
    context_length: int


class LoadedList(BaseModel):
    models: list[LoadedModel]


class Shown(BaseModel):
    """``license`` is an SPDX expression of everything that binds, followed by the verdicts and the
    duties. ``parameters`` are what a request gets that says nothing.
    """

    modified_at: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[Literal["completion", "tools", "thinking", "insert", "embedding"]]
    template: str
    parameters: str
    license: str | None


class Progress(BaseModel):
    """One line of a pull. ``total`` and ``completed`` are bytes."""

    status: str
    digest: str | None = None
    total: int | None = None
    completed: int | None = None
