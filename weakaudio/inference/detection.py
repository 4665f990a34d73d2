"""Recordings become events: what is heard, from when to when, how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from weakaudio.audio.io import read_audio, resample
from weakaudio.audio.timeline import timeline
from weakaudio.data.manifest import write_table
from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.embedding import Audio, find_device, fused_copy, mono_floats
from weakaudio.inference.folder import FAILURES, find_recordings, printable, write_failures
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model
from weakaudio.progress import progress

Threshold = float | Mapping[str, float]

THRESHOLD = 0.5  # of models that bring none of their own

_TOLERANCE = 1e-5  # seconds by which a length may miss what was asked: less than a sample
_SCORE_DECIMALS = 6  # in files


@dataclass(frozen=True, eq=False)
class Detection:
    """What was heard in one recording."""

    events: pd.DataFrame
    """start, end (seconds from the start of the recording), label, score: see `find_events`"""
    tags: pd.DataFrame
    """label, score: every class with the probability that it is anywhere in the recording, likeliest first"""
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
        None: the model's own, in its notes under "threshold", else 0.5.
    min_length
        Shorter events are left out; seconds. None: the model's own, in its notes under "min_length", else 0.
    merge_gap
        Events of a class that are no farther apart become one, before the short are left out; seconds.
    device
        Where the network runs, e.g. "cpu" or "cuda".

    Raises
    ------
    WeakAudioError
        A threshold outside [0, 1] or of a class that the model does not know, a length or a gap below 0, or no
        such device.
    """

    def __init__(
        self,
        model: Model,
        threshold: Threshold | None = None,
        min_length: float | None = None,
        merge_gap: float = 0.0,
        device: str = "cpu",
    ) -> None:
        if threshold is None:
            threshold = model.notes.get("threshold", THRESHOLD)
        if min_length is None:
            min_length = model.notes.get("min_length", 0.0)
        self.thresholds = _of_each_class(threshold, model.labels)
        self.min_length, self.merge_gap = _seconds(min_length, "min_length"), _seconds(merge_gap, "merge_gap")
        self.device = find_device(device)
        self.model = fused_copy(model, self.device)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        threshold: Threshold | None = None,
        min_length: float | None = None,
        merge_gap: float = 0.0,
        device: str = "cpu",
    ) -> Detector:
        """A detector by the name that `weakaudio models` lists, or by the path of a model file.

        Raises
        ------
        CheckpointError
            As `weakaudio.load_model`.
        """
        return cls(load_model(name_or_path), threshold, min_length, merge_gap, device)

    def detect_array(self, audio: NDArray[np.floating], sample_rate: int) -> Detection:
        """Detect in mono audio of shape (N,), full scale at +-1, at any `sample_rate` in Hz.

        Raises
        ------
        AudioError
            Another shape, integers, no samples, NaN or infinite samples.
        """
        return self._detect(mono_floats(audio), sample_rate)

    def detect_file(self, path: str | Path) -> Detection:
        """Detect in a recording.

        Raises
        ------
        AudioError
            As `weakaudio.read_audio`.
        """
        return self._detect(*read_audio(path))

    @torch.inference_mode()
    def _detect(self, audio: Audio, sample_rate: int) -> Detection:
        seconds = len(audio) / sample_rate
        audio = resample(audio, sample_rate, self.model.sample_rate)
        output = self.model(torch.from_numpy(audio)[None].to(self.device))
        probs = output.segment_logits[0].float().sigmoid().cpu().numpy()
        times = np.minimum(self.model.segment_times(len(audio)), seconds)  # a resampled file may be longer
        events = find_events(probs, times, self.model.labels, self.thresholds, self.min_length, self.merge_gap)
        tags = pd.DataFrame({"label": self.model.labels, "score": output.clip_probs[0].cpu().numpy()})
        tags = tags.sort_values("score", ascending=False, kind="stable", ignore_index=True)
        return Detection(events, tags, seconds)


def find_events(
    probs: NDArray[np.floating],
    times: NDArray[np.floating],
    labels: Sequence[str],
    thresholds: NDArray[np.floating],
    min_length: float = 0.0,
    merge_gap: float = 0.0,
) -> pd.DataFrame:
    """Events of each class: as long as its probability stays at or above its threshold.

    Where segments overlap, the probability is their mean, as in `weakaudio evaluate` (see `timeline`), so that a
    threshold means the same here and there. Where they do not, an event is a run of segments.

    Parameters
    ----------
    probs
        (S, C) probabilities of the segments.
    times
        (S, 2) start and end of each, seconds.
    labels
        C class names.
    thresholds
        (C,) probabilities.
    min_length, merge_gap
        As for `Detector`.

    Returns
    -------
    One row an event, sorted by start, then by end, then by class: start, end, label, score (the highest probability
    inside the event). Events of one class neither overlap nor touch.
    """
    pieces, edges = timeline(probs, times)
    edges = np.minimum(edges, times.max())  # they are rounded, and a recording ends where it ends
    heard = np.pad(pieces >= thresholds, ((1, 1), (0, 0))).astype(np.int8)
    change = np.diff(heard, axis=0).T  # (C, P + 1), so that the events of a class come one after another
    classes, first = np.nonzero(change == 1)
    last = np.nonzero(change == -1)[1]  # exclusive

    apart = edges[first[1:]] - edges[last[:-1]] > merge_gap + _TOLERANCE
    begins = np.flatnonzero(np.append(True, (classes[1:] != classes[:-1]) | apart)[: len(classes)])
    ends = np.append(begins[1:], len(classes))[: len(begins)] - 1
    classes, first, last = classes[begins], first[begins], last[ends]

    keep = edges[last] - edges[first] >= min_length - _TOLERANCE
    classes, first, last = classes[keep], first[keep], last[keep]
    order = np.lexsort([classes, last, first])
    spans = [(int(classes[n]), int(first[n]), int(last[n])) for n in order]
    return pd.DataFrame(
        {
            "start": edges[first[order]],
            "end": edges[last[order]],
            "label": pd.Series([labels[n] for n, _, _ in spans], dtype=str),
            "score": np.array([pieces[begin:end, n].max() for n, begin, end in spans], dtype=np.float64),
        }
    )


@dataclass
class DetectionSummary:
    """What `detect_folder` did."""

    out: Path
    n_files: int
    n_events: int
    failures: list[tuple[str, str]] = field(default_factory=list)
    """path and reason of each recording that was left out"""

    def __str__(self) -> str:
        text = f"{self.n_events} events in {self.n_files} files -> {self.out}"
        left_out = f"; {len(self.failures)} left out, see {self.out.parent / FAILURES}"
        return text + (left_out if self.failures else "")


def detect_folder(detector: Detector, folder: str | Path, out: str | Path) -> DetectionSummary:
    """Detect in all audio below a folder, sorted by path, and write one table of events; or in a single recording.

    Recordings that cannot be read are left out and listed, with the reason, in failures.csv beside `out`.

    Parameters
    ----------
    detector
        Decides model, thresholds and lengths.
    folder
        Searched with all folders below it; or the path of one recording.
    out
        .csv: file (relative to the folder), start, end (seconds), label, score; one row an event, sorted by file,
        then by start.

    Raises
    ------
    AudioError
        No audio below the folder, or none that can be read.
    WeakAudioError
        `out` has no known format, or cannot be written.
    """
    folder, out = Path(folder), Path(out)
    if out.suffix != ".csv":
        raise WeakAudioError(f"{out}: the name must end in .csv")
    names, files = find_recordings(folder)
    _check_writable(out)
    tables, failures = [], []
    for name, path in progress(list(zip(names, files, strict=True)), len(files), f"detecting in {len(files)} files"):
        try:
            events = detector.detect_file(path).events
        except AudioError as error:
            failures.append((name, printable(str(error))))
            continue
        events.insert(0, "file", name)
        tables.append(events)
    write_failures(failures, out.parent)
    if not tables:
        raise AudioError(f"{folder}: none of its {len(files)} files can be read; see {out.parent / FAILURES}")
    table = pd.concat(tables, ignore_index=True)
    write_table(table.round({"score": _SCORE_DECIMALS}), out)
    return DetectionSummary(out, len(tables), len(table), failures)


def _check_writable(path: Path) -> None:
    """Find out before the work, not after it."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise WeakAudioError(f"{path}: cannot be written ({error.strerror or error})") from error


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
