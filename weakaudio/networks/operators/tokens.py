"""Projections between rows of a map and tokens of a sequence."""

from __future__ import annotations

from torch import Tensor

from weakaudio.networks.layers import ConvNorm

_HEAD_WIDTH = 32


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
