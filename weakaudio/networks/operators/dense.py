"""Dense 3x3 convolutions."""

from __future__ import annotations

from torch import Tensor

from weakaudio.networks.layers import ConvNorm, clear
from weakaudio.networks.operators.operator import Operator


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
