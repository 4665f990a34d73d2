"""What a network says of a part of a recording, and how parts become the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POOLINGS = ("mean", "max", "std")
"""over time; std is the standard deviation"""


def pool(segments: NDArray[np.float32], poolings: Sequence[str]) -> NDArray[np.float32]:
    """(S, D) segments to one vector, of as many times D as there are poolings (names of `POOLINGS`)."""
    return np.concatenate([getattr(segments, name)(0) for name in poolings])


@dataclass(frozen=True, eq=False)
class Part:
    """Segments of a part of a recording."""

    segments: NDArray[np.float32]
    """(S, D)"""
    times: NDArray[np.float64]
    """(S, 2) start and end of each segment, seconds from the start of the recording"""
    probs: NDArray[np.float32]
    """(C,) probability of each class in this part, as the network scores a clip; (0,) if it was not asked"""
    n_before: int = 0
    """the first so many segments belong to the part before"""
    n_after: int = 0
    """the last so many segments belong to the part after"""

    @property
    def own(self) -> slice:
        """Its own among its segments."""
        return slice(self.n_before, len(self.segments) - self.n_after)


@dataclass(frozen=True, eq=False)
class Pooled:
    """Segments pooled over time, in each way."""

    n: int
    """segments"""
    mean: NDArray[np.float32]
    """(D,)"""
    max: NDArray[np.float32]
    """(D,)"""
    std: NDArray[np.float32]
    """(D,)"""
    probs: NDArray[np.float32]
    """(C,) as of `Part`; of several parts, their mean by the number of segments"""

    @classmethod
    def of(cls, part: Part) -> Pooled:
        """Of a part's own segments."""
        own = part.segments[part.own]
        return cls(len(own), own.mean(0), own.max(0), own.std(0), part.probs)


def join(summaries: Sequence[Pooled]) -> Pooled:
    """Of a recording, from those of its parts."""
    if len(summaries) == 1:
        return summaries[0]
    counts = np.array([one.n for one in summaries])
    means, stds, probs = (
        np.stack([getattr(one, name) for one in summaries]).astype(np.float64) for name in ("mean", "std", "probs")
    )
    mean = np.average(means, 0, counts)
    variance = np.average(stds**2 + (means - mean) ** 2, 0, counts)  # within parts, and between them
    return Pooled(
        int(counts.sum()),
        mean.astype(np.float32),
        np.max([one.max for one in summaries], axis=0),
        np.sqrt(variance).astype(np.float32),
        np.average(probs, 0, counts).astype(np.float32),
    )
