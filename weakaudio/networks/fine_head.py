"""A head that scores in steps finer than the embeddings: what is heard from wide context, when from fine maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakaudio.audio.geometry import SegmentGeometry, length_mask
from weakaudio.networks.layers import ConvNorm, clear, ragged

REACH = 3  # embeddings on either side whose greatest logit counts as "what"
_TAPS, _LAYERS = 5, 2  # of the convolutions over time
_LOWEST = -20.0  # logit beyond the ends of a clip: never the greatest


class FineHead(nn.Module):
    """Logits at each step of the finest of several maps.

    Maps and embeddings are projected to one width, repeated to the finest step and added; two convolutions over time
    and a linear layer give a logit for each class. It is combined, with a gate for each class, with the greatest
    logit that the embeddings have within three steps of theirs: logit = a * fine + b * wide. With a = b = 1/2 this is
    the geometric mean of the odds: a sound is where both agree.

    Parameters
    ----------
    inputs
        Channels, remaining mels and stride (frames) of each map, the finest first.
    n_features, hop
        Width and stride (frames) of the embeddings.
    n_classes
        C
    width
        Channels of the projections and convolutions.
    """

    def __init__(
        self, inputs: Sequence[tuple[int, int, int]], n_features: int, hop: int, n_classes: int, width: int
    ) -> None:
        super().__init__()
        self.strides, self.hop, step = [stride for *_, stride in inputs], hop, inputs[0][2]
        self.geometry = SegmentGeometry(span=step, hop=step, lead=step // 2)
        self.maps = nn.ModuleList(nn.Conv2d(channels, width, (1, mels), bias=False) for channels, mels, _ in inputs)
        self.embedding = nn.Linear(n_features, width)
        self.convolutions = nn.ModuleList(
            ConvNorm(width, width, (_TAPS, 1), padding=(_TAPS // 2, 0), bias=False) for _ in range(_LAYERS)
        )
        self.classifier = nn.Linear(width, n_classes)
        self.gates = nn.Parameter(torch.full((2, n_classes), 0.5))

    @property
    def context(self) -> int:
        """Frames beyond an embedding's own, on each side, that a step sees in addition to the embedding's context."""
        return REACH * self.hop + self.hop // 2 + _LAYERS * (_TAPS // 2) * self.geometry.hop

    def forward(
        self, maps: Sequence[Tensor], embeddings: Tensor, wide: Tensor, mask: Tensor, lengths: Tensor
    ) -> Tensor:
        """Logits (B, R, C).

        Parameters
        ----------
        maps
            (B, channels, rows, mels), as the constructor's `inputs`.
        embeddings, wide, mask
            (B, S, D), their logits (B, S, C), and (B, S) bool.
        lengths
            (B,) frames of each clip.
        """
        steps = maps[0].shape[2]
        counts = self.geometry.segment_counts(lengths)
        inner = ragged(counts, steps)
        place = torch.arange(steps, device=lengths.device)
        ratio, segments = self.hop // self.geometry.hop, mask.sum(1)
        total = _repeat(self.embedding(embeddings), place, segments, ratio)
        for project, x, stride in zip(self.maps, maps, self.strides, strict=True):
            own = (lengths + (stride - 1)) // stride
            total = total + _repeat(project(x).squeeze(3).transpose(1, 2), place, own, stride // self.geometry.hop)
        y = clear(F.relu(total).transpose(1, 2)[..., None], inner)  # (B, width, R, 1)
        for layer in self.convolutions:
            y = clear(layer(y).relu_(), inner)
        fine = self.classifier(y.squeeze(3).transpose(1, 2))
        greatest = wide.masked_fill(~mask[:, :, None], _LOWEST).transpose(1, 2)
        greatest = F.max_pool1d(F.pad(greatest, (REACH, REACH), value=_LOWEST), 2 * REACH + 1, 1).transpose(1, 2)
        return self.gates[0] * fine + self.gates[1] * _repeat(greatest, place, segments, ratio)

    def mask(self, lengths: Tensor, steps: int) -> Tensor:
        """(B, R) bool: True where a step belongs to its clip."""
        return length_mask(self.geometry.segment_counts(lengths), steps)


def _repeat(x: Tensor, place: Tensor, counts: Tensor, ratio: int) -> Tensor:
    """Rows (B, n, K) to finer steps (B, R, K): the nearest of a clip's own `counts` (B,) rows, whose centres are at
    multiples of `ratio` steps."""
    if ratio == 1:
        return x
    nearest = (place + ratio // 2) // ratio
    which = torch.minimum(nearest[None], counts[:, None] - 1).to(torch.int64)  # (B, R); a float in a trace
    return x.gather(1, which[:, :, None].expand(-1, -1, x.shape[2]))
