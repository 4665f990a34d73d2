"""Ready-made classifiers of embeddings, by name."""

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
    """Standardisation and a linear SVM (C = 0.01), solved in the primal, so without random numbers."""
    return make_pipeline(StandardScaler(), LinearSVC(C=0.01, dual=False, random_state=0))


def rbf_svm() -> Pipeline:
    """Standardisation and an SVM with Gaussian kernel (C = 10, gamma "scale")."""
    return make_pipeline(StandardScaler(), SVC(C=10.0, gamma="scale"))


def logistic() -> Pipeline:
    """Standardisation and logistic regression (C = 0.01), whose probabilities need no calibration."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


def calibrated_svm() -> Pipeline:
    """`linear_svm` with probabilities: Platt scaling, cross-fitted on five splits, so each class needs five clips."""
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
    """Build an unfitted classifier.

    Parameters
    ----------
    name
        A name in `CLASSIFIERS`.
    normalisation
        Applied before the standardisation: "l2" (unit length), "power" (signed square root, which compresses long
        tails) or "none".

    Raises
    ------
    WeakAudioError
        Unknown classifier or normalisation.
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
    """Square root of the absolute values, with their signs."""
    return np.sign(X) * np.sqrt(np.abs(X))
