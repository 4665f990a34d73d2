"""The contract of operators."""

from __future__ import annotations

from torch import Tensor, nn


class Operator(nn.Module):
    """Base of residual blocks on a map of `channels` channels and `n_mels` (remaining) mel bands.

    A clip's output must depend neither on the other clips of its batch nor on its padding.
    """

    reach: int | None
    """receptive field in rows, before and after each; None: the whole clip"""

    def __init__(self, channels: int, n_mels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Map (B, channels, T, n_mels) from another; both are 0 past the end of each clip.

        `lengths` (B,) are the rows of each clip, at least 1; None: all T.
        """
        raise NotImplementedError
