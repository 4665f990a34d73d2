"""Clip-level metrics of tagging. Averages are over classes (macro), as usual for AudioSet."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from weakaudio.errors import ProtocolError


class TaggingMetrics(NamedTuple):
    """Means over all classes that have both positive and negative clips."""

    mean_ap: float
    """mean over classes of average precision, in [0, 1] (mAP)"""
    mean_auc: float
    """mean over classes of the area under the ROC curve, in [0, 1] (mAUC)"""
    d_prime: float
    """sqrt(2) * inverse normal CDF of mean_auc"""
    lwlrap: float
    """label-weighted label-ranking average precision, in [0, 1]"""
    prevalence: float
    """mean over classes of the part of clips that is positive: the mAP of random scores (chance)"""
    n_classes: int
    """classes in the means"""
    n_clips: int


def per_class_metrics(targets: NDArray[np.floating], scores: NDArray[np.floating]) -> pd.DataFrame:
    """Average precision, ROC AUC, label-ranking precision and positives of each class.

    Parameters
    ----------
    targets
        (clips, C), 0 or 1.
    scores
        (clips, C), larger where the class is more likely.

    Returns
    -------
    One row a class, with columns `ap`, `auc` (NaN where a class has no positive or no negative clip), `lwlrap` (NaN
    without a positive clip) and `positives`. `lwlrap` is that of DCASE 2019 task 2: averaged over the clips that have
    the class, the share of true labels among the classes that score at least as high in the clip. The mean over
    classes, weighted by `positives`, is the overall lwlrap.

    Raises
    ------
    ProtocolError
        Shapes differ, or scores are NaN.
    """
    targets, scores = np.asarray(targets), np.asarray(scores)
    if targets.shape != scores.shape or targets.ndim != 2:
        raise ProtocolError(f"targets {targets.shape} and scores {scores.shape}: expected (clips, classes) of both")
    if np.isnan(scores).any():
        raise ProtocolError(f"scores of {int(np.isnan(scores).any(1).sum())} clips are NaN")
    positives = targets.sum(0)
    rows = []
    for n in range(targets.shape[1]):
        defined = 0 < positives[n] < len(targets)
        holds = targets[:, n] > 0
        ahead = scores[holds] >= scores[holds, n, None]  # (positives, C); the class itself is among them
        precision = (ahead & (targets[holds] > 0)).sum(1) / ahead.sum(1)
        rows.append(
            {
                "ap": average_precision_score(targets[:, n], scores[:, n]) if defined else np.nan,
                "auc": roc_auc_score(targets[:, n], scores[:, n]) if defined else np.nan,
                "lwlrap": precision.mean() if len(precision) else np.nan,
                "positives": int(positives[n]),
            }
        )
    return pd.DataFrame(rows)


def tagging_metrics(targets: NDArray[np.floating], scores: NDArray[np.floating]) -> TaggingMetrics:
    """Metrics of clip scores (clips, C) against weak labels (clips, C).

    Raises
    ------
    ProtocolError
        Shapes differ, scores are NaN, or no class has both positive and negative clips.
    """
    table = per_class_metrics(targets, scores)
    defined = table["ap"].notna().to_numpy()
    if not defined.any():
        raise ProtocolError("no class has both positive and negative clips: nothing to measure")
    mean_auc = float(table["auc"].mean())
    return TaggingMetrics(
        mean_ap=float(table["ap"].mean()),
        mean_auc=mean_auc,
        d_prime=float(np.sqrt(2) * norm.ppf(mean_auc)),
        lwlrap=float((table["lwlrap"] * table["positives"]).sum() / table["positives"].sum()),
        prevalence=float(np.asarray(targets)[:, defined].mean()),
        n_classes=int(defined.sum()),
        n_clips=len(targets),
    )
