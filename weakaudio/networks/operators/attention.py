"""Self-attention over time, and the projections between rows of a map and tokens of a sequence."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from weakaudio.audio.geometry import length_mask
from weakaudio.networks.layers import ConvNorm, clear
from weakaudio.networks.operators.operator import Operator

_HEAD_WIDTH = 32


class Attention(Operator):
    """Multi-head self-attention between rows (Vaswani et al., arXiv 1706.03762).

    A token is a row with all its channels and mels; rows past the end of a clip are masked. There are no positional
    encodings, as the convolutions around it see order, and no feed-forward layer, as other operators take its place.
    Time grows with the square of the rows.
    """

    reach = None

    def __init__(self, channels: int, n_mels: int) -> None:
        super().__init__(channels, n_mels)
        self.heads, self.width = head_shape(channels)
        inner = self.heads * self.width
        self.project = ToTokens(channels, n_mels, 3 * inner)
        self.out = FromTokens(inner, channels, n_mels)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        parts = self.project(x).unflatten(2, (3, self.heads, self.width))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, T, width)
        inside = None if lengths is None else length_mask(lengths, x.shape[2])[:, None, None]  # (B, 1, 1, T)
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=inside)
        return clear(x + self.out(y.transpose(1, 2).flatten(2)), lengths)


def head_shape(channels: int) -> tuple[int, int]:
    """Number and width of attention heads: at least 32 channels each, or a single head of fewer."""
    heads = max(channels // _HEAD_WIDTH, 1)
    return heads, channels // heads


class ToTokens(ConvNorm):
    """Linear map of each row, with all its channels and mels, to a token; with batch normalisation."""

    def __init__(self, channels: int, n_mels: int, width: int) -> None:
        super().__init__(channels, width, kernel=(1, n_mels), padding=0, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T, width) of a map (B, channels, T, n_mels)."""
        return super().forward(x).squeeze(3).transpose(1, 2)


class FromTokens(ConvNorm):
    """Linear map of each token to a row; with batch normalisation of each channel and mel."""

    def __init__(self, width: int, channels: int, n_mels: int) -> None:
        super().__init__(width, n_mels * channels, kernel=1, padding=0, bias=False)
        self.shape = (n_mels, channels)  # their order in channels-last memory

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, channels, T, n_mels) of tokens (B, T, width)."""
        y = super().forward(tokens.transpose(1, 2)[..., None])  # (B, n_mels * channels, T, 1)
        return y.squeeze(3).transpose(1, 2).unflatten(2, self.shape).permute(0, 3, 1, 2)
