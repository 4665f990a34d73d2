"""Inverted residual: depthwise-separable convolution."""

from __future__ import annotations

from torch import Tensor

from weakaudio.networks.layers import ConvNorm, clear
from weakaudio.networks.operators.operator import Operator

_EXPANSION = 4


class InvertedResidual(Operator):
    """Expand, 3x3 depthwise convolution, project (Sandler et al., arXiv 1801.04381).

    Few products per channel, but low arithmetic intensity. Expands 4 times instead of the paper's 6, as the depthwise
    convolution is bound by memory on a processor.
    """

    reach = 1

    def __init__(self, channels: int, n_mels: int) -> None:
        super().__init__(channels, n_mels)
        wide = _EXPANSION * channels
        self.expand = ConvNorm(channels, wide, 1, padding=0, bias=False)
        self.depthwise = ConvNorm(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.project = ConvNorm(wide, channels, 1, padding=0, bias=False)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        y = clear(self.expand(x).relu_(), lengths)
        return clear(x + self.project(self.depthwise(y).relu_()), lengths)
