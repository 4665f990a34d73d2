"""Is one system better than another, or luckier? A paired bootstrap over the clips that both predicted."""

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
    """Accuracy of one system minus that of another, on the same clips."""

    difference: float
    """in [-1, 1]; above 0 the first is better"""
    low: float
    high: float
    """95 % confidence interval of the difference"""
    p_value: float
    """two-sided: how often resampling puts the difference on the other side of 0, doubled"""

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
    """Compare two systems that were cross-validated on the same clips (Efron and Tibshirani, 1993; percentiles).

    Clips of one recording are no independent witnesses, so recordings are drawn, with all their clips.

    Parameters
    ----------
    first, second
        Of `cross_validate`, on the same clips in the same order.
    y
        (n,) true class of each clip.
    sources
        (n,) the recording that each clip was cut from; None: every clip is its own.
    n_resamples
        How often the clips are drawn anew.
    seed
        Of these draws.

    Raises
    ------
    ProtocolError
        Predictions and truth of different lengths, or clips of one recording only.
    """
    truth = np.asarray(y)
    if not len(first.predictions) == len(second.predictions) == len(truth):
        raise ProtocolError(
            f"{len(first.predictions)} and {len(second.predictions)} predictions of {len(truth)} clips: both systems "
            "must have been cross-validated on the same clips"
        )
    gain = (first.predictions == truth).astype(int) - (second.predictions == truth).astype(int)
    groups = np.arange(len(truth)) if sources is None else np.asarray(sources, dtype=object)
    table = pd.DataFrame({"gain": gain, "clips": 1}).groupby(groups).sum()
    if len(table) < 2:
        raise ProtocolError("clips of one recording only: nothing can be said of others")

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
    drawn = found.bootstrap_distribution
    p_value = 2 * min((drawn <= 0).mean(), (drawn >= 0).mean())
    interval = found.confidence_interval
    return Comparison(float(gain.mean()), float(interval.low), float(interval.high), min(float(p_value), 1.0))
