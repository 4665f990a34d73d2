"""Self-attention over time."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from weakaudio.audio.geometry import length_mask
from weakaudio.networks.layers import clear
from weakaudio.networks.operators.operator import Operator
from weakaudio.networks.operators.tokens import FromTokens, ToTokens, head_shape


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
