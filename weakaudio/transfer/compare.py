"""Significance of a difference in accuracy: paired bootstrap over the clips that two systems predicted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import bootstrap

from weakaudio.errors import ProtocolError
from weakaudio.transfer.cross_validation import FoldScores


@dataclass(frozen=True)
class Comparison:
    """Difference in accuracy between two systems on the same clips."""

    difference: float
    """first minus second, in [-1, 1]"""
    low: float
    high: float
    """95 % confidence interval of the difference"""
    p_value: float
    """two-sided: twice the share of resamples with a difference on the other side of 0"""

    def __str__(self) -> str:
        return f"{self.difference:+.1%} ({self.low:+.1%} to {self.high:+.1%}, p = {self.p_value:.3f})"


def paired_bootstrap(
    first: FoldScores,
    second: FoldScores,
    y: ArrayLike,
    sources: ArrayLike | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems cross-validated on the same clips (percentile bootstrap; Efron and Tibshirani, 1993).

    Clips of one recording are not independent, so recordings are resampled, each with all its clips.

    Parameters
    ----------
    first, second
        Scores from `cross_validate`, on the same clips in the same order.
    y
        (n,) true class of each clip.
    sources
        (n,) recording that each clip was cut from; None if every clip is a recording of its own.
    n_resamples
        Number of bootstrap resamples.
    seed
        Seeds the resampling.

    Raises
    ------
    ProtocolError
        Predictions and true classes differ in length, or all clips are from one recording.
    """
    truth = np.asarray(y)
    if not len(first.predictions) == len(second.predictions) == len(truth):
        raise ProtocolError(
            f"{len(first.predictions)} and {len(second.predictions)} predictions for {len(truth)} clips: both "
            "systems must have been cross-validated on the same clips"
        )
    gain = (first.predictions == truth).astype(int) - (second.predictions == truth).astype(int)
    groups = np.arange(len(truth)) if sources is None else np.asarray(sources, dtype=object)
    table = pd.DataFrame({"gain": gain, "clips": 1}).groupby(groups).sum()
    if len(table) < 2:
        raise ProtocolError("all clips are from one recording: a comparison needs at least two")

    def difference(gains: np.ndarray, clips: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(gains.sum(axis) / clips.sum(axis))

    found = bootstrap(
        (table["gain"].to_numpy(), table["clips"].to_numpy()),
        difference,
        paired=True,
        vectorized=True,
        n_resamples=n_resamples,
        batch=1000,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    resampled, interval = found.bootstrap_distribution, found.confidence_interval
    p_value = 2 * min((resampled <= 0).mean(), (resampled >= 0).mean())
    return Comparison(float(gain.mean()), float(interval.low), float(interval.high), min(float(p_value), 1.0))
