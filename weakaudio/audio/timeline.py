"""Scores of segments, which may overlap, become scores along the recording."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_DECIMALS = 6  # of times in seconds: floating point may not tell apart what is one sample


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
