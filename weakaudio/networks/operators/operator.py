"""What all operators have in common."""

from __future__ import annotations

from torch import Tensor, nn


class Operator(nn.Module):
    """Adds to a map what it makes of it; built by `(channels, n_mels)`, n_mels being what is left of them in the map.

    A clip's output must not depend on what else is in its batch, nor on how far it is padded.
    """

    reach: int | None
    """rows before and after that an output depends on; None: on all of the clip"""

    def __init__(self, channels: int, n_mels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, channels, T, n_mels), cleared past the end of each clip, to the same.

        `lengths` (B,) are the rows of each clip, at least 1; None: all T.
        """
        raise NotImplementedError
