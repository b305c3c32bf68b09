"""`/docs`: everything is on the page, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field

from freehold.api.reference import page


class Inner(BaseModel):
    """An <inner> thing."""

    kind: Literal["a", "b"]


class Asked(BaseModel):
    count: Annotated[int, Field(ge=1, le=9)]
    inner: list[Inner] | None = None
    named: dict[str, float] = {}


def description() -> str:
    app = FastAPI(title="A & B", version="1")

    @app.post("/ask/{name}")
    async def ask(name: str, body: Asked) -> Inner:
        """Ask <it>."""
        raise NotImplementedError

    return page(app.openapi())


def test_routes_fields_and_bounds_are_there() -> None:
    text = description()
    assert "POST /ask/{name}" in text
    assert "Ask &lt;it&gt;." in text
    assert '<a href="#Asked">Asked</a>' in text
    assert "integer, ≥ 1, ≤ 9" in text
    assert 'list of <a href="#Inner">Inner</a> or null' in text
    assert "object of number" in text
    assert "<code>&#x27;a&#x27;</code>" in text
    assert "count (required)" in text


def test_every_link_leads_somewhere_on_this_machine() -> None:
    text = description()
    for target in re.findall(r'href="([^"]*)"', text):
        assert target == "/openapi.json" or f'id="{target[1:]}"' in text, target
    assert "<script" not in text
    assert "http:" not in text
    assert "https:" not in text
