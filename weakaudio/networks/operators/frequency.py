"""Frequency-aware convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weakaudio.networks.layers import ConvNorm, clear
from weakaudio.networks.operators.operator import Operator


class FrequencyBlock(Operator):
    """Residual block of two 3x3 convolutions, with a learned scale and shift of each channel in each mel band between
    them.

    A pattern has another meaning at another frequency, but a convolution treats all frequencies alike. SubSpectral
    Normalization (Chang et al., arXiv 2103.13620) normalises and affinely maps each band of a spectrogram separately;
    here only the affine map is separate, for each remaining mel band, and the statistics are shared, so that they
    fold into the convolution. The block costs a dense one plus one product per value.
    """

    reach = 2

    def __init__(self, channels: int, n_mels: int) -> None:
        super().__init__(channels, n_mels)
        self.first = ConvNorm(channels, channels, 3, padding=1, bias=False)
        self.scale = nn.Parameter(torch.ones(n_mels, channels))
        self.shift = nn.Parameter(torch.zeros(n_mels, channels))
        self.second = ConvNorm(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        y = self.first(x)
        scale, shift = (bands.to(y.dtype).t()[:, None] for bands in (self.scale, self.shift))  # (channels, 1, n_mels)
        y = clear(torch.addcmul(shift, y, scale).relu_(), lengths)
        return clear((x + self.second(y)).relu_(), lengths)
