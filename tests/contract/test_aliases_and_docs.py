"""Other names of models, and the description of the API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from freehold.domain.chat import GenerateRequest
from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, gateway
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native


def script(_: GenerateRequest | None) -> Script:
    return Script()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    tiny = write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")
    aliases = ("gpt-4o=tiny", "lost=nowhere:1b")
    with gateway(
        tmp_path_factory.mktemp("home"), (tiny,), script=script, context=256, aliases=aliases
    ) as running:
        yield running


def test_an_alias_answers_by_the_models_own_name(server: Gateway) -> None:
    body = server.chat(model="gpt-4o").json()
    assert body["model"] == "tiny"
    assert body["choices"][0]["message"]["content"] == "All is well."


def test_aliases_are_listed(server: Gateway) -> None:
    model = server.client.get("/v1/models/gpt-4o").json()
    assert (model["id"], model["freehold"]["alias_of"]) == ("gpt-4o", "tiny")
    assert "gpt-4o" in server.client.get("/v1/models/tiny").json()["freehold"]["aliases"]


def test_an_alias_of_nothing_names_what_is_not_there(server: Gateway) -> None:
    response = server.chat(model="lost")
    assert response.status_code == 404
    assert "nowhere:1b" in response.json()["error"]["message"]


def test_the_list_leaves_out_what_is_not_there(server: Gateway) -> None:
    ids = [model["id"] for model in server.client.get("/v1/models").json()["data"]]
    assert ids == ["tiny", "gpt-4o"]


def test_the_page_about_the_api_names_every_route(server: Gateway) -> None:
    page = server.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in server.client.get("/openapi.json").json()["paths"]:
        assert path in page.text
    assert "<script" not in page.text
