"""Segments of parts of a recording, and their pooling over time: summaries of parts join to that of the recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TIME_POOLINGS = ("mean", "max", "std")
"""over time; std is the standard deviation"""


def pool(segments: NDArray[np.float32], poolings: Sequence[str]) -> NDArray[np.float32]:
    """Pool segments (S, D) by each of the named poolings, concatenated: (len(poolings) * D,)."""
    return np.concatenate([getattr(segments, name)(0) for name in poolings])


@dataclass(frozen=True, eq=False)
class Part:
    """Segments of one window of a recording."""

    segments: NDArray[np.float32]
    """(S, D)"""
    times: NDArray[np.float64]
    """(S, 2) start and end of each segment, seconds from the start of the recording"""
    probs: NDArray[np.float32]
    """(C,) clip-level probabilities of its core, as the network scores a clip; (0,) unless class scores are asked"""
    context_before: int = 0
    """segments at its beginning that are in the core of the part before"""
    context_after: int = 0
    """segments at its end that are in the core of the part after"""

    @property
    def core(self) -> slice:
        """The segments that are in no other part's core."""
        return slice(self.context_before, len(self.segments) - self.context_after)


@dataclass(frozen=True, eq=False)
class Pooled:
    """Segments pooled over time by each pooling."""

    n: int
    """number of segments"""
    mean: NDArray[np.float32]
    """(D,)"""
    max: NDArray[np.float32]
    """(D,)"""
    std: NDArray[np.float32]
    """(D,)"""
    probs: NDArray[np.float32]
    """(C,) as in `Part`; of several parts, their mean weighted by the number of segments"""

    @classmethod
    def of(cls, part: Part) -> Pooled:
        """Pool the core of a part."""
        core = part.segments[part.core]
        return cls(len(core), core.mean(0), core.max(0), core.std(0), part.probs)


def join(summaries: Sequence[Pooled]) -> Pooled:
    """Join the summaries of a recording's parts to that of the recording."""
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
