"""scikit-learn estimators: recordings to embeddings, to log-mel statistics or to classes, and segments to clips."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted, validate_data

from weakaudio.audio.frontend import LogMel
from weakaudio.audio.io import read_audio
from weakaudio.errors import AudioError, WeakAudioError, WriteError
from weakaudio.files import atomic_write
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.embedder import Embedder, split_names
from weakaudio.inference.parts import TIME_POOLINGS, pool
from weakaudio.transfer.classifiers import build_classifier

_CHUNK = 256  # recordings embedded before they are cached: the most that an interrupted run loses

Paths = Sequence[str | Path]


class _TakesPaths:
    """Tags of an estimator whose input is (n,) paths; precedes `BaseEstimator` among the bases."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


class _PathTransformer(_TakesPaths, TransformerMixin, BaseEstimator):
    """Transformer from paths to one named column for each feature; `fit` learns nothing from the recordings.

    Vectors may therefore be computed once, outside of a cross-validation, without leaking test clips into training.
    """

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """List the (D,) column names; `input_features` is ignored, as paths have no columns."""
        check_is_fitted(self)
        return np.asarray(self._names(), dtype=object)

    def _names(self) -> list[str]:
        raise NotImplementedError


class EmbeddingTransformer(_PathTransformer):
    """Transform recordings into clip embeddings of a network.

    In a `Pipeline`, each fold of a cross-validation embeds its clips again. As embeddings depend on neither labels
    nor other clips, transforming once and cross-validating the classifier on the array gives the same scores faster.

    Parameters
    ----------
    model
        Path of a model file, or a name listed by `weakaudio models`.
    layer
        "f1": the embedding before the classifier; "f2": the class probabilities; "f1+f2": both.
    pooling
        Pooling of segments over time: "mean", "max", "std", or several, e.g. "mean+max".
    cache
        Folder that keeps embeddings between runs, by the path, size and modification time of the recording and by the
        model. It may be shared between processes, and deleted at any time. None disables it.

    Attributes
    ----------
    n_features_out_ : int
        D.
    origin_ : dict
        Name and SHA-256 of the model, and the dtype it runs in: bfloat16 where that is native, else float32.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        layer: str = "f1",
        pooling: str = "mean",
        cache: str | Path | None = None,
    ) -> None:
        self.model = model
        self.layer = layer
        self.pooling = pooling
        self.cache = cache

    def fit(self, X: Paths, y: object = None) -> EmbeddingTransformer:
        """Load the model; opens no recording.

        Raises
        ------
        CheckpointError
            The model does not exist or is damaged.
        WeakAudioError
            X is not a sequence of paths; unknown layer or pooling.
        """
        _check_paths(X)
        self._embedder = Embedder.from_pretrained(self.model, self.layer, self.pooling)
        self.origin_ = {"model": str(self.model), "checksum": self._embedder.checksum, "dtype": self._embedder.dtype}
        self.n_features_out_ = self._embedder.n_features
        return self

    def transform(self, X: Paths) -> NDArray[np.float32]:
        """Embed n recordings: (n, D), in their order.

        Raises
        ------
        AudioError
            Names the first recording that cannot be read.
        WeakAudioError
            The cache cannot be used.
        """
        check_is_fitted(self)
        paths = _check_paths(X)
        if self.cache is None:
            return self._embedder.embed_files(paths)
        return _embed_cached(self._embedder, paths, Path(self.cache))

    def _names(self) -> list[str]:
        return self._embedder.feature_names


class LogMelStatistics(_PathTransformer):
    """Transform recordings into statistics of their log-mel over time: the baseline for every network.

    For each mel band the mean, the standard deviation, and the standard deviation of the differences between
    adjacent frames (their mean would only compare the last frame with the first). Deviations of a recording of one
    frame are 0.

    Parameters
    ----------
    front_end
        Name of a preset; recordings at another rate are resampled.

    Attributes
    ----------
    n_features_out_ : int
        D = 3 F.
    origin_ : dict
        Settings of the front end.
    """

    def __init__(self, front_end: str = "16k") -> None:
        self.front_end = front_end

    def fit(self, X: Paths, y: object = None) -> LogMelStatistics:
        """Build the front end; opens no recording.

        Raises
        ------
        WeakAudioError
            Unknown front end, or X is not a sequence of paths.
        """
        _check_paths(X)
        self._logmel = LogMel(self.front_end)
        self.n_features_out_ = 3 * self._logmel.front_end.n_mels
        self.origin_ = {"front_end": self._logmel.front_end.to_dict()}
        return self

    def transform(self, X: Paths) -> NDArray[np.float32]:
        """Compute the statistics of n recordings: (n, D), in their order.

        Raises
        ------
        AudioError
            Names the first recording that cannot be read.
        """
        check_is_fitted(self)
        rate = self._logmel.front_end.sample_rate
        return np.stack([self._statistics(read_audio(path, rate)[0]) for path in _check_paths(X)])

    def _statistics(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logmel = self._logmel(torch.from_numpy(audio)[None])[0][0].double()  # (T, F)
        change = logmel.diff(dim=0) if len(logmel) > 1 else torch.zeros_like(logmel)
        return torch.cat([logmel.mean(0), logmel.std(0, correction=0), change.std(0, correction=0)]).float().numpy()

    def _names(self) -> list[str]:
        bands = range(self._logmel.front_end.n_mels)
        return [f"{statistic}_mel{band}" for statistic in ("mean", "std", "std_of_change") for band in bands]


class WeakAudioClassifier(_TakesPaths, ClassifierMixin, BaseEstimator):
    """Classify recordings: frozen embeddings and a classifier, from paths to probabilities.

    Parameters
    ----------
    model, layer, pooling, cache
        See `EmbeddingTransformer`.
    classifier, normalisation
        See `build_classifier`. The default gives probabilities, and needs five clips of each class.

    Attributes
    ----------
    classes_ : array (C,)
        Class names, sorted.
    pipeline_ : Pipeline
        The fitted steps.
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
        """Embed n recordings and train the classifier on their classes (n,).

        Raises
        ------
        CheckpointError, AudioError, WeakAudioError
            See `EmbeddingTransformer`; or the classifier or normalisation is unknown.
        """
        embedding = EmbeddingTransformer(self.model, self.layer, self.pooling, self.cache)
        classifier = build_classifier(self.classifier, self.normalisation)
        self.pipeline_ = make_pipeline(embedding, *(step for _, step in classifier.steps)).fit(X, y)
        self.classes_: NDArray[Any] = self.pipeline_.classes_
        return self

    def predict(self, X: Paths) -> NDArray[Any]:
        """Predict the classes (n,) of n recordings."""
        check_is_fitted(self)
        predicted: NDArray[Any] = self.pipeline_.predict(X)
        return predicted

    def predict_proba(self, X: Paths) -> NDArray[np.float64]:
        """Predict the probabilities (n, C) of n recordings, in the order of `classes_`.

        Raises
        ------
        WeakAudioError
            The classifier has no probabilities.
        """
        check_is_fitted(self)
        if not hasattr(self.pipeline_, "predict_proba"):
            raise WeakAudioError(f"classifier {self.classifier!r} has no probabilities; use calibrated-svm")
        probabilities: NDArray[np.float64] = self.pipeline_.predict_proba(X)
        return probabilities


class SegmentPooler(TransformerMixin, BaseEstimator):
    """Pool clips of equally many segments over time, as `Embedder` does, inside a pipeline.

    Parameters
    ----------
    n_segments
        S. A row of X is the concatenation of a clip's segment embeddings, (n, S * D), so that the neighbouring steps
        of a pipeline handle plain arrays.
    pooling
        "mean", "max", "std", or several, e.g. "mean+max".
    """

    def __init__(self, n_segments: int = 1, pooling: str = "mean") -> None:
        self.n_segments = n_segments
        self.pooling = pooling

    def fit(self, X: ArrayLike, y: object = None) -> SegmentPooler:
        """Check the shape of X (n, S * D).

        Raises
        ------
        WeakAudioError
            S does not divide the width of X, or the pooling is unknown.
        """
        checked = validate_data(self, X, dtype=[np.float64, np.float32])
        split_names(self.pooling, TIME_POOLINGS, "pooling")
        if self.n_segments < 1 or checked.shape[1] % self.n_segments:
            raise WeakAudioError(
                f"n_segments {self.n_segments}: does not divide the {checked.shape[1]} columns of X, expected "
                "the concatenated segments of a clip"
            )
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Pool n clips: (n, D) for each pooling, concatenated."""
        check_is_fitted(self)
        checked = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        names = split_names(self.pooling, TIME_POOLINGS, "pooling")
        return np.stack([pool(clip.reshape(self.n_segments, -1), names) for clip in checked])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")


def _check_paths(X: Paths) -> list[str | Path]:
    array = np.asarray(X, dtype=object)
    if array.ndim != 1 or not array.size or not all(isinstance(path, (str, Path)) for path in array):
        raise WeakAudioError(f"expected a sequence of one or more paths, got {X!r:.80}")
    return list(array)


def _embed_cached(embedder: Embedder, paths: Sequence[str | Path], cache: Path) -> NDArray[np.float32]:
    """Embed recordings as `Embedder.embed_files` does, reading from the cache those that it holds."""
    kind = json.dumps([embedder.checksum, embedder.layer, embedder.pooling, embedder.dtype])
    folder = cache / hashlib.sha256(kind.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        places = [folder / f"{_fingerprint(path)}.npy" for path in paths]
        missing = [n for n, place in enumerate(places) if not place.is_file()]
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            for n, row in zip(chunk, embedder.embed_files([paths[n] for n in chunk]), strict=True):
                with atomic_write(places[n], unique=True) as part, part.open("wb") as file:
                    np.save(file, row)
        return np.stack([np.load(place) for place in places])
    except (OSError, ValueError, WriteError) as error:  # ValueError: a damaged file
        raise WeakAudioError(f"{folder}: the embedding cache cannot be used ({error}); delete it") from error


def _fingerprint(path: str | Path) -> str:
    try:
        status = os.stat(path)
    except OSError as error:
        raise AudioError(f"{path}: cannot be opened ({error.strerror})") from error
    text = json.dumps([os.path.abspath(path), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
