"""Convolution that knows how high it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weakaudio.networks.layers import ConvNorm, clear
from weakaudio.networks.operators.operator import Operator


class FrequencyBlock(Operator):
    """Two 3x3 convolutions beside the identity, between which each channel is scaled and shifted by a learned amount
    in each band of mels.

    A pattern means something else at another frequency, but a convolution treats all alike. SubSpectral Normalization
    (Chang et al., arXiv 2103.13620) gives each band of a spectrogram a normalisation and an affine map of its own;
    here the map is, a band being one row of what is left of the mels, and the statistics are of all bands, so that
    they fold into the convolution. The block costs a dense one and one product a value.
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
