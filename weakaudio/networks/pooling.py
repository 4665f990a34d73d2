"""Pooling of segment probabilities to clip probabilities.

To add a pooling, subclass `Pooling` and list the class in `POOLINGS`: `pooling=NAME` then selects it in every network
that pools, and the tests of poolings and of the contract cover it.

Formulas after Wang, Li and Metze, "A comparison of five multiple instance learning pooling functions for sound
event detection with weak labeling" (arXiv 1810.09050); auto-pool after McFee, Salamon and Bello (arXiv 1804.10070).
In all of them p are segment probabilities (B, S, C), and segments outside `mask` (B, S) have no weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weakaudio.errors import WeakAudioError

_TINY = 1e-12


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean (B, D) of each clip's values (B, S, D) over its own segments, where `mask` (B, S) is True."""
    inside = mask[:, :, None]
    return torch.where(inside, x, 0.0).sum(1) / inside.sum(1)


def _softmax_mean(probs: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
    return (probs * logits.masked_fill(~mask[:, :, None], -torch.inf).softmax(1)).sum(1)


class Pooling(nn.Module):
    """Base of all poolings, built with the number of classes C and the width D of the embeddings.

    The result lies between the smallest and the largest segment probability.
    """

    def __init__(self, n_classes: int, n_features: int) -> None:
        super().__init__()

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        """Clip probabilities (B, C) from probs (B, S, C), mask (B, S) and embeddings (B, S, D)."""
        raise NotImplementedError


class MeanPooling(Pooling):
    """sum(p) / S: the pooling of arXiv 1711.01369."""

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        return masked_mean(probs, mask)


class MaxPooling(Pooling):
    """max(p): a single segment decides."""

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        return torch.where(mask[:, :, None], probs, 0.0).amax(1)


class LinearSoftmaxPooling(Pooling):
    """sum(p^2) / sum(p): segments are weighted by their probabilities."""

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        p = torch.where(mask[:, :, None], probs, 0.0)
        return p.square().sum(1) / p.sum(1).clamp(min=_TINY)


class ExponentialSoftmaxPooling(Pooling):
    """sum(p * exp(p)) / sum(exp(p))."""

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        return _softmax_mean(probs, mask, probs)


class AutoPooling(Pooling):
    """sum(p * exp(a p)) / sum(exp(a p)) with a learned for each class; a = 0 is the mean, large a the maximum."""

    def __init__(self, n_classes: int, n_features: int) -> None:
        super().__init__(n_classes, n_features)
        self.alpha = nn.Parameter(torch.ones(n_classes))

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        return _softmax_mean(probs, mask, self.alpha * probs)


class AttentionPooling(Pooling):
    """sum(p * w), with w for each class a softmax over segments of a learned linear map of the embeddings."""

    def __init__(self, n_classes: int, n_features: int) -> None:
        super().__init__(n_classes, n_features)
        self.attention = nn.Linear(n_features, n_classes)

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        return _softmax_mean(probs, mask, self.attention(embeddings).float())


POOLINGS: dict[str, type[Pooling]] = {
    "mean": MeanPooling,
    "max": MaxPooling,
    "linear-softmax": LinearSoftmaxPooling,
    "exponential-softmax": ExponentialSoftmaxPooling,
    "auto": AutoPooling,
    "attention": AttentionPooling,
}


def build_pooling(name: str, n_classes: int, n_features: int) -> Pooling:
    """Build a pooling by its name in `POOLINGS`.

    Raises
    ------
    WeakAudioError
        Unknown name.
    """
    if name not in POOLINGS:
        raise WeakAudioError(f"pooling {name!r}: unknown; there are {', '.join(POOLINGS)}")
    return POOLINGS[name](n_classes, n_features)
