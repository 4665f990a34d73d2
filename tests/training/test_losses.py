from __future__ import annotations

import math

import pytest
import torch

from weakaudio.networks import Output
from weakaudio.training.losses import LOSSES, slat_loss, smooth, weak_loss


def output(seed: int = 0) -> Output:
    """Three clips of 5, 2 and 1 segments, four classes."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    logits = torch.randn(3, 5, 4, generator=generator).masked_fill(~mask[:, :, None], 50.0)
    return Output(logits, torch.rand(3, 4, generator=generator), torch.zeros(3, 5, 2), mask, mask)


TARGETS = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).float()


def cross_entropy(p: float, y: float) -> float:
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


def test_weak_loss_equals_its_formula() -> None:
    out = output()
    terms = [cross_entropy(float(out.clip_probs[b, c]), float(TARGETS[b, c])) for b in range(3) for c in range(4)]
    assert float(weak_loss(out, TARGETS)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_slat_loss_compares_every_segment_with_its_clips_labels() -> None:
    out = output()
    terms = [
        cross_entropy(float(out.segment_logits[b, s, c].sigmoid()), float(TARGETS[b, c]))
        for b in range(3)
        for s in range(5)
        for c in range(4)
        if out.mask[b, s]
    ]
    assert len(terms) == 8 * 4
    assert float(slat_loss(out, TARGETS)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_weak_loss_and_gradient_are_finite_at_saturated_clips(probability: float, target: float) -> None:
    probs = torch.full((2, 4), probability, requires_grad=True)
    loss = weak_loss(output()._replace(clip_probs=probs), torch.full((2, 4), target))
    loss.backward()
    assert loss.isfinite()
    assert probs.grad is not None
    assert probs.grad.isfinite().all()
    assert (float(loss) > 10) == (probability != target)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_slat_loss_and_gradient_are_finite_at_saturated_segments(logit: float, target: float) -> None:
    logits = torch.full((3, 5, 4), logit, requires_grad=True)
    loss = slat_loss(output()._replace(segment_logits=logits), torch.full((3, 4), target))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert torch.count_nonzero(logits.grad[2, 1:]) == 0  # outside the mask


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_float32_inside_autocast(name: str) -> None:
    expected = LOSSES[name](output(), TARGETS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](output(), TARGETS)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_take_integer_targets(name: str) -> None:
    assert torch.equal(LOSSES[name](output(), TARGETS.long()), LOSSES[name](output(), TARGETS))


SOFT = torch.tensor([[0.9, 0.0, 1.0, 0.3], [0.0, 0.1, 0.5, 0.0], [1.0, 1.0, 0.2, 1.0]])


def focal(p: float, y: float, gamma: float) -> float:
    right = y * p + (1 - y) * (1 - p)
    return (1 - right) ** gamma * cross_entropy(p, y)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_losses_equal_their_formula(gamma: float) -> None:
    out = output()
    clips = [focal(float(out.clip_probs[b, c]), float(SOFT[b, c]), gamma) for b in range(3) for c in range(4)]
    assert float(weak_loss(out, SOFT, gamma)) == pytest.approx(sum(clips) / len(clips), rel=1e-5)
    segments = [
        focal(float(out.segment_logits[b, s, c].sigmoid()), float(SOFT[b, c]), gamma)
        for b in range(3)
        for s in range(5)
        for c in range(4)
        if out.mask[b, s]
    ]
    assert float(slat_loss(out, SOFT, gamma)) == pytest.approx(sum(segments) / len(segments), rel=1e-5)


def test_label_smoothing_moves_targets_towards_one_half() -> None:
    assert smooth(torch.tensor([0.0, 0.5, 1.0]), 0.1).tolist() == pytest.approx([0.05, 0.5, 0.95])


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_gradients_are_finite_at_saturated_segments(gamma: float) -> None:
    logits = torch.tensor([200.0, -200.0, 20.0, 0.0]).repeat(3, 5, 1).requires_grad_()
    slat_loss(output()._replace(segment_logits=logits), torch.ones(3, 4), gamma).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
