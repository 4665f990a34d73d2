"""Classifiers of embeddings that are ready to use, by name."""

from __future__ import annotations

from collections.abc import Callable

from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from weakaudio.errors import WeakAudioError


def linear_svm() -> Pipeline:
    """Standardised features and a linear SVM (C 0.01), solved in the primal: no random numbers."""
    return make_pipeline(StandardScaler(), LinearSVC(C=0.01, dual=False, random_state=0))


def rbf_svm() -> Pipeline:
    """Standardised features and an SVM with Gaussian kernel (C 10, gamma "scale")."""
    return make_pipeline(StandardScaler(), SVC(C=10.0, gamma="scale"))


CLASSIFIERS: dict[str, Callable[[], Pipeline]] = {"linear-svm": linear_svm, "rbf-svm": rbf_svm}


def build_classifier(name: str) -> Pipeline:
    """A fresh classifier by name.

    Raises
    ------
    WeakAudioError
        No classifier of that name.
    """
    if name not in CLASSIFIERS:
        raise WeakAudioError(f"classifier {name!r}: unknown; there are {', '.join(CLASSIFIERS)}")
    return CLASSIFIERS[name]()
