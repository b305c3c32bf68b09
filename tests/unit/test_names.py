"""Names of models, as far as whoever asks may know of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.domain.errors import UnknownModel
from freehold.domain.settings import resolve
from freehold.runtime.access.caller import OWNER, Caller, Scope, Terms, calling
from freehold.runtime.names import Names
from freehold.weights.library import Library
from freehold.weights.registry import Manifest, ModelFile

LIMITED = Caller("x", "x", Terms(frozenset({Scope.INFER}), models=("other*",)))


@pytest.fixture
def names(tmp_path: Path) -> Names:
    library = Library.open(resolve({"home": str(tmp_path)}, environ={}))
    files = (ModelFile("plans.gguf", 1, "0" * 64),)
    library.registry.put(
        Manifest("plans-of-ours:7b", files, "here", "2026-11-24T00:00:00+00:00", "0.1.0")
    )
    return Names(library, (Path("/models/served.gguf"),), {})


def test_a_near_name_is_told_to_those_who_may_see_it(names: Names) -> None:
    with calling(OWNER), pytest.raises(UnknownModel) as told:
        names.canonical("plans-of-our:7b")
    assert told.value.near == ("plans-of-ours:7b",)
    with calling(LIMITED), pytest.raises(UnknownModel) as hidden:
        names.canonical("plans-of-our:7b")
    assert hidden.value.near == ()
    assert "plans-of-ours" not in f"{hidden.value.message} {hidden.value.hint}"


def test_tags_are_told_to_those_who_may_see_them(names: Names) -> None:
    with calling(OWNER), pytest.raises(UnknownModel, match="plans-of-ours:8b") as told:
        names.canonical("plans-of-ours:8b")
    assert "plans-of-ours:7b" in (told.value.hint or "")
    with calling(LIMITED), pytest.raises(UnknownModel) as hidden:
        names.canonical("plans-of-ours:8b")
    assert "plans-of-ours:7b" not in (hidden.value.hint or "")


def test_a_served_file_is_shown_by_its_name(names: Names) -> None:
    assert names.shown("/models/served.gguf") == "served"
    assert names.shown("plans-of-ours:7b") == "plans-of-ours:7b"
