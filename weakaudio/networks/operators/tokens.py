"""Rows of a map as tokens of a sequence, and back."""

from __future__ import annotations

from torch import Tensor

from weakaudio.networks.layers import ConvNorm

_HEAD_WIDTH = 32


def head_shape(channels: int) -> tuple[int, int]:
    """Number and width of the heads of an operator: of 32 channels each, or a few more; one if there are fewer."""
    heads = max(channels // _HEAD_WIDTH, 1)
    return heads, channels // heads


class ToTokens(ConvNorm):
    """A vector of each row, by a linear map of all its channels and mels, and batch normalisation."""

    def __init__(self, channels: int, n_mels: int, width: int) -> None:
        super().__init__(channels, width, kernel=(1, n_mels), padding=0, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T, n_mels) to (B, T, width)"""
        return super().forward(x).squeeze(3).transpose(1, 2)


class FromTokens(ConvNorm):
    """A row of each vector, by a linear map and batch normalisation of each channel and mel."""

    def __init__(self, width: int, channels: int, n_mels: int) -> None:
        super().__init__(width, n_mels * channels, kernel=1, padding=0, bias=False)
        self.shape = (n_mels, channels)  # in which a map laid out channels-last has them

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, width) to (B, channels, T, n_mels)"""
        y = super().forward(tokens.transpose(1, 2)[..., None])  # (B, n_mels * channels, T, 1)
        return y.squeeze(3).transpose(1, 2).unflatten(2, self.shape).permute(0, 3, 1, 2)
