"""Recordings become events: what is heard, from when to when, how surely."""

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
from weakaudio.audio.io import audio_info, resample, stream_audio
from weakaudio.batch.checkpoint import Arrays
from weakaudio.errors import WeakAudioError
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.embedder import Embedder, mono_floats
from weakaudio.inference.parts import Part
from weakaudio.inference.postprocess import PostProcessing, Run, event_table, find_runs, join_runs, sort_events
from weakaudio.inference.windows import BLOCK_SECONDS, Window, cut, find_loudest
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model

Threshold = float | Mapping[str, float]

THRESHOLD = 0.5  # of models that bring none of their own

_RUN = ("label", "start", "end", "peak")


@dataclass(frozen=True, eq=False)
class Detection:
    """What was heard in one recording."""

    events: pd.DataFrame
    """start, end (seconds from the start of the recording), label, score: see `weakaudio.inference.postprocess`"""
    tags: pd.DataFrame
    """label, score: every class with the probability that it is anywhere in the recording, likeliest first; of
    recordings longer than a window (`weakaudio.inference.windows`), the highest of its windows"""
    seconds: float
    """length of the recording"""


class Detector:
    """Events of arrays and files, by any model.

    Parameters
    ----------
    model
        Is copied; the copy is made faster (`Network.fuse`).
    threshold
        Probability in [0, 1] from which on a class counts as heard; or one for each class that is to be found.
        None: the model's own, in its metadata under "threshold", else 0.5.
    min_length
        Shorter events are left out; seconds. None: the model's own, in its metadata under "min_length", else 0.
    merge_gap
        Events of a class that are no farther apart become one, before the short are left out; seconds.
    device, dtype
        As for `Embedder`.
    hysteresis
        An event lasts as long as its class stays at or above this part of its threshold; in (0, 1].
    median
        Length of a median filter over the scores beforehand; seconds.
    max_events
        Keep only so many of a recording, those of the highest scores.

    Raises
    ------
    WeakAudioError
        A threshold outside [0, 1] or of a class that the model does not know, a length or a gap below 0, another
        setting that cannot be, or no such device.
    """

    def __init__(
        self,
        model: Model,
        threshold: Threshold | None = None,
        min_length: float | None = None,
        merge_gap: float = 0.0,
        device: str = "cpu",
        dtype: str = "float32",
        hysteresis: float = 1.0,
        median: float = 0.0,
        max_events: int | None = None,
    ) -> None:
        if threshold is None:
            threshold = model.metadata.get("threshold", THRESHOLD)
        if min_length is None:
            min_length = model.metadata.get("min_length", 0.0)
        if not 0 < hysteresis <= 1:
            raise WeakAudioError(f"hysteresis {hysteresis!r}: expected a part of the threshold, above 0 and up to 1")
        if max_events is not None and max_events < 1:
            raise WeakAudioError(f"max_events {max_events!r}: expected 1 or more")
        self.rules = PostProcessing(
            _of_each_class(threshold, model.labels),
            hysteresis,
            _seconds(median, "median"),
            _seconds(merge_gap, "merge_gap"),
            _seconds(min_length, "min_length"),
        )
        self.max_events = max_events
        self._embedder = Embedder(model, layer="f2", device=device, dtype=dtype)
        self.model, self.device = self._embedder.model, self._embedder.device
        geometry, front_end = self.model.network.geometry, self.model.front_end
        self._hop = geometry.hop * front_end.hop_length / front_end.sample_rate  # seconds
        overlap = -(-geometry.span // geometry.hop) - 1
        self.n_beside = overlap + self.rules.filter_size(self._hop) // 2

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        threshold: Threshold | None = None,
        min_length: float | None = None,
        merge_gap: float = 0.0,
        device: str = "cpu",
        **more: Any,
    ) -> Detector:
        """A detector by the name that `weakaudio models` lists, or by the path of a model file; `more` as for
        `Detector`.

        Raises
        ------
        CheckpointError
            As `weakaudio.load_model`.
        """
        return cls(load_model(name_or_path), threshold, min_length, merge_gap, device, **more)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what `analyse` gives, as JSON: how runs become events is not in it."""
        rules = self.rules
        thresholds = {
            label: threshold
            for label, threshold in zip(self.model.labels, rules.thresholds.tolist(), strict=True)
            if np.isfinite(threshold)
        }
        return {
            "job": "detect",
            "model": self._embedder.checksum,
            "dtype": self._embedder.dtype,
            "thresholds": thresholds,
            "hysteresis": rules.hysteresis,
            "median": rules.median,
            "weakaudio": __version__,
        }

    def detect_array(self, audio: NDArray[np.floating], sample_rate: int) -> Detection:
        """Detect in mono audio of shape (N,), full scale at +-1, at any `sample_rate` in Hz.

        Raises
        ------
        AudioError
            Another shape, integers, no samples, NaN or infinite samples.
        """
        audio = mono_floats(audio)
        seconds = len(audio) / sample_rate
        blocks = [resample(audio, sample_rate, self.model.sample_rate)]
        return self._detect(cut(self.model, blocks, self.n_beside, find_loudest(self.model, blocks)), seconds)

    def detect_file(self, path: str | Path) -> Detection:
        """Detect in a recording of any length; memory does not grow with it.

        Raises
        ------
        AudioError
            As `weakaudio.read_audio`.
        """
        rate = self.model.sample_rate
        loudest = find_loudest(self.model, stream_audio(path, rate, BLOCK_SECONDS))
        windows = cut(self.model, stream_audio(path, rate, BLOCK_SECONDS), self.n_beside, loudest)
        return self._detect(windows, audio_info(path).seconds)

    def _detect(self, windows: Iterable[Window], seconds: float) -> Detection:
        runs: list[Run] = []
        tags = np.zeros(len(self.model.labels), np.float32)
        for window in windows:
            (part,) = self.embed_windows([window])
            runs += self.find_runs(part, window)
            tags = np.maximum(tags, part.probs)
        table = pd.DataFrame({"label": self.model.labels, "score": tags})
        table = table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
        return Detection(event_table(self.join_runs(runs, seconds), self.model.labels), table, seconds)

    def embed_windows(self, windows: Sequence[Window]) -> list[Part]:
        """Class probabilities of the segments of parts of recordings, in their order."""
        return self._embedder.embed_windows(windows)

    def find_runs(self, part: Part, window: Window) -> list[Run]:
        """Where each class is above its lower threshold in a window's own segments."""
        begin = float(part.times[part.n_before, 0]) if part.n_before else 0.0
        stop = float(part.times[part.own.stop, 0]) if part.n_after else np.inf
        return find_runs(part.segments, part.times, self.rules, self._hop, begin, stop)

    def join_runs(self, runs: Sequence[Run], seconds: float) -> list[Run]:
        """The events of a recording of that length, sorted, from the runs of all of its windows."""
        inside = [run._replace(end=min(run.end, seconds)) for run in runs]  # a resampled recording may be longer
        return sort_events(join_runs(inside, self.rules), self.max_events)

    def analyse(self, windows: Sequence[Window]) -> list[Arrays]:
        """The runs of each window, as arrays: what a run over many recordings keeps of them."""
        parts = self.embed_windows(windows)
        found = [self.find_runs(part, window) for part, window in zip(parts, windows, strict=True)]
        return [
            {
                name: np.array([getattr(run, name) for run in runs], np.int32 if name == "label" else np.float64)
                for name in _RUN
            }
            for runs in found
        ]


def runs_of(parts: Iterable[Arrays]) -> Iterator[Run]:
    """The inverse of `Detector.analyse`."""
    for part in parts:
        yield from map(Run._make, zip(*(part[name].tolist() for name in _RUN), strict=True))


def _seconds(value: float, what: str) -> float:
    if not (isinstance(value, Real) and value >= 0):
        raise WeakAudioError(f"{what} {value!r}: expected seconds, 0 or more")
    return float(value)


def _of_each_class(threshold: Threshold, labels: Sequence[str]) -> NDArray[np.float64]:
    """(C,) thresholds; classes that are not to be found have infinity."""
    if not isinstance(threshold, Mapping):
        threshold = dict.fromkeys(labels, threshold)
    for label, value in threshold.items():
        if label not in labels:
            raise WeakAudioError(f"threshold of class {label!r}: the model has no such class")
        if not (isinstance(value, Real) and 0 <= value <= 1):
            raise WeakAudioError(f"threshold {value!r}: expected a probability from 0 to 1")
    return np.array([threshold.get(label, np.inf) for label in labels])
