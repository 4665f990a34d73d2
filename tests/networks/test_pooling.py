from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from weakaudio.errors import WeakAudioError
from weakaudio.networks.pooling import POOLINGS, build_pooling

CLASSES, FEATURES = 3, 4


def mean(p: list[float]) -> float:
    return sum(p) / len(p)


def weighted(p: list[float], weights: list[float]) -> float:
    return sum(a * w for a, w in zip(p, weights, strict=True)) / sum(weights)


FORMULAS: dict[str, Callable[[list[float]], float]] = {
    "mean": mean,
    "max": max,
    "linear-softmax": lambda p: weighted(p, p),
    "exponential-softmax": lambda p: weighted(p, [math.exp(a) for a in p]),
}


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (B, S, C), mask (B, S) with at least one segment in each row, embeddings (B, S, D)."""
    counts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (len(counts), max(counts) + draw(st.integers(0, 2)))
    sharpness = draw(st.sampled_from([1.0, 10.0, 300.0]))  # at 300 probabilities are exactly 0 and 1
    probs = (sharpness * torch.randn(*shape, CLASSES, generator=generator)).sigmoid()
    mask = torch.arange(shape[1]) < torch.tensor(counts)[:, None]
    return probs, mask, torch.randn(*shape, FEATURES, generator=generator)


def inside(probs: Tensor, mask: Tensor, row: int, k: int) -> list[float]:
    return probs[row][mask[row]][:, k].tolist()


@pytest.mark.parametrize("name", FORMULAS)
@given(batch=batches())
def test_pooling_equals_its_formula(name: str, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    probs, mask, embeddings = batch
    pooled = build_pooling(name, CLASSES, FEATURES)(probs, mask, embeddings)
    for row in range(len(probs)):
        for k in range(CLASSES):
            p = inside(probs, mask, row, k)
            expected = FORMULAS[name](p) if any(p) else 0.0
            assert float(pooled[row, k]) == pytest.approx(expected, abs=1e-6)


@given(batch=batches(), alpha=st.lists(st.floats(-20, 20, width=32), min_size=CLASSES, max_size=CLASSES))
def test_auto_pooling_equals_its_formula(batch: tuple[Tensor, Tensor, Tensor], alpha: list[float]) -> None:
    probs, mask, embeddings = batch
    pooling = build_pooling("auto", CLASSES, FEATURES)
    pooling.load_state_dict({"alpha": torch.tensor(alpha)})
    pooled = pooling(probs, mask, embeddings)
    for row in range(len(probs)):
        for k in range(CLASSES):
            p = inside(probs, mask, row, k)
            assert float(pooled[row, k]) == pytest.approx(weighted(p, [math.exp(alpha[k] * a) for a in p]), abs=1e-5)


@given(batch=batches())
def test_attention_pooling_equals_its_formula(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    probs, mask, embeddings = batch
    pooling = build_pooling("attention", CLASSES, FEATURES)
    weight, bias = pooling.attention.weight.tolist(), pooling.attention.bias.tolist()
    pooled = pooling(probs, mask, embeddings)
    for row in range(len(probs)):
        for k in range(CLASSES):
            scores = [bias[k] + float(np.dot(weight[k], e)) for e in embeddings[row][mask[row]].tolist()]
            expected = weighted(inside(probs, mask, row, k), [math.exp(score) for score in scores])
            assert float(pooled[row, k]) == pytest.approx(expected, abs=1e-5)


@given(batch=batches())
def test_auto_pooling_is_the_mean_at_zero_and_the_maximum_at_large_alpha(
    batch: tuple[Tensor, Tensor, Tensor],
) -> None:
    auto = build_pooling("auto", CLASSES, FEATURES)
    for alpha, name in ((0.0, "mean"), (1e6, "max")):
        auto.load_state_dict({"alpha": torch.full((CLASSES,), alpha)})
        expected = build_pooling(name, CLASSES, FEATURES)(*batch)
        torch.testing.assert_close(auto(*batch), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
@given(batch=batches())
def test_masked_segments_have_no_influence(name: str, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    probs, mask, embeddings = batch
    pooling = build_pooling(name, CLASSES, FEATURES)
    pooled = pooling(probs, mask, embeddings)
    assert pooled.min() >= 0
    assert pooled.max() <= 1 + 1e-6
    outside = ~mask[:, :, None]
    for value in (0.0, 1.0):
        changed = pooling(probs.masked_fill(outside, value), mask, embeddings.masked_fill(outside, 100 * value))
        assert torch.equal(changed, pooled)


@pytest.mark.parametrize("name", POOLINGS)
@given(batch=batches())
def test_pooling_lies_between_minimum_and_maximum(name: str, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    probs, mask, embeddings = batch
    pooled = build_pooling(name, CLASSES, FEATURES)(probs, mask, embeddings)
    for row in range(len(probs)):
        own = probs[row][mask[row]]
        assert (pooled[row] >= own.amin(0) - 1e-6).all()
        assert (pooled[row] <= own.amax(0) + 1e-6).all()


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_gradient_is_finite_at_saturated_segments(name: str, logit: float) -> None:
    logits = torch.full((2, 5, CLASSES), logit, requires_grad=True)
    mask = torch.tensor([[True] * 5, [True] + [False] * 4])
    pooled = build_pooling(name, CLASSES, FEATURES)(logits.sigmoid(), mask, torch.zeros(2, 5, FEATURES))
    pooled.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert torch.count_nonzero(logits.grad[1, 1:]) == 0


def test_an_unknown_pooling_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(WeakAudioError, match=r"'median'.*mean, max"):
        build_pooling("median", 1, 1)
