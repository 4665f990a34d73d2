from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from weakaudio.errors import WeakAudioError
from weakaudio.transfer.classifiers import CLASSIFIERS, build_classifier


def oracle(name: str, X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """By hand, and for the linear one with the other solver."""
    svm = SVC(C=10) if name == "rbf-svm" else LinearSVC(C=0.01, dual=True, max_iter=100_000, tol=1e-8)
    scaler = StandardScaler().fit(X)
    return svm.fit(scaler.transform(X), y).decision_function(scaler.transform(new))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_ready_made_classifier_is_what_it_says(name: str, rng: np.random.Generator) -> None:
    y = np.arange(60) % 3
    X, new = rng.standard_normal((60, 100)) * 50 + 7 + y[:, None] * 40, rng.standard_normal((9, 100)) * 50
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        found = build_classifier(name).fit(X, y).decision_function(new)
    np.testing.assert_allclose(found, oracle(name, X, y, new), atol=1e-3)
    np.testing.assert_array_equal(clone(build_classifier(name)).fit(X, y).decision_function(new), found)


def test_every_call_builds_a_fresh_one() -> None:
    assert build_classifier("linear-svm") is not build_classifier("linear-svm")
    with pytest.raises(WeakAudioError, match="linear-svm, rbf-svm"):
        build_classifier("tree")
