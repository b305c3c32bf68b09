"""Facts about licences, asked of a hub on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from freehold.domain.settings import Settings
from freehold.trust import licence_text
from freehold.trust.acquire import hub as ask_of
from freehold.trust.facts import Evidence, Rank, Relation, Release
from freehold.trust.gather import MAX_DEPTH, MAX_RELEASES, gather
from tests.support.fake_hub import FakeFile, FakeHub, FakeRepository

MIT = (
    b"MIT License\n\nCopyright (c) 2026 Maker\n\nPermission is hereby granted, free of charge ...\n"
)


def card(**keys: object) -> FakeFile:
    lines = [f"{key}: {value}" for key, value in keys.items()]
    return FakeFile("\n".join(["---", *lines, "---", "# A model"]).encode(), lfs=False)


def repository(name: str, *, licence: bytes | None = None, **keys: object) -> FakeRepository:
    files = {"README.md": card(**keys), "model.gguf": FakeFile(b"weights")}
    if licence is not None:
        files["LICENSE"] = FakeFile(licence, lfs=False)
    return FakeRepository(name, files)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    made = [
        repository(
            "maker/model-GGUF",
            license="mit",
            base_model="maker/model",
            base_model_relation="quantized",
        ),
        repository("maker/model", licence=MIT, license="mit", base_model="root/base"),
        repository("root/base", license="apache-2.0"),
    ]
    with FakeHub(made) as hub:
        yield hub


def settings(hub: FakeHub, home: Path, token: str | None = None) -> Settings:
    return Settings(home=home, hub_endpoint=hub.endpoint, hub_token=token)


def known(name: str) -> list[Release]:
    return [Release(name)]


def test_the_lineage_is_asked_for_up_to_its_root(hub: FakeHub, tmp_path: Path) -> None:
    found = gather(known("maker/model-GGUF"), None, ask_of(settings(hub, tmp_path)))
    names = [release.name for release in found.releases]
    assert names == ["maker/model-GGUF", "maker/model", "root/base"]
    first, second, _ = found.releases
    assert first.relation is Relation.QUANTIZED
    assert len(first.commit or "") == 40
    ranks = [evidence.rank for evidence in second.evidence]
    assert ranks == [Rank.LICENCE_FILE, Rank.CARD]
    assert second.evidence[0].text_sha256 == licence_text.read(MIT).text_sha256
    assert second.evidence[0].copyright == "Copyright (c) 2026 Maker"
    assert [data for _, data in found.texts] == [MIT]
    assert not found.notes


def test_only_cards_and_licences_are_asked_for(hub: FakeHub, tmp_path: Path) -> None:
    gather(known("maker/model-GGUF"), None, ask_of(settings(hub, tmp_path)))
    assert not [
        path for path in (*hub.paths("hub"), *hub.paths("cdn")) if "gguf" in path.split("/")[-1]
    ]


def test_each_repository_is_asked_once(hub: FakeHub, tmp_path: Path) -> None:
    ask = ask_of(settings(hub, tmp_path))
    gather(known("maker/model-GGUF"), None, ask)
    asked = len(hub.requests)
    gather(known("maker/model-GGUF"), None, ask)
    assert len(hub.requests) == asked


def test_the_licence_of_code_is_not_that_of_the_weights(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(
        FakeRepository(
            "maker/two",
            {
                "README.md": card(license="other"),
                "LICENSE-CODE": FakeFile(MIT, lfs=False),
                "LICENSE-MODEL": FakeFile(b"All yours, except on Sundays.", lfs=False),
                "NOTICE": FakeFile(b"Made by Maker.", lfs=False),
            },
        )
    )
    (release,) = gather(known("maker/two"), None, ask_of(settings(hub, tmp_path))).releases
    origins = [evidence.origin.rpartition(":")[2] for evidence in release.evidence]
    assert origins == ["LICENSE-MODEL", "README.md"]


def test_a_hub_that_is_not_there_is_asked_once_and_the_catalogue_speaks(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = Settings(home=tmp_path, hub_endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}")
        catalogued = [
            Release("maker/model-GGUF", (), None, ("maker/model",), Relation.QUANTIZED),
            Release("maker/model", (Evidence(Rank.CATALOGUE, "the catalogue", "mit"),)),
        ]
        found = gather(catalogued, None, ask_of(away))
    assert list(found.releases) == catalogued
    assert len(found.notes) == 1


def test_the_catalogue_is_silent_where_the_repository_speaks(hub: FakeHub, tmp_path: Path) -> None:
    old = Release("root/base", (Evidence(Rank.CATALOGUE, "the catalogue", "gemma"),))
    (release,) = gather([old], None, ask_of(settings(hub, tmp_path))).releases
    assert [evidence.stated for evidence in release.evidence] == ["apache-2.0"]


def test_a_parent_that_is_not_there_is_noted_and_left_out(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(repository("maker/orphan", license="mit", base_model="gone/away"))
    found = gather(known("maker/orphan"), None, ask_of(settings(hub, tmp_path)))
    assert [release.name for release in found.releases] == ["maker/orphan"]
    assert found.releases[0].parents == ("gone/away",)
    assert len(found.notes) == 1
    assert "gone/away" in found.notes[0]


def test_cycles_and_long_chains_end(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(repository("a/a", license="mit", base_model="b/b"))
    hub.add(repository("b/b", license="mit", base_model="a/a"))
    found = gather(known("a/a"), None, ask_of(settings(hub, tmp_path)))
    assert [release.name for release in found.releases] == ["a/a", "b/b"]
    for number in range(50):
        hub.add(repository(f"c/{number}", license="mit", base_model=f"c/{number + 1}"))
    found = gather(known("c/0"), None, ask_of(settings(hub, tmp_path)))
    assert len(found.releases) == MAX_DEPTH + 1
    parents = [f"p/{number}" for number in range(100)]
    for name in parents:
        hub.add(repository(name, license="mit"))
    hub.add(repository("merge/many", license="mit", base_model="[" + ", ".join(parents[:30]) + "]"))
    found = gather(known("merge/many"), None, ask_of(settings(hub, tmp_path)))
    assert len(found.releases) <= MAX_RELEASES


def test_of_a_gated_repository_the_hubs_own_reading_of_the_card_counts(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.add(
        FakeRepository(
            "meta/gated",
            {"README.md": card(license="llama3.1"), "LICENSE": FakeFile(b"terms", lfs=False)},
            card={"license": "llama3.1", "base_model": ["meta/base"]},
            gated="manual",
        )
    )
    found = gather(known("meta/gated"), None, ask_of(settings(hub, tmp_path)))
    (release,) = found.releases
    assert [evidence.stated for evidence in release.evidence] == ["llama3.1"]
    assert release.parents == ("meta/base",)
    assert any("README.md" in note for note in found.notes)


def test_a_licence_file_without_end_is_not_read_to_its_end(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(repository("maker/long", licence=b"word " * 300_000, license="mit"))
    found = gather(known("maker/long"), None, ask_of(settings(hub, tmp_path)))
    assert [evidence.rank for evidence in found.releases[0].evidence] == [Rank.CARD]
    assert any("LICENSE" in note for note in found.notes)
