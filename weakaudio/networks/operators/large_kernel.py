"""Depthwise convolution with a large kernel."""

from __future__ import annotations

from torch import Tensor, nn

from weakaudio.networks.layers import ConvNorm, clear
from weakaudio.networks.operators.operator import Operator

_EXPANSION = 4


class LargeKernelBlock(Operator):
    """7x7 depthwise convolution, then 1x1 expansion and projection, as in ConvNeXt (Liu et al., arXiv 2201.03545).

    Batch normalisation, which folds into the convolutions, replaces the paper's layer normalisation and, after the
    projection, its layer scale. The activation is a ReLU instead of a GELU.
    """

    reach = 3

    def __init__(self, channels: int, n_mels: int) -> None:
        super().__init__(channels, n_mels)
        wide = _EXPANSION * channels
        self.depthwise = ConvNorm(channels, channels, 7, padding=3, groups=channels, bias=False)
        self.expand = nn.Conv2d(channels, wide, 1)
        self.project = ConvNorm(wide, channels, 1, padding=0, bias=False)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        y = self.expand(self.depthwise(x)).relu_()
        return clear(x + self.project(y), lengths)
