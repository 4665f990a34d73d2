"""Integer geometry of the time axis: from samples to frames, segments, seconds and a gapless score timeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Coverage = Literal["all", "paper"]
Count = TypeVar("Count", int, "Tensor")
"""A number, or an integer tensor of them."""
COVERAGES: tuple[Coverage, ...] = get_args(Coverage)
_DECIMALS = 6  # of times in seconds, so that rounding errors do not separate equal times


def frame_count(n_samples: Count, hop_length: int) -> Count:
    """Number of frames of a centred short-time transform: one at each multiple of the hop."""
    return 1 + n_samples // hop_length


def halve(length: Count, coverage: Coverage) -> Count:
    """Length after one 2x pooling: rounded up with coverage "all", down with "paper"."""
    return (length + 1 if coverage == "all" else length) // 2


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(B,) lengths to a (B, size) bool mask, true at positions before the end of their row."""
    import torch  # not needed to run an exported model

    return torch.arange(size, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True)
class SegmentGeometry:
    """Spans of a network's segments on its log-mel, in frames.

    Segment k covers frames [k * hop - lead, k * hop - lead + span). With coverage "all" every frame is covered: the
    last segment may extend past the end of the clip, or end slightly before it and then also stands for the rest.
    With "paper" trailing frames that do not fill a segment are dropped, as in the release of arXiv 1711.01369.
    """

    span: int
    """frames"""
    hop: int
    """frames"""
    coverage: Coverage = "all"
    lead: int = 0
    """frames by which the first segment starts before the clip: half a span if segments are centred on k * hop"""

    def n_segments(self, n_frames: int) -> int:
        """Number of segments of a clip of `n_frames` frames, at least one."""
        steps = -(-n_frames // self.hop) if self.coverage == "all" else n_frames // self.hop
        return max(steps + 1 - self.span // self.hop, 1)

    def segment_counts(self, n_frames: Tensor) -> Tensor:
        """`n_segments` of an integer tensor."""
        rounded = n_frames + (self.hop - 1) if self.coverage == "all" else n_frames
        return (rounded // self.hop + 1 - self.span // self.hop).clamp(min=1)

    def times(self, n_frames: int, frame_seconds: float, clip_seconds: float) -> NDArray[np.float64]:
        """Start and end of each segment of a clip.

        Parameters
        ----------
        n_frames
            Number of frames of the clip.
        frame_seconds
            Hop between frames, in seconds.
        clip_seconds
            Length of the clip.

        Returns
        -------
        (S, 2) seconds from the start of the clip, within [0, clip_seconds].
        """
        starts = np.arange(self.n_segments(n_frames)) * self.hop - self.lead
        seconds = np.stack([starts, starts + self.span], axis=1) * frame_seconds
        if self.coverage == "all":
            seconds[-1, 1] = clip_seconds
        return np.clip(seconds, 0.0, clip_seconds)


def timeline(
    scores: NDArray[np.floating], times: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Resolve overlapping segments into consecutive intervals, split wherever a segment starts or ends.

    The score of an interval is the mean over the segments that cover it. The mean, not the maximum: of the two
    segments that cover an interval next to an event only one contains the event, so the mean drops there, while the
    maximum would extend each event by a hop at both ends.

    Parameters
    ----------
    scores
        (S, C) probabilities of the segments.
    times
        (S, 2) start and end of each segment in seconds, in order and without gaps (as from `Model.segment_times`).

    Returns
    -------
    scores, edges
        (I, C) scores, and (I + 1,) seconds: interval i lasts from edges[i] to edges[i + 1].
    """
    times = np.round(times, _DECIMALS)
    edges = np.unique(times)
    middles = (edges[:-1] + edges[1:]) / 2
    # Starts and ends are sorted, so the segments that cover an interval are neighbours: first to last, exclusive.
    first = np.searchsorted(times[:, 1], middles, side="right")
    last = np.searchsorted(times[:, 0], middles, side="right")
    padded = np.concatenate([np.asarray(scores, dtype=np.float64), np.zeros((1, scores.shape[1]))])
    sums = np.add.reduceat(padded, np.stack([first, last], axis=1).reshape(-1))[::2]
    return sums / (last - first)[:, None], edges
