from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from weakaudio.errors import WeakAudioError
from weakaudio.transfer.classifiers import CLASSIFIERS, build_classifier


def oracle(name: str, X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The same classifiers, built by hand and with another solver where there is one."""
    machines = {
        "rbf-svm": SVC(C=10),
        "linear-svm": LinearSVC(C=0.01, dual=True, max_iter=100_000, tol=1e-8),
        "logistic": LogisticRegression(C=0.01, solver="newton-cg", tol=1e-8),
    }
    scaler = StandardScaler().fit(X)
    return machines[name].fit(scaler.transform(X), y).decision_function(scaler.transform(new))


@pytest.mark.parametrize("name", sorted(set(CLASSIFIERS) - {"calibrated-svm"}))
def test_classifiers_equal_those_built_by_hand(name: str, rng: np.random.Generator) -> None:
    y = np.arange(60) % 3
    X, new = rng.standard_normal((60, 100)) * 50 + 7 + y[:, None] * 40, rng.standard_normal((9, 100)) * 50
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        found = build_classifier(name).fit(X, y).decision_function(new)
    np.testing.assert_allclose(found, oracle(name, X, y, new), atol=1e-3)
    np.testing.assert_array_equal(clone(build_classifier(name)).fit(X, y).decision_function(new), found)


def test_probabilities_are_calibrated(rng: np.random.Generator) -> None:
    y = np.arange(600) % 3
    X = rng.standard_normal((600, 20)) + 0.7 * (np.arange(20) % 3 == y[:, None])
    fitted = build_classifier("calibrated-svm").fit(X[:400], y[:400])
    probabilities = fitted.predict_proba(X[400:])
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    right = fitted.predict(X[400:]) == y[400:]
    assert 0.5 < right.mean() < 0.95
    assert probabilities.max(1).mean() == pytest.approx(right.mean(), abs=0.08)


def test_normalisations_come_first(rng: np.random.Generator) -> None:
    y = np.arange(40) % 2
    X = rng.standard_normal((40, 5)) * rng.uniform(0.1, 100, (40, 1)) + y[:, None]
    unit = X / np.sqrt(np.square(X).sum(1, keepdims=True))
    root = np.where(X < 0, -np.sqrt(np.abs(X)), np.sqrt(np.abs(X)))
    for name, changed in (("none", X), ("l2", unit), ("power", root)):
        expected = build_classifier("linear-svm").fit(changed, y).decision_function(changed)
        found = build_classifier("linear-svm", name).fit(X, y).decision_function(X)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    with pytest.raises(WeakAudioError, match="there are none, l2, power"):
        build_classifier("linear-svm", "cube")


def test_every_call_builds_a_new_classifier() -> None:
    assert build_classifier("linear-svm") is not build_classifier("linear-svm")
    with pytest.raises(WeakAudioError, match="linear-svm, calibrated-svm, logistic, rbf-svm"):
        build_classifier("tree")
