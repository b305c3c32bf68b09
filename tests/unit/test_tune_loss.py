"""The loss of other weights, from logits to the numbers that are printed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.engines.llamacpp.divergence import Rows, difference, log_softmax, total
from freehold.lab.tune import corpus
from freehold.lab.tune.loss import summarise

SAID = np.array([0, 1, 2], dtype=np.int64)


def rows(seed: int, scale: float = 3.0) -> Rows:
    return np.random.default_rng(seed).normal(0, scale, (3, 50)).astype(np.float32)


@given(st.integers(0, 999), st.integers(0, 999))
def test_the_divergence_is_that_of_its_definition(one: int, other: int) -> None:
    source, changed = rows(one), rows(other)
    told = difference(source, changed, SAID)
    p = np.exp(source.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    q = np.exp(changed.astype(np.float64))
    q /= q.sum(axis=1, keepdims=True)
    assert math.isclose(told.divergence, (p * np.log(p / q)).sum(), rel_tol=1e-9, abs_tol=1e-9)
    assert told.divergence >= -1e-9
    assert math.isclose(told.other_loss, -np.log(q[np.arange(3), SAID]).sum(), rel_tol=1e-9)
    assert told.agreed == (p.argmax(axis=1) == q.argmax(axis=1)).sum()


def test_a_model_loses_nothing_against_itself() -> None:
    told = difference(rows(1), rows(1), SAID)
    assert told.divergence == 0
    assert told.agreed == told.tokens == 3
    assert told.source_loss == told.other_loss


def test_a_constant_added_to_logits_changes_nothing_and_large_ones_do_not_overflow() -> None:
    told = difference(rows(1), rows(1) + 500, SAID)
    assert told.divergence == pytest.approx(0, abs=1e-4)
    assert np.isfinite(log_softmax(rows(1, 1e4))).all()


def test_pieces_of_a_window_add_up() -> None:
    whole = difference(rows(1), rows(2), SAID)
    pieces = [difference(rows(1)[i : i + 1], rows(2)[i : i + 1], SAID[i : i + 1]) for i in range(3)]
    added = total(pieces)
    assert added.tokens == whole.tokens
    assert added.agreed == whole.agreed
    assert math.isclose(added.divergence, whole.divergence, rel_tol=1e-9)


def test_errors_are_those_of_the_means_of_windows() -> None:
    windows = [difference(rows(seed), rows(seed + 100), SAID) for seed in range(20)]
    loss = summarise(windows)
    each = np.array([w.divergence / 3 for w in windows])
    assert loss.tokens == 60
    assert loss.divergence == pytest.approx(each.mean())
    assert loss.divergence_error == pytest.approx(each.std(ddof=1) / math.sqrt(20))
    added = np.array([(w.other_loss - w.source_loss) / 3 for w in windows])
    assert loss.perplexity / loss.source_perplexity == pytest.approx(math.exp(added.mean()))


def test_one_window_has_no_error() -> None:
    with pytest.raises(ValueError, match="spread"):
        summarise([difference(rows(1), rows(2), SAID)])


def test_the_text_is_long_enough_and_begins_after_its_header() -> None:
    text = corpus.text()
    assert text.startswith("Loomings.\n\nCall me Ishmael.")
    assert 60_000 < len(text.encode()) < 120_000
    assert "npm package" not in text
