"""Cross-validation over given folds, in which the labels of the test fold cannot reach training."""

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
    """What a classifier scored on each fold, having been trained on the others."""

    accuracies: dict[Any, float]
    """accuracy in [0, 1] on each fold, by the fold's name, in the folds' order"""
    predictions: NDArray[Any]
    """(n,) predicted class of each clip, by the classifier that did not see it"""
    classes: NDArray[Any]
    """(C,) class names, sorted: the order of `confusion`"""
    confusion: NDArray[np.int64]
    """(C, C) clips of class [row] that were taken for class [column], over all folds"""
    shared_sources: tuple[str, ...] = ()
    """recordings with clips in more than one fold"""
    chosen: dict[Any, dict[str, Any]] = field(default_factory=dict)
    """parameters that were chosen on the other folds, by the fold's name"""

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
    """What may be known before a fold is scored: all of the other folds, and which clips are in this one."""

    name: Any
    train: NDArray[np.int64]
    """positions of the clips of all other folds"""
    y: NDArray[Any]
    """their classes"""
    folds: NDArray[Any]
    """their folds, for choices inside the training clips"""
    test: NDArray[np.int64]
    """positions of the clips of this fold, whose classes are kept back"""


class Protocol:
    """Hands out folds without the classes of their test clips, and scores what was predicted for these.

    Parameters
    ----------
    y, folds, sources, allow_shared_sources
        As of `cross_validate`.

    Raises
    ------
    ProtocolError
        As `check_split`.
    """

    def __init__(
        self,
        y: ArrayLike,
        folds: ArrayLike,
        sources: ArrayLike | None = None,
        allow_shared_sources: bool = False,
    ) -> None:
        self._shared = check_split(y, folds, sources, allow_shared_sources)
        self._truth, self._fold_of = _values(y, "y"), _values(folds, "folds")
        self._names = _fold_names(folds)

    def __len__(self) -> int:
        """Clips."""
        return len(self._truth)

    def __iter__(self) -> Iterator[Fold]:
        for name in self._names:
            test = self._fold_of == name
            train = np.flatnonzero(~test)
            yield Fold(name, train, self._truth[train], self._fold_of[train], np.flatnonzero(test))

    def score(self, predictions: Mapping[Any, ArrayLike]) -> FoldScores:
        """Scores of the classes predicted for each fold's test clips, in their order.

        Raises
        ------
        ProtocolError
            A fold without predictions, or with another number of them than it has clips.
        """
        predicted = np.empty_like(self._truth)
        for fold in self:
            own = np.asarray(predictions[fold.name]) if fold.name in predictions else np.empty(0)
            if len(own) != len(fold.test):
                raise ProtocolError(f"fold {fold.name!r}: {len(own)} predictions of {len(fold.test)} clips")
            predicted[fold.test] = own
        right = predicted == self._truth
        classes = np.unique(self._truth)
        return FoldScores(
            {name: float(right[self._fold_of == name].mean()) for name in self._names},
            predicted,
            classes,
            confusion_matrix(self._truth, predicted, labels=classes),
            self._shared,
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
    """Train a fresh copy of a classifier on all folds but one, predict that one, and so for each.

    The copies get copies of the training folds' rows and labels and nothing else; labels of a test fold are
    looked at to refuse impossible splits, and to score after all predictions are made. Repeatable if the
    estimator is: give it a `random_state`.

    Parameters
    ----------
    estimator
        Classifier or `Pipeline` of scikit-learn; it is cloned and stays as it is.
    X
        (n, D) features, or (n,) paths if the estimator begins with a transformer of paths.
    y
        (n,) one class a clip.
    folds
        (n,) the fold of each clip. In a `pandas.Categorical` the categories are the folds and their order.
    sources
        (n,) the recording that each clip was cut from; None: every clip is its own.
    allow_shared_sources
        Whether a recording may have clips in more than one fold, as four of ESC-50 have; they are listed in
        the scores.
    grid
        Values to choose parameters of the estimator from, e.g. {"linearsvc__C": [0.001, 0.01, 0.1]}. For each
        fold they are chosen by cross-validation over the other folds, so never by the clips that are scored.
    n_jobs
        Folds that are trained at the same time, as joblib has it; None is one.

    Raises
    ------
    ProtocolError
        Lengths differ, X holds NaN, the estimator is trained already, there is a grid and only two folds, or
        `check_split` refuses the folds.
    """
    protocol = Protocol(y, folds, sources, allow_shared_sources)
    features = np.asarray(X)
    if len(features) != len(protocol):
        raise ProtocolError(f"X has {len(features)} rows, y {len(protocol)}: they must describe the same clips")
    if features.dtype.kind == "f" and not np.isfinite(features).all():
        row = int((~np.isfinite(features)).reshape(len(features), -1).any(axis=1).argmax())
        raise ProtocolError(f"X holds NaN or infinite values, first in row {row}: mend or drop that clip")
    parts = list(protocol)
    if grid and len(parts) < 3:
        raise ProtocolError("choosing parameters takes at least three folds: one to score, the others to choose on")
    found = Parallel(n_jobs=n_jobs)(
        delayed(_predict)(_untrained(estimator), features[fold.train], fold.y, fold.folds, features[fold.test], grid)
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
    """Classes of clips unseen, and the parameters that were chosen. Labels of these clips do not come here."""
    if not grid:
        return classifier.fit(X, y).predict(unseen), {}
    inner = PredefinedSplit(np.unique(folds, return_inverse=True)[1])
    search = GridSearchCV(classifier, dict(grid), cv=inner, error_score="raise").fit(X, y)
    return search.predict(unseen), dict(search.best_params_)


def check_split(
    y: ArrayLike, folds: ArrayLike, sources: ArrayLike | None = None, allow_shared_sources: bool = False
) -> tuple[str, ...]:
    """Refuse folds on which cross-validation is impossible or would not be honest, at no cost.

    Arguments as of `cross_validate`. Returns the recordings that have clips in more than one fold.

    Raises
    ------
    ProtocolError
        Lengths differ; a clip without class or fold, or with several classes; fewer than two folds or
        classes; a fold without clips; a class that is in one fold only; a recording in more than one fold.
    """
    columns = {"y": y, "folds": folds} | ({} if sources is None else {"sources": sources})
    lengths = {name: len(_values(values, name)) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ProtocolError(f"lengths differ ({found}): give one value for each clip")
    truth, fold_of, names = _values(y, "y"), _values(folds, "folds"), _fold_names(folds)
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
                f"class {unknown[0]!r} is in fold {name!r} only, so nothing could be trained to find it: "
                "spread its recordings over the folds, or drop the class"
            )
    return () if sources is None else _shared_sources(sources, fold_of, allow_shared_sources)


def _shared_sources(sources: ArrayLike, fold_of: NDArray[Any], allowed: bool) -> tuple[str, ...]:
    """A clip whose source is missing counts as a recording of its own."""
    pairs = pd.DataFrame({"source": np.asarray(sources, dtype=object), "fold": fold_of})
    counts = pairs.groupby("source")["fold"].nunique()
    shared = sorted(counts.index[counts > 1], key=str)
    if shared and not allowed:
        where = pairs.loc[pairs["source"] == shared[0], "fold"].drop_duplicates().tolist()
        raise ProtocolError(
            f"{len(shared)} recordings are in more than one fold, the first: {shared[0]!r} in folds {where}; "
            "move all clips of a recording into one fold, or, to keep published folds as they are, allow it "
            "(allow_shared_sources=True, --allow-shared-sources)"
        )
    return tuple(str(source) for source in shared)


def _untrained(estimator: Any) -> Any:
    """A fresh copy. `FrozenEstimator` and its like survive cloning with all that they know."""
    copy = clone(estimator)
    frozen = [step for step in copy.get_params(deep=True).values() if isinstance(step, FrozenEstimator)]
    if frozen:
        raise ProtocolError(
            f"{type(estimator).__name__} holds {frozen[0]}, which cloning leaves trained, perhaps on clips of the "
            "test fold: pass an estimator that each fold can train from nothing"
        )
    try:
        check_is_fitted(copy)
    except NotFittedError:
        return copy
    if get_tags(copy).requires_fit:
        raise ProtocolError(
            f"{type(estimator).__name__} is still trained after cloning, perhaps on clips of the test fold: "
            "pass an estimator that each fold can train from nothing"
        )
    return copy


def _values(column: ArrayLike, name: str) -> NDArray[Any]:
    """(n,) values of one type; for each clip one, and none missing, except in `sources`."""
    try:
        series = pd.Series(column)
    except ValueError as error:
        raise ProtocolError(f"{name}: expected one value for each clip, got {np.shape(column)}") from error
    several = [value for value in series.tolist() if not pd.api.types.is_scalar(value)]
    if several:
        raise ProtocolError(f"{name}: expected one value for each clip, got {several[0]!r}")
    if name != "sources" and series.isna().any():
        row = int(series.isna().to_numpy().argmax())
        raise ProtocolError(f"{name}: missing for {series.isna().sum()} clips, the first in row {row}")
    return np.asarray(series.tolist())


def _fold_names(folds: ArrayLike) -> list[Any]:
    series = pd.Series(folds)
    if isinstance(series.dtype, pd.CategoricalDtype):
        return series.cat.categories.tolist()
    return sorted(set(_values(folds, "folds").tolist()))
