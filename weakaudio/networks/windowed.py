"""The network of strong label assumption training (SLAT): windows of a clip, each looked at by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weakaudio.networks.weakcnn import WeakCNN


class WindowedCNN(WeakCNN):
    """A `WeakCNN` that is shown one segment-sized window at a time, as SLAT trains it.

    A clip is cut into the windows that are WeakCNN's segments (128 frames, hop 64), and each goes through the
    network as if it were a clip. Neighbouring windows share half their frames, so this costs up to twice the
    convolutions of WeakCNN. The windows' scores are merged by `pooling` (arXiv 1711.01369 does not say how; the
    mean is the default). To be trained with the loss "slat". Arguments are WeakCNN's.
    """

    @property
    def context(self) -> int | None:
        return 0

    def forward_trunk(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As the contract says; a row is a window, whose own rows are beside each other in the channels."""
        if lengths is None:
            lengths = torch.full((len(logmel),), logmel.shape[1], device=logmel.device)
        span, hop = self.geometry.span, self.geometry.hop
        n_windows = self.geometry.n_segments(logmel.shape[1])
        frames = (n_windows - 1) * hop + span
        logmel = F.pad(logmel, (0, 0, 0, max(frames - logmel.shape[1], 0)))[:, :frames]
        starts = torch.arange(n_windows, device=logmel.device) * hop
        mask = starts < self.geometry.segment_counts(lengths)[:, None] * hop  # (B, S)

        windows = logmel.unfold(1, span, hop).transpose(2, 3)[mask]  # (windows of all clips, span, F)
        window_lengths = (lengths[:, None] - starts)[mask].clamp(1, span)
        own, _ = super().forward_trunk(windows, window_lengths)  # (windows, channels, 2, F')
        x = own.new_zeros(*mask.shape, own.shape[1] * own.shape[2], own.shape[3])
        x[mask] = own.flatten(1, 2)
        return x.transpose(1, 2), mask

    def forward_last(self, x: Tensor, mask: Tensor) -> Tensor:
        windows = x.transpose(1, 2)[mask].unflatten(1, (-1, 2))
        embeddings = x.new_zeros(*mask.shape, self.n_features)
        embeddings[mask] = super().forward_last(windows, mask)[:, 0]
        return embeddings
