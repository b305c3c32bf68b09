"""The catalogue that ships: every row says where it comes from and can be acted on."""

from __future__ import annotations

import datetime
import re
from collections import Counter

import msgspec
import pytest

from freehold.domain.settings import Settings, default_home
from freehold.weights.catalog import Catalog, CatalogFile, CatalogModel, bundled, parse
from freehold.weights.naming import is_path, require_repository
from freehold.weights.origins import sources_of
from freehold.weights.progress import Silent
from freehold.weights.reference import NameReference
from freehold.weights.reference import parse as parse_reference

MODELS = bundled().models
FILES = [(model, file) for model in MODELS for file in model.file]

# The files that the package index carries too: reference -> SHA-256 and bytes.
KNOWN = {
    "qwen2.5-coder:0.5b": (
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        491_400_064,
    ),
    "qwen2.5-coder:1.5b": (
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        1_117_320_768,
    ),
    "gemma3:270m": (
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        253_113_024,
    ),
}

ROW = """
[[model]]
name = "tiny"
tag = "1b"
title = "Tiny"
source = ["https://example.org/tiny"]
checked = 2026-01-02
"""
FILE = """
[[model.file]]
quantisation = "Q4_K_M"
"""

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.reference)
each_file = pytest.mark.parametrize(
    ("model", "file"),
    FILES,
    ids=[f"{model.reference} {file.quantisation}" for model, file in FILES],
)


# What ships


def test_there_is_something_to_choose_from() -> None:
    assert len(MODELS) >= 30
    assert sum(model.fetchable for model in MODELS) >= 30


@each_model
def test_a_row_names_its_sources_and_when_they_were_read(model: CatalogModel) -> None:
    assert model.source
    assert all(source.startswith("https://") for source in model.source)
    assert datetime.date(2026, 1, 1) <= model.checked
    if model.architecture != type(model.architecture)():
        assert model.architecture.source


@each_model
def test_a_row_is_found_under_a_name_one_can_type(model: CatalogModel) -> None:
    reference = parse_reference(model.reference)
    assert reference == NameReference(model.name, model.tag)
    assert bundled().find(model.name, model.tag) is model


@each_model
def test_a_distillate_says_so_in_plain_words(model: CatalogModel) -> None:
    if model.distillate_of is not None:
        assert model.note
        assert f"not {model.distillate_of} itself" in model.note
        assert model.distillate_of not in (model.title, model.upstream)
        assert model.base_model
    else:
        assert "distill" not in f"{model.title} {model.upstream}".lower()


def test_only_one_model_of_its_name_is_deepseek_r1() -> None:
    rows = [model for model in MODELS if model.name == "deepseek-r1"]
    assert [model.tag for model in rows if model.distillate_of is None] == ["671b"]
    assert len(rows) >= 6


@pytest.mark.parametrize("name", sorted({model.name for model in MODELS}))
def test_a_name_means_exactly_one_model_when_no_tag_is_given(name: str) -> None:
    rows = [model for model in MODELS if model.name == name]
    defaults = [model for model in rows if model.default]
    assert len(defaults) == 1 if len(rows) > 1 else len(defaults) <= 1
    assert bundled().find(name, None) in (defaults or rows)


@each_model
def test_numbers_of_the_architecture_are_possible(model: CatalogModel) -> None:
    shape = model.architecture
    counts = {
        key: value
        for key, value in msgspec.structs.asdict(shape).items()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    assert all(value > 0 for value in counts.values())
    if shape.heads and shape.kv_heads:
        assert shape.heads % shape.kv_heads == 0
    if shape.experts and shape.experts_used:
        assert shape.experts_used <= shape.experts
    if shape.parameters and shape.active_parameters:
        assert shape.active_parameters < shape.parameters


# Its files


@each_file
def test_a_file_can_be_named_and_verified(model: CatalogModel, file: CatalogFile) -> None:
    assert re.fullmatch("[A-Z0-9_]+", file.quantisation)
    assert file.source or file.pieces
    assert all(is_path(path) and path.endswith(".gguf") for path in file.paths)
    if file.repository is not None:
        assert require_repository(file.repository) == file.repository
    if file.sha256 is not None:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert len(file.paths) <= 1, "a digest is of one file"
    if file.revision is not None:
        assert re.fullmatch("[0-9a-f]{40}", file.revision)
    if file.size is not None:
        assert file.size > 1_000_000


@each_file
def test_pieces_sum_to_the_file(model: CatalogModel, file: CatalogFile) -> None:
    if file.pieces:
        assert file.sha256 is not None, "nothing else vouches for what strangers uploaded"
        assert sum(piece.size for piece in file.pieces) == file.size
        assert all(re.fullmatch(r"[a-z0-9-]+", piece.package) for piece in file.pieces)
        assert len({piece.member for piece in file.pieces}) == len(file.pieces)
        assert file is model.default_file


def test_no_two_models_have_the_same_file() -> None:
    digests = Counter(file.sha256 for _, file in FILES if file.sha256 is not None)
    assert max(digests.values()) == 1


@each_model
def test_what_is_called_fetchable_has_a_source(model: CatalogModel) -> None:
    if model.fetchable:
        settings = Settings(home=default_home())
        assert sources_of(NameReference(model.name, model.tag), model, settings, Silent())


@pytest.mark.parametrize("reference", KNOWN)
def test_what_strangers_carry_is_pinned(reference: str) -> None:
    name, _, tag = reference.partition(":")
    model = bundled().find(name, tag)
    assert model is not None
    assert model.default_file is not None
    assert (model.default_file.sha256, model.default_file.size) == KNOWN[reference]
    assert model.default_file.pieces


# Data that is refused


def test_a_row_with_the_least_is_enough() -> None:
    (model,) = parse(ROW).models
    assert (model.reference, model.fetchable, model.licence) == ("tiny:1b", False, None)


def test_an_empty_catalogue_knows_nothing() -> None:
    assert parse("").models == ()
    assert parse("").find("tiny", None) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ROW + 'licens = "mit"\n', "licens"),
        (ROW + "[model.architecture]\nlayer = 2\n", "layer"),
        (ROW + FILE + 'url = "https://example.org"\n', "url"),
        (ROW.replace('title = "Tiny"\n', ""), "title"),
        (ROW.replace('source = ["https://example.org/tiny"]\n', ""), "source"),
        (ROW.replace("checked = 2026-01-02\n", ""), "checked"),
        (ROW.replace('"Tiny"', "7"), "Expected `str`"),
        (ROW.replace("2026-01-02", '"someday"'), "checked"),
        (ROW + FILE + 'size = "big"\n', "Expected `int"),
        (ROW + FILE + 'pieces = [{ package = "a", version = "1", size = 2 }]\n', "member"),
    ],
)
def test_a_row_with_a_mistake_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        parse(text)


def test_two_rows_of_one_name_and_tag_are_refused() -> None:
    with pytest.raises(ValueError, match="same name and tag"):
        parse(ROW + ROW)


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "a" * 65, "sha256:" + "a" * 64])
def test_a_malformed_digest_is_refused(digest: str) -> None:
    with pytest.raises(ValueError, match=r"tiny:1b: not a SHA-256"):
        parse(f'{ROW}{FILE}sha256 = "{digest}"\n')


# Choosing


@pytest.fixture
def two_tags() -> Catalog:
    return parse(ROW + ROW.replace('"1b"', '"2b"') + ROW.replace('"tiny"', '"single"'))


def test_without_a_default_several_tags_mean_none(two_tags: Catalog) -> None:
    assert two_tags.find("tiny", None) is None
    assert two_tags.tags("tiny") == ("1b", "2b")
    assert two_tags.tags("none") == ()


def test_a_single_row_is_its_own_default(two_tags: Catalog) -> None:
    found = two_tags.find("single", None)
    assert found is not None
    assert found.reference == "single:1b"
    assert two_tags.find("single", "9b") is None


def test_the_first_file_that_can_be_had_is_the_default() -> None:
    (model,) = parse(
        f'{ROW}{FILE}{FILE}repository = "maker/Tiny"\n{FILE}repository = "maker/Tiny"\n'
        'paths = ["tiny.gguf"]\n'
    ).models
    assert model.default_file == model.file[2]


@pytest.mark.parametrize(
    ("lines", "declared"),
    [
        ("", None),
        ('licence = "mit"\n', "mit"),
        ('licence = "other"\n', "other"),
        ('licence = "other"\nlicence_name = "deepseek"\n', "deepseek"),
        ('licence = "mit"\nlicence_name = "ours"\n', "mit"),
    ],
)
def test_a_licence_is_told_in_the_words_of_the_card(lines: str, declared: str | None) -> None:
    (model,) = parse(ROW + lines).models
    assert model.declared_licence == declared
