"""Segment probabilities become clip probabilities: six masked poolings, one interface.

Formulas after Wang, Li and Metze, "A comparison of five multiple instance learning pooling functions for sound
event detection with weak labeling" (arXiv 1810.09050); auto-pool after McFee, Salamon and Bello (arXiv 1804.10070).
In all of them p is (B, S, C) segment probabilities, and segments outside `mask` (B, S) have no weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weakaudio.errors import WeakAudioError

_TINY = 1e-12


class Pooling(nn.Module):
    """Base: `forward(probs (B, S, C), mask (B, S), embeddings (B, S, D)) -> (B, C)`.

    Built with the number of classes and the width of the embeddings, which only some poolings need.
    """

    def __init__(self, n_classes: int, n_features: int) -> None:
        super().__init__()

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        raise NotImplementedError


class MeanPooling(Pooling):
    """sum(p) / S: the pooling of arXiv 1711.01369."""

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        inside = mask[:, :, None]
        return torch.where(inside, probs, 0.0).sum(1) / inside.sum(1)


class MaxPooling(Pooling):
    """max(p): one segment is enough."""

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        return torch.where(mask[:, :, None], probs, 0.0).amax(1)


class LinearSoftmaxPooling(Pooling):
    """sum(p^2) / sum(p): segments weigh as much as they are sure."""

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        p = torch.where(mask[:, :, None], probs, 0.0)
        return p.square().sum(1) / p.sum(1).clamp(min=_TINY)


class ExponentialSoftmaxPooling(Pooling):
    """sum(p * exp(p)) / sum(exp(p))."""

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        weights = probs.masked_fill(~mask[:, :, None], -torch.inf).softmax(1)
        return (probs * weights).sum(1)


class AutoPooling(Pooling):
    """sum(p * exp(a p)) / sum(exp(a p)) with a learned per class: a = 0 is the mean, a large is the maximum."""

    def __init__(self, n_classes: int, n_features: int) -> None:
        super().__init__(n_classes, n_features)
        self.alpha = nn.Parameter(torch.ones(n_classes))

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        weights = (self.alpha * probs).masked_fill(~mask[:, :, None], -torch.inf).softmax(1)
        return (probs * weights).sum(1)


class AttentionPooling(Pooling):
    """sum(p * w) with w a softmax over the segments of a learned linear map of the embeddings, per class."""

    def __init__(self, n_classes: int, n_features: int) -> None:
        super().__init__(n_classes, n_features)
        self.attention = nn.Linear(n_features, n_classes)

    def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        weights = self.attention(embeddings).float().masked_fill(~mask[:, :, None], -torch.inf).softmax(1)
        return (probs * weights).sum(1)


POOLINGS: dict[str, type[Pooling]] = {
    "mean": MeanPooling,
    "max": MaxPooling,
    "linear-softmax": LinearSoftmaxPooling,
    "exponential-softmax": ExponentialSoftmaxPooling,
    "auto": AutoPooling,
    "attention": AttentionPooling,
}


def build_pooling(name: str, n_classes: int, n_features: int) -> Pooling:
    """A pooling by name.

    Raises
    ------
    WeakAudioError
        No pooling of that name.
    """
    if name not in POOLINGS:
        raise WeakAudioError(f"pooling {name!r}: unknown; there are {', '.join(POOLINGS)}")
    return POOLINGS[name](n_classes, n_features)
