"""Losses: on clips (weak labels) and on segments (strong label assumption)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from weakaudio.networks import Output

_EDGE = 1e-7  # keeps logarithms finite; 1 - 1e-8 would be 1 in float32


def weak_loss(output: Output, targets: Tensor, focal_gamma: float = 0.0) -> Tensor:
    """Binary cross-entropy of the pooled clip probabilities against the weak labels (B, C) (arXiv 1711.01369, eq. 2).

    Mean over clips and classes, in float32 also inside autocast. Labels may be soft, in [0, 1]. Each term is weighted
    by (1 - p)^focal_gamma, with p the probability given to the correct answer (focal loss, arXiv 1708.02002).
    """
    with torch.autocast(targets.device.type, enabled=False):
        probs, targets = output.clip_probs.float().clamp(_EDGE, 1 - _EDGE), targets.float()
        return _mean(F.binary_cross_entropy(probs, targets, reduction="none"), probs, targets, focal_gamma)


def slat_loss(output: Output, targets: Tensor, focal_gamma: float = 0.0) -> Tensor:
    """Binary cross-entropy of every segment against its clip's labels (B, C): strong label assumption (SLAT).

    Mean over all segments and classes; soft labels and `focal_gamma` as in `weak_loss`.
    """
    with torch.autocast(targets.device.type, enabled=False):
        logits = output.segment_logits.float()
        copied = targets.float()[:, None].expand_as(logits)[output.score_mask]
        logits = logits[output.score_mask]
        terms = F.binary_cross_entropy_with_logits(logits, copied, reduction="none")
        return _mean(terms, logits.sigmoid(), copied, focal_gamma)


LOSSES: dict[str, Callable[..., Tensor]] = {"weak": weak_loss, "slat": slat_loss}


def smooth(targets: Tensor, amount: float) -> Tensor:
    """Label smoothing: 1 becomes 1 - amount / 2, and 0 becomes amount / 2 (arXiv 1512.00567)."""
    return targets * (1 - amount) + amount / 2


def _mean(terms: Tensor, probs: Tensor, targets: Tensor, focal_gamma: float) -> Tensor:
    if focal_gamma:
        wrong = 1 - (targets * probs + (1 - targets) * (1 - probs))
        terms = terms * wrong.clamp(min=_EDGE) ** focal_gamma  # the gradient of 0 ** gamma may be infinite
    return terms.mean()
