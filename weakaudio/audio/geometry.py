"""Integer geometry: samples to frames, frames to segments, segments to seconds. Computed here, never typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Coverage = Literal["all", "paper"]
_DECIMALS = 6  # of times in seconds: floating point may not tell apart what is one sample
COVERAGES: tuple[Coverage, ...] = get_args(Coverage)


def frame_count(n_samples: int, hop_length: int) -> int:
    """Frames of a centred short-time transform of `n_samples` samples: one at each multiple of the hop."""
    return 1 + n_samples // hop_length


def frame_counts(n_samples: Tensor, hop_length: int) -> Tensor:
    """`frame_count` for an integer tensor."""
    return 1 + torch.div(n_samples, hop_length, rounding_mode="floor")


def halve(length: int, coverage: Coverage) -> int:
    """Frames left after one 2x pooling: all seen (ceiling), or trailing odd ones dropped (floor)."""
    return -(-length // 2) if coverage == "all" else length // 2


def halves(lengths: Tensor, coverage: Coverage) -> Tensor:
    """`halve` for an integer tensor."""
    return torch.div(lengths + 1 if coverage == "all" else lengths, 2, rounding_mode="floor")


@dataclass(frozen=True)
class SegmentGeometry:
    """Where the segments of a network lie on its log-mel, in frames.

    Segment k stands for frames [k * hop - lead, k * hop - lead + span). With coverage "all" every frame is in a
    segment, the last of which may reach past the end of the clip, or end a little before it and then stands for the
    rest as well; with "paper" trailing frames that do not fill a segment are dropped, as the release of arXiv
    1711.01369 does.
    """

    span: int
    """frames"""
    hop: int
    """frames"""
    coverage: Coverage = "all"
    lead: int = 0
    """frames by which the first segment begins before the clip: half a span where segments are centred on k * hop"""

    def n_segments(self, n_frames: int) -> int:
        """Segments of a clip of `n_frames` frames; at least one."""
        extra = self.span // self.hop - 1
        steps = -(-n_frames // self.hop) if self.coverage == "all" else n_frames // self.hop
        return max(steps - extra, 1)

    def segment_counts(self, n_frames: Tensor) -> Tensor:
        """`n_segments` for an integer tensor."""
        extra = self.span // self.hop - 1
        rounded = n_frames + (self.hop - 1) if self.coverage == "all" else n_frames
        return (torch.div(rounded, self.hop, rounding_mode="floor") - extra).clamp(min=1)

    def times(self, n_frames: int, frame_seconds: float, clip_seconds: float) -> NDArray[np.float64]:
        """Start and end of each segment of a clip.

        Parameters
        ----------
        n_frames
            Frames of the clip.
        frame_seconds
            From one frame to the next.
        clip_seconds
            Length of the clip.

        Returns
        -------
        Array of shape (S, 2): seconds from the start of the clip, never past its end.
        """
        starts = np.arange(self.n_segments(n_frames)) * self.hop - self.lead
        seconds = np.stack([starts, starts + self.span], axis=1) * frame_seconds
        if self.coverage == "all":
            seconds[-1, 1] = clip_seconds
        return np.clip(seconds, 0.0, clip_seconds)


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """True where a position lies inside its row: (B,) lengths to a (B, size) bool mask."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def timeline(
    scores: NDArray[np.floating], times: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of overlapping segments become scores of pieces that follow each other.

    Time is cut wherever a segment starts or ends, and a piece's score is the mean over the segments that
    cover it. The mean, not the maximum: of the two segments over a piece beside an event only one holds the
    event, so the mean is lower there than inside the event, while the maximum would make each event longer by
    a hop at both ends.

    Parameters
    ----------
    scores
        (S, C) probabilities of the segments.
    times
        (S, 2) start and end of each, in seconds and in order, without a gap between them (as
        `Model.segment_times`).

    Returns
    -------
    pieces, edges
        (P, C) scores, and (P + 1,) seconds: piece p lasts from edges[p] to edges[p + 1].
    """
    times = np.round(times, _DECIMALS)
    edges = np.unique(times)
    middles = (edges[:-1] + edges[1:]) / 2
    # Starts and ends are in order, so segments over a piece are neighbours: first to last, exclusive.
    first = np.searchsorted(times[:, 1], middles, side="right")
    last = np.searchsorted(times[:, 0], middles, side="right")
    padded = np.concatenate([np.asarray(scores, dtype=np.float64), np.zeros((1, scores.shape[1]))])
    sums = np.add.reduceat(padded, np.stack([first, last], axis=1).reshape(-1))[::2]
    return sums / (last - first)[:, None], edges
