"""What requantising starts from: the best weights of the same model, and of no other."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from pathlib import Path

import pytest

from freehold.domain.settings import resolve
from freehold.lab.tune.derive import Derivation
from freehold.lab.tune.source import best_source
from freehold.weights.gguf import read_header
from freehold.weights.library import Library, LocalModel
from tests.support.command import freehold
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native
TUNE = ("--depth", "64", "--users", "1", "--formats", "Q4_0", "--minutes", "0.1")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def files(tmp_path: Path, home: Path) -> dict[str, Path]:
    """The same weights in two formats; and as if the second had been trained further."""
    exact = write_tiny_llama(tmp_path / "exact.gguf")
    library = Library.open(resolve({"home": str(home)}, environ={}))
    derivation = Derivation(library, library.local(str(exact)))
    made = asyncio.run(derivation.make("Q8_0", 1)).files[0].sha256
    rounded = Path(shutil.copy(library.store.blob_path(made), tmp_path / "rounded.gguf"))
    derivation.forget_all_but("")
    header = read_header(rounded)
    norm = next(tensor for tensor in header.tensors if tensor.name == "output_norm.weight")
    other = Path(shutil.copy(rounded, tmp_path / "other.gguf"))
    other.chmod(0o600)
    with other.open("r+b") as file:
        file.seek(header.data_offset + norm.offset)
        file.write(b"\0\0\0\x40")
    return {"exact": exact, "rounded": rounded, "other": other}


def imported(home: Path, path: Path, *base: str) -> LocalModel:
    assert freehold(home, "import", str(path)).status == 0
    library = Library.open(resolve({"home": str(home)}, environ={}))
    (manifest,) = (m for m in library.registry.models() if m.reference.startswith(path.stem))
    library.registry.put(dataclasses.replace(manifest, base_models=base))
    return library.local(manifest.reference)


def test_the_best_weights_of_the_same_model(home: Path, files: dict[str, Path]) -> None:
    exact = imported(home, files["exact"], "somebody/tiny")
    rounded = imported(home, files["rounded"], "somebody/tiny")
    library = Library.open(resolve({"home": str(home)}, environ={}))
    found = best_source(library, rounded)
    assert found.model.digest == exact.digest
    assert found.why == "both are called tiny llama and made of somebody/tiny"
    assert not found.quantised
    own = best_source(library, exact)
    assert (own.model.digest, own.why) == (exact.digest, None)


@pytest.mark.parametrize("kind", ["rounded", "other"])
def test_what_may_be_another_model_is_no_source(
    home: Path, files: dict[str, Path], kind: str
) -> None:
    """No base declared, or norms that are not the same."""
    imported(home, files["exact"], "somebody/tiny")
    model = imported(home, files[kind], *(("somebody/tiny",) if kind == "other" else ()))
    library = Library.open(resolve({"home": str(home)}, environ={}))
    assert best_source(library, model).why is None


def test_losses_are_against_the_source_and_its_weights_are_its_children(
    home: Path, files: dict[str, Path]
) -> None:
    exact = imported(home, files["exact"], "somebody/tiny")
    rounded = imported(home, files["rounded"], "somebody/tiny")
    said = freehold(home, "tune", rounded.reference, *TUNE, "--json", timeout=230)
    assert said.status == 0, said.err
    assert f"Requantising starts from {exact.reference} (F32), the best source here" in said.err
    assert said.json["baseline"]["loss"]["divergence"] > 0  # what rounding lost already
    assert "quantised already" not in said.err
    alone = freehold(home, "tune", exact.reference, *TUNE, "--json", timeout=230)
    assert alone.status == 0, alone.err
    assert alone.json["baseline"]["loss"] is None
