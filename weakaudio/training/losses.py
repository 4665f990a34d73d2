"""What training minimises: one loss on clips (weak labels), one on segments (strong label assumption)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from weakaudio.networks import Output

_EDGE = 1e-7  # float32 cannot tell 1 - 1e-8 from 1; the logarithm must


def weak_loss(output: Output, targets: Tensor) -> Tensor:
    """Binary cross-entropy of the pooled clip probabilities against the weak labels (B, C) (arXiv 1711.01369, eq. 2).

    Mean over clips and classes, in float32 also inside autocast.
    """
    with torch.autocast(targets.device.type, enabled=False):
        probs = output.clip_probs.float().clamp(_EDGE, 1 - _EDGE)
        return F.binary_cross_entropy(probs, targets.float())


def slat_loss(output: Output, targets: Tensor) -> Tensor:
    """Binary cross-entropy of every segment against its clip's labels (B, C), as if they held throughout.

    The strong label assumption that weak training does without. Mean over all segments and classes.
    """
    with torch.autocast(targets.device.type, enabled=False):
        logits = output.segment_logits.float()
        copied = targets.float()[:, None].expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits[output.mask], copied[output.mask])


LOSSES: dict[str, Callable[[Output, Tensor], Tensor]] = {"weak": weak_loss, "slat": slat_loss}
