"""Convolutional operators, with a receptive field of a few rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weakaudio.networks.layers import ConvNorm, clear
from weakaudio.networks.operators.operator import Operator

_EXPANSION = 4


class DenseBlock(Operator):
    """Residual block of two 3x3 convolutions (He et al., arXiv 1512.03385): few but large matrix products, which
    processors run close to their peak."""

    reach = 2

    def __init__(self, channels: int, n_mels: int) -> None:
        super().__init__(channels, n_mels)
        self.first = ConvNorm(channels, channels, 3, padding=1, bias=False)
        self.second = ConvNorm(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        y = clear(self.first(x).relu_(), lengths)
        return clear((x + self.second(y)).relu_(), lengths)


class FrequencyBlock(DenseBlock):
    """Residual block of two 3x3 convolutions, with a learned scale and shift of each channel in each mel band between
    them.

    A pattern has another meaning at another frequency, but a convolution treats all frequencies alike. SubSpectral
    Normalization (Chang et al., arXiv 2103.13620) normalises and affinely maps each band of a spectrogram separately;
    here only the affine map is separate, for each remaining mel band, and the statistics are shared, so that they
    fold into the convolution. The block costs a dense one plus one product per value.
    """

    def __init__(self, channels: int, n_mels: int) -> None:
        super().__init__(channels, n_mels)
        self.scale = nn.Parameter(torch.ones(n_mels, channels))
        self.shift = nn.Parameter(torch.zeros(n_mels, channels))

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        y = self.first(x)
        scale, shift = (bands.to(y.dtype).t()[:, None] for bands in (self.scale, self.shift))  # (channels, 1, n_mels)
        y = clear(torch.addcmul(shift, y, scale).relu_(), lengths)
        return clear((x + self.second(y)).relu_(), lengths)


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
