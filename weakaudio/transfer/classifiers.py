"""Classifiers of embeddings that are ready to use, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from weakaudio.errors import WeakAudioError


def linear_svm() -> Pipeline:
    """Standardised features and a linear SVM (C 0.01), solved in the primal: no random numbers."""
    return make_pipeline(StandardScaler(), LinearSVC(C=0.01, dual=False, random_state=0))


def rbf_svm() -> Pipeline:
    """Standardised features and an SVM with Gaussian kernel (C 10, gamma "scale")."""
    return make_pipeline(StandardScaler(), SVC(C=10.0, gamma="scale"))


def logistic() -> Pipeline:
    """Standardised features and logistic regression (C 0.01), whose probabilities need no calibration."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


def calibrated_svm() -> Pipeline:
    """As `linear_svm`, with probabilities: Platt's sigmoid, fitted on clips that the SVM did not see (five parts of
    the training clips, so each class needs five)."""
    return make_pipeline(
        StandardScaler(), CalibratedClassifierCV(LinearSVC(C=0.01, dual=False, random_state=0), cv=5)
    )


CLASSIFIERS: dict[str, Callable[[], Pipeline]] = {
    "linear-svm": linear_svm,
    "calibrated-svm": calibrated_svm,
    "logistic": logistic,
    "rbf-svm": rbf_svm,
}

NORMALISATIONS: dict[str, Callable[[], Any]] = {
    "l2": Normalizer,
    "power": lambda: FunctionTransformer(signed_root),
}


def build_classifier(name: str, normalisation: str = "none") -> Pipeline:
    """A fresh classifier by name.

    Parameters
    ----------
    name
        Of `CLASSIFIERS`.
    normalisation
        What comes before its standardisation: "l2", each vector at length 1; "power", the root of each value, with
        its sign, which draws long tails in; or "none".

    Raises
    ------
    WeakAudioError
        No classifier or normalisation of that name.
    """
    if name not in CLASSIFIERS:
        raise WeakAudioError(f"classifier {name!r}: unknown; there are {', '.join(CLASSIFIERS)}")
    if normalisation not in ("none", *NORMALISATIONS):
        raise WeakAudioError(f"normalisation {normalisation!r}: unknown; there are none, {', '.join(NORMALISATIONS)}")
    classifier = CLASSIFIERS[name]()
    if normalisation == "none":
        return classifier
    return make_pipeline(NORMALISATIONS[normalisation](), *(step for _, step in classifier.steps))


def signed_root(X: NDArray[np.floating]) -> NDArray[np.floating]:
    """The root of each value's size, with the value's sign."""
    return np.sign(X) * np.sqrt(np.abs(X))
