"""Recordings become vectors: scikit-learn transformers that take paths and stand before any classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from weakaudio.audio.frontend import LogMel
from weakaudio.audio.io import read_audio
from weakaudio.errors import WeakAudioError
from weakaudio.inference.embedder import Embedder
from weakaudio.transfer.cache import embed_cached

Paths = Sequence[str | Path]


class TakesPaths:
    """Tells scikit-learn that paths go in, (n,); stands before `BaseEstimator`."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


class _PathTransformer(TakesPaths, TransformerMixin, BaseEstimator):
    """What both transformers share: paths in, one named column per feature out; `fit` learns nothing.

    As nothing is learned, vectors may be computed once, outside of a cross-validation, without any clip of a
    test fold reaching a training fold.
    """

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """(D,) names of the columns; `input_features` is ignored, paths have no columns."""
        check_is_fitted(self)
        return np.asarray(self._names(), dtype=object)

    def _names(self) -> list[str]:
        raise NotImplementedError


class EmbeddingTransformer(_PathTransformer):
    """Recordings to clip embeddings of a network.

    Inside a `Pipeline` every fold of a cross-validation embeds its clips anew. Embeddings do not depend on
    labels or on other clips, so it is as honest, and five times as fast in five folds, to transform once and
    cross-validate the classifier on the array.

    Parameters
    ----------
    model
        Path of a model file, or a name that `weakaudio models` lists.
    layer
        "f1": the embedding before the classifier; "f2": the class probabilities; "f1+f2": both.
    pooling
        How segments become a clip: "mean", "max", "std", or several, as "mean+max".
    cache
        A folder where embeddings are kept, so that no recording is heard twice: by the recording's path, size and
        time of change, and by the model. It may be shared, and deleted at any time. None keeps nothing.

    Attributes
    ----------
    n_features_out_ : int
        D.
    origin_ : dict
        Where the vectors come from: name and SHA-256 of the model.
    """

    def __init__(
        self,
        model: str | Path = "untrained-16k",
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
            No such model, or a damaged one.
        WeakAudioError
            X is not a sequence of paths, or no such layer or pooling.
        """
        _check_paths(X)
        self._embedder = Embedder.from_pretrained(self.model, self.layer, self.pooling)
        self.origin_ = {"model": str(self.model), "checksum": self._embedder.checksum}
        self.n_features_out_ = self._embedder.n_features
        return self

    def transform(self, X: Paths) -> NDArray[np.float32]:
        """(n, D) embeddings of n recordings, in their order.

        Raises
        ------
        AudioError
            A recording that cannot be read; the message names it.
        """
        check_is_fitted(self)
        paths = _check_paths(X)
        if self.cache is None:
            return self._embedder.embed_files(paths)
        return embed_cached(self._embedder, paths, Path(self.cache))

    def _names(self) -> list[str]:
        return self._embedder.feature_names


class LogMelStatistics(_PathTransformer):
    """Recordings to statistics of their log-mel, over time: the reference that every network has to beat.

    Of each mel band the mean, the standard deviation, and the standard deviation of the differences between
    neighbouring frames (their mean is left out: it only compares the last frame with the first). A recording
    of one frame has deviations of 0.

    Parameters
    ----------
    front_end
        Name of a preset; recordings at another rate are resampled.

    Attributes
    ----------
    n_features_out_ : int
        D = 3 F.
    origin_ : dict
        Where the vectors come from: the numbers of the front end.
    """

    def __init__(self, front_end: str = "16k") -> None:
        self.front_end = front_end

    def fit(self, X: Paths, y: object = None) -> LogMelStatistics:
        """Build the front end; opens no recording.

        Raises
        ------
        WeakAudioError
            No such front end, or X is not a sequence of paths.
        """
        _check_paths(X)
        self._logmel = LogMel(self.front_end)
        self.n_features_out_ = 3 * self._logmel.front_end.n_mels
        self.origin_ = {"front_end": self._logmel.front_end.to_dict()}
        return self

    def transform(self, X: Paths) -> NDArray[np.float32]:
        """(n, D) statistics of n recordings, in their order.

        Raises
        ------
        AudioError
            A recording that cannot be read; the message names it.
        """
        check_is_fitted(self)
        rate = self._logmel.front_end.sample_rate
        return np.stack([self._statistics(read_audio(path, rate)[0]) for path in _check_paths(X)])

    def _statistics(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logmel = self._logmel(torch.from_numpy(audio)[None])[0][0].double()  # (T, F)
        change = logmel.diff(dim=0) if len(logmel) > 1 else torch.zeros_like(logmel)
        parts = [logmel.mean(0), logmel.std(0, correction=0), change.std(0, correction=0)]
        return torch.cat(parts).float().numpy()

    def _names(self) -> list[str]:
        bands = range(self._logmel.front_end.n_mels)
        return [f"{statistic}_mel{band}" for statistic in ("mean", "std", "std_of_change") for band in bands]


def _check_paths(X: Paths) -> list[str | Path]:
    array = np.asarray(X, dtype=object)
    if array.ndim != 1 or not array.size or not all(isinstance(path, (str, Path)) for path in array):
        raise WeakAudioError(f"expected paths, in a sequence of one or more, got {X!r:.80}")
    return list(array)
