"""scikit-learn estimators around the networks: recordings to classes in one, and segments to clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted, validate_data

from weakaudio.errors import WeakAudioError
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.embedder import split_names
from weakaudio.inference.parts import POOLINGS, pool
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.features import EmbeddingTransformer, Paths, TakesPaths


class WeakAudioClassifier(TakesPaths, ClassifierMixin, BaseEstimator):
    """Recordings to classes: frozen embeddings and a classifier, from paths to probabilities.

    Parameters
    ----------
    model, layer, pooling, cache
        As of `EmbeddingTransformer`.
    classifier, normalisation
        As of `build_classifier`. The default gives probabilities, and needs five clips of each class.

    Attributes
    ----------
    classes_ : array (C,)
        Class names, sorted.
    pipeline_ : Pipeline
        The trained steps.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        layer: str = "f1",
        pooling: str = "mean",
        classifier: str = "calibrated-svm",
        normalisation: str = "none",
        cache: str | Path | None = None,
    ) -> None:
        self.model = model
        self.layer = layer
        self.pooling = pooling
        self.classifier = classifier
        self.normalisation = normalisation
        self.cache = cache

    def fit(self, X: Paths, y: ArrayLike) -> WeakAudioClassifier:
        """Embed n recordings and train on their classes (n,).

        Raises
        ------
        CheckpointError, AudioError, WeakAudioError
            As `EmbeddingTransformer`; no such classifier or normalisation.
        """
        embedding = EmbeddingTransformer(self.model, self.layer, self.pooling, self.cache)
        classifier = build_classifier(self.classifier, self.normalisation)
        self.pipeline_ = make_pipeline(embedding, *(step for _, step in classifier.steps)).fit(X, y)
        self.classes_: NDArray[Any] = self.pipeline_.classes_
        return self

    def predict(self, X: Paths) -> NDArray[Any]:
        """(n,) classes of n recordings."""
        check_is_fitted(self)
        predicted: NDArray[Any] = self.pipeline_.predict(X)
        return predicted

    def predict_proba(self, X: Paths) -> NDArray[np.float64]:
        """(n, C) probabilities of n recordings, in the order of `classes_`.

        Raises
        ------
        WeakAudioError
            The classifier gives none.
        """
        check_is_fitted(self)
        if not hasattr(self.pipeline_, "predict_proba"):
            raise WeakAudioError(f"classifier {self.classifier!r} gives no probabilities; calibrated-svm does")
        probabilities: NDArray[np.float64] = self.pipeline_.predict_proba(X)
        return probabilities


class SegmentPooler(TransformerMixin, BaseEstimator):
    """Clips of equally many segments to vectors: what `pooling` of an `Embedder` does, inside a pipeline.

    Parameters
    ----------
    n_segments
        S. Each row of X holds a clip's segment embeddings one after the other, (n, S * D), so that what comes
        before and after it in a pipeline are plain arrays.
    pooling
        "mean", "max", "std", or several, as "mean+max".
    """

    def __init__(self, n_segments: int = 1, pooling: str = "mean") -> None:
        self.n_segments = n_segments
        self.pooling = pooling

    def fit(self, X: ArrayLike, y: object = None) -> SegmentPooler:
        """Check the shape of X (n, S * D).

        Raises
        ------
        WeakAudioError
            S does not divide the width of X, or no such pooling.
        """
        checked = validate_data(self, X, dtype=[np.float64, np.float32])
        split_names(self.pooling, POOLINGS, "pooling")
        if self.n_segments < 1 or checked.shape[1] % self.n_segments:
            raise WeakAudioError(
                f"n_segments {self.n_segments}: does not divide the {checked.shape[1]} columns of X, which are the "
                "segments of a clip one after the other"
            )
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """(n, D) for each pooling, side by side."""
        check_is_fitted(self)
        checked = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        names = split_names(self.pooling, POOLINGS, "pooling")
        return np.stack([pool(clip.reshape(self.n_segments, -1), names) for clip in checked])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")
