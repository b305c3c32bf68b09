"""The walk from a model to its ancestors, bounded whatever strangers state."""

from __future__ import annotations

import itertools

import pytest

from freehold.trust import licences
from freehold.trust.facts import Evidence, Rank, Relation, Release
from freehold.trust.lineage import (
    DEEPEST,
    MOST_PARENTS,
    MOST_RELEASES,
    relation_between,
    relation_of,
    walk,
)
from freehold.trust.verdict import Ancestor, Lineage

TABLE = licences.bundled()


def release(name: str, *parents: str, relation: Relation | None = None) -> Release:
    return Release(name, (Evidence(Rank.CARD, name, "mit"),), parents=parents, relation=relation)


def walked(model: str, *releases: Release) -> Lineage:
    return walk(model, {one.name: one for one in releases}, TABLE)


def size(node: Ancestor) -> int:
    return 1 + sum(map(size, node.parents))


def depth(node: Ancestor) -> int:
    return 1 + max(map(depth, node.parents), default=0)


def test_a_chain_is_walked_to_its_root() -> None:
    lineage = walked("a", release("a", "b"), release("b", "c"), release("c"))
    assert lineage.complete
    assert lineage.root.parents[0].parents[0].name == "c"
    assert lineage.root.licence == "mit"


def test_a_missing_parent_is_in_the_tree_and_a_gap() -> None:
    lineage = walked("a", release("a", "gone"))
    assert lineage.root.parents[0].known is False
    assert lineage.gaps == ("a names gone as its base, and nothing was read about that.",)


def test_a_model_nobody_read_is_a_gap() -> None:
    lineage = walked("a")
    assert not lineage.root.known
    assert not lineage.complete


@pytest.mark.parametrize("parents", [("a",), ("b",)])
def test_a_circle_ends_where_it_closes(parents: tuple[str, ...]) -> None:
    lineage = walked("a", release("a", *parents), release("b", "a"))
    assert "in a circle" in lineage.gaps[0]
    assert size(lineage.root) <= 2


def test_a_shared_ancestor_is_no_circle() -> None:
    lineage = walked(
        "a", release("a", "b", "c"), release("b", "d"), release("c", "d"), release("d")
    )
    assert lineage.complete


def test_depth_is_bounded() -> None:
    chain = [release(f"m{n}", f"m{n + 1}") for n in range(50)]
    lineage = walked("m0", *chain, release("m50"))
    assert depth(lineage.root) == DEEPEST + 1
    assert "more than 8 generations" in lineage.gaps[0]


def test_as_many_generations_as_allowed_are_complete() -> None:
    chain = [release(f"m{n}", f"m{n + 1}") for n in range(DEEPEST)]
    assert walked("m0", *chain, release(f"m{DEEPEST}")).complete


def test_width_and_size_are_bounded() -> None:
    names = [f"p{n}" for n in range(MOST_PARENTS + 5)]
    wide = walked("a", release("a", *names), *map(release, names))
    assert len(wide.root.parents) == MOST_PARENTS
    assert not wide.complete

    layers = [[f"l{level}-{n}" for n in range(6)] for level in range(7)]
    releases = [
        release(name, *below) for layer, below in itertools.pairwise(layers) for name in layer
    ]
    bushy = walked("l0-0", *releases, *map(release, layers[-1]))
    assert size(bushy.root) <= MOST_RELEASES
    assert not bushy.complete


@pytest.mark.parametrize(
    ("child", "parent", "relation"),
    [
        ("unsloth/DeepSeek-V3-GGUF", "deepseek-ai/DeepSeek-V3", Relation.QUANTIZED),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Qwen/Qwen2.5-0.5B-Instruct", Relation.QUANTIZED),
        ("x/Pixtral-Large-hf-quantized.w4a16", "mistralai/Pixtral-Large", Relation.QUANTIZED),
        ("mlx-community/Llama-8B", "meta-llama/Llama-8B", Relation.QUANTIZED),
        ("x/Mine-GGUF", "meta-llama/Llama-8B", None),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "meta-llama/Llama-8B", None),
    ],
)
def test_names_tell_a_quantisation(child: str, parent: str, relation: Relation | None) -> None:
    assert relation_between(release(child, parent), parent) is relation


def test_a_stated_relation_counts_before_the_names() -> None:
    stated = release("x/Llama-GGUF", "y/Llama", relation=Relation.FINETUNE)
    assert relation_between(stated, "y/Llama") is Relation.FINETUNE
    assert relation_of(stated) is Relation.FINETUNE


def test_several_parents_are_a_merge_unless_all_are_copies() -> None:
    assert relation_of(release("m", "a", "b")) is Relation.MERGE
    assert relation_of(release("x/a-gguf", "y/a", "z/a")) is Relation.QUANTIZED
    assert relation_of(release("m", "a")) is None
