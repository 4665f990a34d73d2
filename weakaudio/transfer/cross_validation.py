"""Cross-validation over given folds: by construction, labels of a test fold cannot reach training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from weakaudio.errors import ProtocolError


@dataclass(frozen=True, eq=False)
class FoldScores:
    """Cross-validated predictions and their accuracies."""

    accuracies: dict[Any, float]
    """accuracy in [0, 1] by fold, in the order of the folds"""
    predictions: NDArray[Any]
    """(n,) predicted class of each clip, from the classifier that was trained without its fold"""
    classes: NDArray[Any]
    """(C,) class names, sorted: the order of `confusion`"""
    confusion: NDArray[np.int64]
    """(C, C) number of clips of class [row] predicted as class [column], over all folds"""
    shared_sources: tuple[str, ...] = ()
    """recordings with clips in more than one fold"""
    chosen: dict[Any, dict[str, Any]] = field(default_factory=dict)
    """parameters selected by the grid search, by fold"""

    @property
    def mean(self) -> float:
        """Mean of the folds' accuracies."""
        return float(np.mean(list(self.accuracies.values())))

    @property
    def std(self) -> float:
        """Sample standard deviation (n - 1) of the folds' accuracies."""
        return float(np.std(list(self.accuracies.values()), ddof=1))

    def __str__(self) -> str:
        return f"accuracy {self.mean:.1%} ± {self.std:.1%} over {len(self.accuracies)} folds"


class Fold(NamedTuple):
    """All that training may see when a fold is scored: the other folds with their classes, this one without."""

    name: Any
    train: NDArray[np.int64]
    """positions of the clips of all other folds"""
    y: NDArray[Any]
    """their classes"""
    folds: NDArray[Any]
    """their folds, for model selection within the training clips"""
    test: NDArray[np.int64]
    """positions of the clips of this fold"""


class FoldProtocol:
    """Iterates over folds without revealing the classes of their test clips, and scores predictions of these.

    Parameters
    ----------
    y, folds, sources, allow_shared_sources
        See `cross_validate`.

    Raises
    ------
    ProtocolError
        Cross-validation is impossible or would be biased: lengths differ; a clip has no class, several classes or no
        fold; there are fewer than two folds or classes; a fold has no clips; a class occurs in one fold only; a
        recording is in more than one fold.
    """

    def __init__(
        self, y: ArrayLike, folds: ArrayLike, sources: ArrayLike | None = None, allow_shared_sources: bool = False
    ) -> None:
        self._truth, self._fold_of = truth, fold_of = check_column(y, "y"), check_column(folds, "folds")
        lengths = {"y": len(truth), "folds": len(fold_of)}
        if sources is not None:
            lengths["sources"] = len(check_column(sources, "sources"))
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ProtocolError(f"lengths differ ({found}): give one value for each clip")
        self._names = names = _fold_names(folds)
        empty = [name for name in names if not (fold_of == name).any()]
        if empty:
            raise ProtocolError(f"fold {empty[0]!r} has no clips: add them, or leave it out of the categories")
        if len(names) < 2:
            raise ProtocolError(f"at least two folds are needed, got {names}: number them, e.g. 1 to 5")
        if len(np.unique(truth)) < 2:
            raise ProtocolError(f"at least two classes are needed, got {np.unique(truth).tolist()}")
        for name in names:
            unknown = sorted(set(truth[fold_of == name].tolist()) - set(truth[fold_of != name].tolist()))
            if unknown:
                raise ProtocolError(
                    f"class {unknown[0]!r} is in fold {name!r} only, so the other folds cannot train it: spread its "
                    "recordings over the folds, or drop the class"
                )
        self.shared_sources = () if sources is None else _shared_sources(sources, fold_of, allow_shared_sources)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._truth)

    def __iter__(self) -> Iterator[Fold]:
        for name in self._names:
            test = self._fold_of == name
            train = np.flatnonzero(~test)
            yield Fold(name, train, self._truth[train], self._fold_of[train], np.flatnonzero(test))

    def score(self, predictions: Mapping[Any, ArrayLike]) -> FoldScores:
        """Score the classes predicted for the test clips of each fold, by the fold's name and in the clips' order.

        Raises
        ------
        ProtocolError
            A fold has no predictions, or not one for each of its clips.
        """
        predicted = np.empty_like(self._truth)
        for fold in self:
            values = np.asarray(predictions.get(fold.name, ()))
            if len(values) != len(fold.test):
                raise ProtocolError(f"fold {fold.name!r}: {len(values)} predictions for {len(fold.test)} clips")
            predicted[fold.test] = values
        right = predicted == self._truth
        classes = np.unique(self._truth)
        return FoldScores(
            {name: float(right[self._fold_of == name].mean()) for name in self._names},
            predicted,
            classes,
            confusion_matrix(self._truth, predicted, labels=classes),
            self.shared_sources,
        )


def cross_validate(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
    folds: ArrayLike,
    sources: ArrayLike | None = None,
    allow_shared_sources: bool = False,
    grid: Mapping[str, Sequence[Any]] | None = None,
    n_jobs: int | None = None,
) -> FoldScores:
    """Cross-validate a classifier: for each fold, train a fresh copy on the other folds and predict this one.

    A copy sees the features and classes of its training folds only. The classes of a test fold are used to refuse
    impossible splits, and to score once all predictions are made. Results are reproducible if the estimator is: give
    it a `random_state`.

    Parameters
    ----------
    estimator
        scikit-learn classifier or `Pipeline`; it is cloned and not changed.
    X
        (n, D) features, or (n,) paths if the estimator begins with a transformer of paths.
    y
        (n,) class of each clip.
    folds
        (n,) fold of each clip. The categories of a `pandas.Categorical` are the folds, in that order.
    sources
        (n,) recording that each clip was cut from; None if every clip is a recording of its own.
    allow_shared_sources
        Accept recordings with clips in more than one fold (ESC-50 has four); the scores list them.
    grid
        Parameter values to search, e.g. {"linearsvc__C": [0.001, 0.01, 0.1]}. For each fold they are selected by
        cross-validation over the other folds, so never on the clips that are scored.
    n_jobs
        Number of folds trained in parallel (joblib); None means one.

    Raises
    ------
    ProtocolError
        Lengths differ, X holds NaN, the estimator is already fitted, there is a grid but only two folds, or
        `FoldProtocol` refuses the folds.
    """
    protocol = FoldProtocol(y, folds, sources, allow_shared_sources)
    features = np.asarray(X)
    if len(features) != len(protocol):
        raise ProtocolError(f"X has {len(features)} rows, y {len(protocol)}: they must describe the same clips")
    check_finite(features)
    parts = list(protocol)
    if grid and len(parts) < 3:
        raise ProtocolError("a grid search needs at least three folds: one to score, the others to select on")
    found = Parallel(n_jobs=n_jobs)(
        delayed(_predict)(_unfitted(estimator), features[fold.train], fold.y, fold.folds, features[fold.test], grid)
        for fold in parts
    )
    scores = protocol.score({fold.name: predicted for fold, (predicted, _) in zip(parts, found, strict=True)})
    chosen = {fold.name: parameters for fold, (_, parameters) in zip(parts, found, strict=True) if grid}
    return replace(scores, chosen=chosen)


def _predict(
    classifier: Any,
    X: NDArray[Any],
    y: NDArray[Any],
    folds: NDArray[Any],
    unseen: NDArray[Any],
    grid: Mapping[str, Sequence[Any]] | None,
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Fit and predict. Returns the predicted classes of the unseen clips, and the parameters selected."""
    if not grid:
        return classifier.fit(X, y).predict(unseen), {}
    inner = PredefinedSplit(np.unique(folds, return_inverse=True)[1])
    search = GridSearchCV(classifier, dict(grid), cv=inner, error_score="raise").fit(X, y)
    return search.predict(unseen), dict(search.best_params_)


def _shared_sources(sources: ArrayLike, fold_of: NDArray[Any], allowed: bool) -> tuple[str, ...]:
    """List recordings in several folds; a clip without source counts as a recording of its own."""
    pairs = pd.DataFrame({"source": np.asarray(sources, dtype=object), "fold": fold_of})
    counts = pairs.groupby("source")["fold"].nunique()
    shared = sorted(counts.index[counts > 1], key=str)
    if shared and not allowed:
        where = pairs.loc[pairs["source"] == shared[0], "fold"].drop_duplicates().tolist()
        raise ProtocolError(
            f"{len(shared)} recordings are in more than one fold, the first: {shared[0]!r} in folds {where}; "
            "move all clips of a recording into one fold, or allow it to keep published folds unchanged "
            "(allow_shared_sources=True, --allow-shared-sources)"
        )
    return tuple(str(source) for source in shared)


def _unfitted(estimator: Any) -> Any:
    """Clone an estimator, and refuse those that stay fitted, as `FrozenEstimator` does."""
    copy = clone(estimator)
    frozen = [step for step in copy.get_params(deep=True).values() if isinstance(step, FrozenEstimator)]
    if frozen:
        raise ProtocolError(
            f"{type(estimator).__name__} holds {frozen[0]}, which stays fitted when cloned, perhaps on clips of the "
            "test fold: pass an estimator that each fold can train from scratch"
        )
    try:
        check_is_fitted(copy)
    except NotFittedError:
        return copy
    if get_tags(copy).requires_fit:
        raise ProtocolError(
            f"{type(estimator).__name__} stays fitted when cloned, perhaps on clips of the test fold: pass an "
            "estimator that each fold can train from scratch"
        )
    return copy


def check_finite(features: NDArray[Any], name: str = "X") -> None:
    """Refuse NaN and infinite features.

    Raises
    ------
    ProtocolError
        Names the first row that holds one.
    """
    if features.dtype.kind == "f" and not np.isfinite(features).all():
        row = int((~np.isfinite(features)).reshape(len(features), -1).any(axis=1).argmax())
        raise ProtocolError(f"{name} holds NaN or infinite values, first in row {row}: fix or drop that clip")


def check_column(column: ArrayLike, name: str) -> NDArray[Any]:
    """Convert a column to (n,) values, one for each clip; only `sources` may have missing ones.

    Raises
    ------
    ProtocolError
        Several values for a clip, or none.
    """
    try:
        series = pd.Series(column)
    except ValueError as error:
        raise ProtocolError(f"{name}: expected one value for each clip, got {np.shape(column)}") from error
    several = [value for value in series.tolist() if not pd.api.types.is_scalar(value)]
    if several:
        raise ProtocolError(f"{name}: expected one value for each clip, got {several[0]!r}")
    if name != "sources" and series.isna().any():
        row = int(series.isna().to_numpy().argmax())
        raise ProtocolError(f"{name}: missing in {series.isna().sum()} of {len(series)} rows, first in row {row}")
    return np.asarray(series.tolist())


def _fold_names(folds: ArrayLike) -> list[Any]:
    series = pd.Series(folds)
    if isinstance(series.dtype, pd.CategoricalDtype):
        return series.cat.categories.tolist()
    return sorted(set(check_column(folds, "folds").tolist()))
