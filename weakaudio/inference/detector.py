"""Recordings become events: scores over time (`Detector.score`), then events (`weakaudio.inference.postprocess`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from weakaudio import __version__
from weakaudio.audio.geometry import timeline
from weakaudio.audio.io import audio_info, mono_floats, resample
from weakaudio.errors import WeakAudioError
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.embedder import Embedder, Part
from weakaudio.inference.postprocess import SCORE_LEVELS, PostProcessing, Scores, find_events
from weakaudio.inference.windows import Window, cut, cut_file, find_loudest
from weakaudio.networks.model import Model
from weakaudio.pretrained.registry import load_model

Threshold = float | Mapping[str, float]

THRESHOLD = 0.5  # for models that bring none of their own

_TOLERANCE = 1e-5  # seconds


@dataclass(frozen=True, eq=False)
class Detection:
    """Events and clip-level tags of one recording."""

    events: pd.DataFrame
    """start, end (seconds from the start of the recording), label, score: see `find_events`"""
    tags: pd.DataFrame
    """label, score: each class with its highest score anywhere in the recording, before any median filter, highest
    first"""
    seconds: float
    """length of the recording"""


class Detector:
    """Detects events in arrays and files, with any model.

    Parameters
    ----------
    model
        Is copied; the copy is made faster (`Network.fuse`).
    threshold
        Score in [0, 1] that an event must reach; or a mapping from the classes to detect to their thresholds. None:
        the model's own (`Model.metadata["threshold"]`), else 0.5.
    min_length
        Shorter events are dropped; seconds. None: the model's own (`Model.metadata["min_length"]`), else 0.
    merge_gap
        Events of a class that are no farther apart are merged, before short ones are dropped; seconds.
    hysteresis
        An event lasts while its score stays at or above this fraction of its threshold; in (0, 1].
    median
        Length of a median filter over the scores, applied first; seconds.
    max_events
        Keep the N highest-scoring events of a recording.
    device, dtype
        As for `Embedder`.

    Raises
    ------
    WeakAudioError
        A threshold outside [0, 1] or for a class that the model does not have, a negative length or gap, another
        invalid setting, or a device that is not available.
    """

    def __init__(
        self,
        model: Model,
        threshold: Threshold | None = None,
        min_length: float | None = None,
        merge_gap: float = 0.0,
        hysteresis: float = 1.0,
        median: float = 0.0,
        max_events: int | None = None,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        if threshold is None:
            threshold = model.metadata.get("threshold", THRESHOLD)
        if min_length is None:
            min_length = model.metadata.get("min_length", 0.0)
        if not 0 < hysteresis <= 1:
            raise WeakAudioError(f"hysteresis {hysteresis!r}: expected a fraction of the threshold, in (0, 1]")
        if max_events is not None and max_events < 1:
            raise WeakAudioError(f"max_events {max_events!r}: expected 1 or more")
        self.post_processing = PostProcessing(
            _per_class(threshold, model.labels),
            hysteresis,
            _seconds(median, "median"),
            _seconds(merge_gap, "merge_gap"),
            _seconds(min_length, "min_length"),
            max_events,
        )
        self._embedder = Embedder(model, layer="f2", device=device, dtype=dtype)
        self.model, self.device = self._embedder.model, self._embedder.device
        geometry, front_end = self.model.network.score_geometry, self.model.front_end
        self.hop = geometry.hop * front_end.hop_length / front_end.sample_rate
        """seconds from one score to the next"""
        self.context = -(-geometry.span // geometry.hop) - 1
        """segments on either side of a window's core that overlap it"""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        threshold: Threshold | None = None,
        min_length: float | None = None,
        merge_gap: float = 0.0,
        hysteresis: float = 1.0,
        median: float = 0.0,
        max_events: int | None = None,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> Detector:
        """Make a detector from a name that `weakaudio models` lists, or from the path of a model file.

        Raises
        ------
        CheckpointError
            As `weakaudio.load_model`.
        WeakAudioError
            As `Detector`.
        """
        model = load_model(name_or_path)
        return cls(model, threshold, min_length, merge_gap, hysteresis, median, max_events, device, dtype)

    @property
    def score_settings(self) -> dict[str, Any]:
        """All settings that decide the scores, as JSON; those that only shape events are in `post_processing`."""
        return {"model": self._embedder.checksum, "dtype": self._embedder.dtype, "weakaudio": __version__}

    def detect_array(self, audio: NDArray[np.floating], sample_rate: int) -> Detection:
        """Detect events in mono audio of shape (N,), full scale at +-1, at any `sample_rate` in Hz.

        Raises
        ------
        AudioError
            Another shape, integers, no samples, NaN or infinite samples.
        """
        audio = mono_floats(audio)
        blocks = [resample(audio, sample_rate, self.model.sample_rate)]
        windows = cut(self.model, blocks, self.context, find_loudest(self.model, blocks))
        return self._detect(windows, len(audio) / sample_rate)

    def detect_file(self, path: str | Path) -> Detection:
        """Detect events in a recording of any length; memory does not grow with it.

        Raises
        ------
        AudioError
            As `weakaudio.read_audio`.
        """
        return self._detect(cut_file(self.model, path, self.context), audio_info(path).seconds)

    def score(self, windows: Sequence[Window]) -> list[Scores]:
        """Class scores of the core of each window, in their order; multiples of 1/65535, as runs keep 16 bits.

        Files, folders and streams are scored by this method alone. Where segments overlap, the score is their mean
        (`weakaudio.audio.geometry.timeline`).
        """
        return [self._scores(part) for part in self._embedder.score_windows(windows)]

    def events(self, parts: Iterable[Scores], seconds: float) -> pd.DataFrame:
        """Events of a recording of that length, from its scores: see `find_events`."""
        return find_events(parts, self.model.labels, self.post_processing, self.hop, seconds)

    def _detect(self, windows: Iterable[Window], seconds: float) -> Detection:
        tags = np.zeros(len(self.model.labels), np.float32)

        def scored() -> Iterator[Scores]:
            for window in windows:
                (scores,) = self.score([window])
                np.maximum(tags, scores.probs.max(0, initial=0.0), out=tags)
                yield scores

        events = self.events(scored(), seconds)
        table = pd.DataFrame({"label": self.model.labels, "score": tags})
        table = table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
        return Detection(events, table, seconds)

    @staticmethod
    def _scores(part: Part) -> Scores:
        values, edges = timeline(part.segments, part.times)
        edges = np.minimum(edges, part.times.max())  # rounding may put the last edge past the end
        begin = part.times[part.core.start, 0] if part.context_before else 0.0
        stop = part.times[part.core.stop, 0] if part.context_after else np.inf
        first, last = np.searchsorted(edges[:-1], [begin - _TOLERANCE, stop - _TOLERANCE])
        rounded = np.rint(values[first:last] * SCORE_LEVELS) / SCORE_LEVELS
        return Scores(rounded.astype(np.float32), edges[first : last + 1])


def _seconds(value: float, what: str) -> float:
    if not (isinstance(value, Real) and value >= 0):
        raise WeakAudioError(f"{what} {value!r}: expected seconds, 0 or more")
    return float(value)


def _per_class(threshold: Threshold, labels: Sequence[str]) -> NDArray[np.float64]:
    """(C,) thresholds; infinity for classes that are not detected."""
    if not isinstance(threshold, Mapping):
        threshold = dict.fromkeys(labels, threshold)
    for label, value in threshold.items():
        if label not in labels:
            raise WeakAudioError(f"threshold of class {label!r}: the model has no such class")
        if not (isinstance(value, Real) and 0 <= value <= 1):
            raise WeakAudioError(f"threshold {value!r}: expected a probability from 0 to 1")
    return np.array([threshold.get(label, np.inf) for label in labels])
