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

    def forward_features(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
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
        features, _ = super().forward_features(windows, window_lengths)
        embeddings = features.new_zeros(*mask.shape, self.n_features)
        embeddings[mask] = features[:, 0]
        return embeddings, mask
