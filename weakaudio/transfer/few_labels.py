"""A classifier of own classes from a handful of clips, and an honest estimate of how good it is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from weakaudio.errors import ProtocolError
from weakaudio.networks.contract import StagedNetwork
from weakaudio.networks.model import Model
from weakaudio.transfer.cross_validation import FoldScores, cross_validate

SIZES = (5, 10, 20, 40)  # labelled clips of each class, in the learning curve
_C = 0.01
_MOST_FOLDS = 5


@dataclass(frozen=True)
class Quality:
    """How good a classifier of these classes is on clips it has not heard."""

    scores: FoldScores
    """cross-validated, trained on all clips of the other folds"""
    curve: pd.DataFrame
    """labels (a class), accuracy, std (over folds and draws), n: as if fewer clips had been labelled"""


def fold_by_recording(y: Sequence[str], sources: Sequence[str] | None = None, seed: int = 0) -> NDArray[np.int64]:
    """(n,) folds 1, 2, ... in which classes are spread evenly and no recording is in two; five, or as many as the
    rarest class has recordings.

    Raises
    ------
    ProtocolError
        A class of one recording only.
    """
    groups = np.arange(len(y)) if sources is None else np.unique(list(sources), return_inverse=True)[1]
    recordings = pd.Series(groups).groupby(list(y)).nunique()
    if recordings.min() < 2:
        rare = recordings.idxmin()
        raise ProtocolError(
            f"class {rare!r} has clips of one recording only, so none is left to test on: add some, or leave it out"
        )
    splitter = StratifiedGroupKFold(min(_MOST_FOLDS, int(recordings.min())), shuffle=True, random_state=seed)
    folds = np.zeros(len(y), dtype=np.int64)
    for number, (_, test) in enumerate(splitter.split(np.zeros(len(y)), list(y), groups), 1):
        folds[test] = number
    return folds


def estimate_quality(
    X: NDArray[np.floating], y: Sequence[str], sources: Sequence[str] | None = None, repeats: int = 3, seed: int = 0
) -> Quality:
    """Cross-validate the classifier of `train_head`, with all labels and with fewer.

    Parameters
    ----------
    X
        (n, D) clip embeddings.
    y
        (n,) classes.
    sources
        (n,) the recording that each clip was cut from; None: every clip is its own.
    repeats
        Draws of the fewer labels in each fold.

    Raises
    ------
    ProtocolError
        As `fold_by_recording` and `cross_validate`.
    """
    X = np.asarray(X, dtype=np.float64)  # in float32 the regression stops early
    truth, folds = np.asarray(y), fold_by_recording(y, sources, seed)
    scores = cross_validate(_classifier(), X, truth, folds, sources)
    rng = np.random.default_rng(seed)
    rows = []
    for size in SIZES:
        found = []
        for fold in np.unique(folds):
            train, test = np.flatnonzero(folds != fold), folds == fold
            by_class = [train[truth[train] == name] for name in np.unique(truth)]
            if min(len(own) for own in by_class) < size:
                break
            for _ in range(repeats):
                drawn = np.concatenate([rng.choice(own, size, replace=False) for own in by_class])
                found.append(
                    float((_classifier().fit(X[drawn], truth[drawn]).predict(X[test]) == truth[test]).mean())
                )
        else:
            rows.append((size, np.mean(found), np.std(found, ddof=1), len(found)))
    return Quality(scores, pd.DataFrame(rows, columns=["labels", "accuracy", "std", "n"]))


def train_head(model: Model, X: NDArray[np.floating], y: Sequence[str]) -> Model:
    """A copy of a model whose head was trained on clip embeddings of own classes, in closed form and in seconds.

    Logistic regression, one class against the rest, on standardised embeddings; the standardisation is folded into
    the weights, so that the model is as fast as before.

    Parameters
    ----------
    model
        Its network scores a clip by its mean embedding, through one linear layer ("flash").
    X
        (n, D) mean embeddings of clips, by `Embedder(model)`.
    y
        (n,) classes.

    Raises
    ------
    ProtocolError
        A network of another kind, for which `adapt` is the way; fewer than two classes.
    """
    network = copy.deepcopy(model.network)
    if not isinstance(network, StagedNetwork) or network.classifier.in_features != network.n_features:
        raise ProtocolError(
            f"{type(network).__name__} does not score clips by one layer on their mean embedding: adapt it instead"
        )
    labels = sorted(set(y))
    if len(labels) < 2:
        raise ProtocolError(f"one class only, {labels}: add clips of something else, or there is nothing to tell")
    classifier = _classifier().fit(np.asarray(X, dtype=np.float64), np.asarray(y))  # in float32 it stops early
    scaler, heads = classifier[0], classifier[1]
    weight = np.concatenate([head.coef_ for head in heads.estimators_])
    bias = np.concatenate([head.intercept_ for head in heads.estimators_])
    if len(labels) == 2:  # scikit-learn keeps the second class alone
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    weight = weight / scaler.scale_
    network.reset_classifier(len(labels))
    with torch.no_grad():
        network.classifier.weight.copy_(torch.from_numpy(weight))
        network.classifier.bias.copy_(torch.from_numpy(bias - weight @ scaler.mean_))
    metadata = {**model.metadata, "adapted": {"head": "logistic regression", "C": _C, "clips": len(y)}}
    return Model(network, model.front_end, labels, metadata).eval()


def _classifier() -> Pipeline:
    return make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(C=_C, max_iter=1000, tol=1e-6)))
