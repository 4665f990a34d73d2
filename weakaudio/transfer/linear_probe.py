"""Linear probe: a linear classifier on frozen embeddings, its estimated accuracy, and its use as a network's head."""

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

SIZES = (5, 10, 20, 40)  # labelled clips of each class, along the learning curve
_C = 0.01
_MAX_FOLDS = 5


@dataclass(frozen=True)
class Quality:
    """Cross-validated accuracy of the linear probe."""

    scores: FoldScores
    """trained on all clips of the other folds"""
    curve: pd.DataFrame
    """learning curve, from subsets of the training clips: labels (clips of each class), accuracy, std (over folds and
    subsets), n (their number)"""


def fold_by_recording(y: Sequence[str], sources: Sequence[str] | None = None, seed: int = 0) -> NDArray[np.int64]:
    """Assign n clips to stratified folds 1, 2, ..., with all clips of a recording in one of them.

    There are five folds, or as many as the rarest class has recordings.

    Raises
    ------
    ProtocolError
        A class has clips of one recording only.
    """
    groups = np.arange(len(y)) if sources is None else np.unique(list(sources), return_inverse=True)[1]
    recordings = pd.Series(groups).groupby(list(y)).nunique()
    if recordings.min() < 2:
        rare = recordings.idxmin()
        raise ProtocolError(
            f"class {rare!r} has clips of one recording only, so none is left to test on: add some, or drop the class"
        )
    splitter = StratifiedGroupKFold(min(_MAX_FOLDS, int(recordings.min())), shuffle=True, random_state=seed)
    folds = np.zeros(len(y), dtype=np.int64)
    for number, (_, test) in enumerate(splitter.split(np.zeros(len(y)), list(y), groups), 1):
        folds[test] = number
    return folds


def estimate_quality(
    X: NDArray[np.floating], y: Sequence[str], sources: Sequence[str] | None = None, repeats: int = 3, seed: int = 0
) -> Quality:
    """Cross-validate the classifier of `train_head`, with all labels and along a learning curve.

    Parameters
    ----------
    X
        (n, D) clip embeddings.
    y
        (n,) classes.
    sources
        (n,) recording that each clip was cut from; None if every clip is a recording of its own.
    repeats
        Random subsets for each fold and point of the curve.
    seed
        Seeds the folds and the subsets.

    Raises
    ------
    ProtocolError
        See `fold_by_recording` and `cross_validate`.
    """
    X = np.asarray(X, dtype=np.float64)  # in float32 the regression stops before it has converged
    truth, folds = np.asarray(y), fold_by_recording(y, sources, seed)
    scores = cross_validate(_classifier(), X, truth, folds, sources)
    rng = np.random.default_rng(seed)
    rows = []
    for size in SIZES:
        accuracies = []
        for fold in np.unique(folds):
            train, test = np.flatnonzero(folds != fold), folds == fold
            by_class = [train[truth[train] == name] for name in np.unique(truth)]
            if min(map(len, by_class)) < size:
                break
            for _ in range(repeats):
                drawn = np.concatenate([rng.choice(clips, size, replace=False) for clips in by_class])
                accuracies.append((_classifier().fit(X[drawn], truth[drawn]).predict(X[test]) == truth[test]).mean())
        else:
            rows.append((size, np.mean(accuracies), np.std(accuracies, ddof=1), len(accuracies)))
    return Quality(scores, pd.DataFrame(rows, columns=["labels", "accuracy", "std", "n"]))


def train_head(model: Model, X: NDArray[np.floating], y: Sequence[str]) -> Model:
    """Copy a model and replace its head by the linear probe of other classes.

    The probe is a one-vs-rest logistic regression on standardised embeddings; the standardisation is folded into the
    weights, so inference costs nothing more. It takes seconds.

    Parameters
    ----------
    model
        A model whose network scores a clip by one linear layer on its mean embedding ("flash").
    X
        (n, D) mean embeddings of clips, from `Embedder(model)`.
    y
        (n,) classes.

    Raises
    ------
    ProtocolError
        A network with another head (use `fine_tune`), or fewer than two classes.
    """
    network = copy.deepcopy(model.network)
    if not isinstance(network, StagedNetwork) or network.classifier.in_features != network.n_features:
        raise ProtocolError(
            f"{type(network).__name__} does not score clips by one layer on their mean embedding: use fine_tune"
        )
    labels = sorted(set(y))
    if len(labels) < 2:
        raise ProtocolError(f"one class only, {labels}: add clips of another, as there is nothing to tell apart")
    classifier = _classifier().fit(np.asarray(X, dtype=np.float64), np.asarray(y))
    scaler, heads = classifier[0], classifier[1]
    weight = np.concatenate([head.coef_ for head in heads.estimators_])
    bias = np.concatenate([head.intercept_ for head in heads.estimators_])
    if len(labels) == 2:  # scikit-learn keeps the weights of the second class only
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
