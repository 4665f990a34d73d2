from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import PredefinedSplit, cross_val_predict, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from weakaudio.errors import ProtocolError
from weakaudio.transfer.cross_validation import FoldProtocol, cross_validate


def clips(seed: int, n: int = 60, n_folds: int = 5) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Features that separate three classes partly; every class is in every fold."""
    rng = np.random.default_rng(seed)
    y = np.array(["bell", "dog", "rain"])[np.arange(n) % 3]
    folds = np.arange(n) // 3 % n_folds + 1
    X = rng.standard_normal((n, 6)) + 1.2 * (y[:, None] == np.unique(y)).repeat(2, axis=1)
    order = rng.permutation(n)
    return X[order], y[order], folds[order]


class Spy(ClassifierMixin, BaseEstimator):
    """Records the training data and the coefficients of all its copies."""

    seen: ClassVar[list[tuple[NDArray[Any], NDArray[Any]]]] = []
    coefficients: ClassVar[list[NDArray[Any]]] = []

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Spy:
        self.model_ = LinearSVC(dual=False).fit(X, y)
        self.seen.append((X.copy(), y.copy()))
        self.coefficients.append(np.column_stack([self.model_.coef_, self.model_.intercept_]))
        self.classes_ = self.model_.classes_
        X[:], y[:] = 0, y[0]  # a copy may overwrite its own data
        return self

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        return self.model_.predict(X)


@pytest.fixture
def spy() -> Spy:
    Spy.seen.clear()
    Spy.coefficients.clear()
    return Spy()


class Memorising(ClassifierMixin, BaseEstimator):
    """Leaks: each `fit` adds to the data of earlier ones, and predictions come from the nearest of them."""

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Memorising:
        old_X, old_y = getattr(self, "memory_", (X[:0], y[:0]))
        self.memory_ = np.concatenate([old_X, X]), np.concatenate([old_y, y])
        self.model_ = KNeighborsClassifier(n_neighbors=1).fit(*self.memory_)
        return self

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        return self.model_.predict(X)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), n_folds=st.integers(2, 5))
def test_equals_scikit_learn_on_a_predefined_split(seed: int, n_folds: int) -> None:
    X, y, folds = clips(seed, n_folds=n_folds)
    estimator, split = make_pipeline(StandardScaler(), GaussianNB()), PredefinedSplit(folds)
    scores = cross_validate(estimator, X, y, folds)
    expected = cross_val_score(estimator, X, y, cv=split)
    assert list(scores.accuracies) == list(range(1, n_folds + 1))
    np.testing.assert_allclose(list(scores.accuracies.values()), expected)
    np.testing.assert_array_equal(scores.predictions, cross_val_predict(estimator, X, y, cv=split))
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(y, scores.predictions))
    assert scores.classes.tolist() == ["bell", "dog", "rain"]
    assert scores.mean == pytest.approx(expected.mean())
    assert scores.std == pytest.approx(pd.Series(expected).std())


def test_each_copy_sees_the_other_folds_and_nothing_else(spy: Spy) -> None:
    X, y, folds = clips(0)
    X_before, y_before = X.copy(), y.copy()
    cross_validate(spy, X, y, folds)
    for fold, (seen_X, seen_y) in enumerate(spy.seen, 1):
        np.testing.assert_array_equal(seen_X, X[folds != fold])
        np.testing.assert_array_equal(seen_y, y[folds != fold])
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)
    assert not hasattr(spy, "model_")


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_labels_of_a_test_fold_do_not_reach_its_classifier(seed: int) -> None:
    X, y, folds = clips(seed)
    Spy.seen.clear()
    Spy.coefficients.clear()
    honest = cross_validate(Spy(), X, y, folds)
    for fold in range(1, 6):
        shuffled, test = y.copy(), folds == fold
        shuffled[test] = np.random.default_rng(seed).permutation(y[test])
        scores = cross_validate(Spy(), X, shuffled, folds)
        np.testing.assert_array_equal(Spy.coefficients[-6 + fold], Spy.coefficients[fold - 1])
        np.testing.assert_array_equal(scores.predictions[test], honest.predictions[test])


def test_nothing_learned_in_one_fold_reaches_the_next() -> None:
    rng = np.random.default_rng(0)
    X, y, folds = rng.standard_normal((300, 8)), rng.integers(0, 2, 300), np.arange(300) % 5
    careless = Memorising()  # one object through all folds, as in a careless loop
    found = [careless.fit(X[folds != n], y[folds != n]).score(X[folds == n], y[folds == n]) for n in range(5)]
    assert np.mean(found[1:]) == 1.0
    assert 0.4 < cross_validate(Memorising(), X, y, folds).mean < 0.6  # noise: chance


@pytest.mark.parametrize("prefix", [[], [StandardScaler()]], ids=["alone", "in a pipeline"])
def test_an_estimator_that_stays_fitted_is_refused(prefix: list[Any]) -> None:
    X, y, folds = clips(0)
    everything = KNeighborsClassifier(n_neighbors=1).fit(X, y)
    with pytest.raises(ProtocolError, match="stays fitted"):
        cross_validate(make_pipeline(*prefix, FrozenEstimator(everything)), X, y, folds)
    assert cross_validate(everything, X, y, folds).mean < 1.0  # clones of other estimators are unfitted
    with pytest.raises(ProtocolError, match="stays fitted"):  # a step fitted on all labels leaks them
        cross_validate(
            make_pipeline(FrozenEstimator(LinearDiscriminantAnalysis().fit(X, y)), LinearSVC()), X, y, folds
        )


def test_results_are_reproducible() -> None:
    X, y, folds = clips(3)
    one, two = (cross_validate(LinearSVC(random_state=0), X, y, folds) for _ in range(2))
    np.testing.assert_array_equal(one.predictions, two.predictions)
    assert one.accuracies == two.accuracies


def test_folds_keep_their_names_and_categories_their_order() -> None:
    X, y, folds = clips(0, n_folds=3)
    words = np.array(["", "spring", "autumn", "winter"])[folds]
    by_word = cross_validate(LinearSVC(), X, y, words.tolist())
    assert list(by_word.accuracies) == ["autumn", "spring", "winter"]
    season = pd.Series(pd.Categorical(words, categories=["winter", "spring", "autumn"]))
    ordered = cross_validate(LinearSVC(), pd.DataFrame(X), pd.Series(y), season)
    assert list(ordered.accuracies) == ["winter", "spring", "autumn"]
    assert ordered.accuracies == by_word.accuracies
    assert "over 3 folds" in str(ordered)


A, B = ["a", "a", "b", "b"], [1, 2, 1, 2]  # valid classes and folds
TWO = np.zeros((4, 1))


@pytest.mark.parametrize(
    ("y", "folds", "message"),
    [
        (A, B[:3], "lengths differ"),
        (A, [1, 1, 1, 1], "at least two folds"),
        (A, pd.Categorical(B, categories=[1, 2, 3]), "fold 3 has no clips"),
        (A, [1, 2, 1, None], "folds: missing in 1 of 4 rows, first in row 3"),
        (["a", "a", None, "b"], B, "y: missing in 1 of 4 rows, first in row 2"),
        (["a"] * 4, B, "at least two classes"),
        (A, [1, 1, 2, 2], "class 'a' is in fold 1 only"),
        (["a", "a", "a", "b"], B, "class 'b' is in fold 2 only"),
        ([["a"], ["a"], ["b"], ["a", "b"]], B, "y: expected one value for each clip"),
        (np.eye(4), B, "y: expected one value for each clip"),
        ([], [], "at least two folds"),
    ],
)
def test_impossible_splits_are_refused(y: Any, folds: Any, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        FoldProtocol(y, folds)
    with pytest.raises(ProtocolError, match=message):
        cross_validate(DummyClassifier(), np.zeros((len(y), 1)), y, folds)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_must_be_finite_and_as_many_as_labels(bad: float) -> None:
    FoldProtocol(A, B)
    with pytest.raises(ProtocolError, match="row 2"):
        cross_validate(DummyClassifier(), [[0.0], [1.0], [bad], [3.0]], A, B)
    with pytest.raises(ProtocolError, match="X has 3 rows, y 4"):
        cross_validate(DummyClassifier(), TWO[:3], A, B)


def test_a_recording_in_two_folds_is_refused_unless_allowed() -> None:
    sources = ["r1", "r2", "r3", "r1"]
    with pytest.raises(ProtocolError, match=r"1 recordings .* 'r1' in folds \[1, 2\].*allow_shared_sources=True"):
        cross_validate(DummyClassifier(), TWO, A, B, sources)
    allowed = cross_validate(DummyClassifier(), TWO, A, B, sources, allow_shared_sources=True)
    assert allowed.shared_sources == ("r1",)
    assert cross_validate(DummyClassifier(), TWO, A, B, [1, 2, 1, 2]).shared_sources == ()
    assert FoldProtocol(A, B, ["r1", None, None, np.nan]).shared_sources == ()  # missing: recordings of their own
    with pytest.raises(ProtocolError, match="sources 3"):
        FoldProtocol(A, B, sources[:3])


def test_parameters_are_selected_on_the_other_folds() -> None:
    X, y, folds = clips(3, n=90)
    grid = {"n_neighbors": [1, 5, 15]}
    scores = cross_validate(KNeighborsClassifier(), X, y, folds, grid=grid, n_jobs=2)
    for fold in range(1, 6):
        inside = folds != fold
        means = {
            k: cross_val_score(
                KNeighborsClassifier(k), X[inside], y[inside], cv=PredefinedSplit(folds[inside])
            ).mean()
            for k in grid["n_neighbors"]
        }
        best = max(means, key=lambda k: means[k])
        assert scores.chosen[fold] == {"n_neighbors": best}
        expected = KNeighborsClassifier(best).fit(X[inside], y[inside]).predict(X[~inside])
        np.testing.assert_array_equal(scores.predictions[~inside], expected)
    assert cross_validate(KNeighborsClassifier(), X, y, folds).chosen == {}


def test_labels_of_the_scored_fold_do_not_select_parameters() -> None:
    X, y, folds = clips(4)
    grid = {"n_neighbors": [1, 5, 15]}
    scores = cross_validate(KNeighborsClassifier(), X, y, folds, grid=grid)
    shuffled = y.copy()
    shuffled[folds == 2] = np.random.default_rng(0).permutation(shuffled[folds == 2])
    again = cross_validate(KNeighborsClassifier(), X, shuffled, folds, grid=grid)
    assert again.chosen[2] == scores.chosen[2]
    np.testing.assert_array_equal(again.predictions[folds == 2], scores.predictions[folds == 2])


def test_two_folds_are_too_few_for_a_grid() -> None:
    X, y, folds = clips(0, n_folds=2)
    with pytest.raises(ProtocolError, match="at least three folds"):
        cross_validate(KNeighborsClassifier(), X, y, folds, grid={"n_neighbors": [1]})
