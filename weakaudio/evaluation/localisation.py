"""How well a model's scores tell when events happen: F1 and PSDS against the strong truth, by sed_scores_eval."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sed_scores_eval import collar_based, intersection_based, segment_based
from sed_scores_eval.base_modules.scores import create_score_dataframe

from weakaudio.audio.geometry import timeline
from weakaudio.data.corpus import Corpus

Event = tuple[float, float, str]  # onset, offset (seconds), class

SEGMENT_SECONDS = 1.0  # of segment-based F1, as in the DCASE challenges
COLLAR = 0.2  # of event-based F1, for the onset; for the offset at least this, or
COLLAR_RATE = 0.2  # this part of the event's length

# The scenarios of PSDS in task 4 of the DCASE challenges: the first asks for exact times, the second for no
# confusion of classes.
_SCENARIO1 = {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_ct": 0.0, "alpha_st": 1.0}
_SCENARIO2 = {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "alpha_ct": 0.5, "alpha_st": 1.0}
_MAX_EFPR = 100.0  # effective false positives an hour at which PSDS ends


class F1(NamedTuple):
    """Agreement with the strong truth, at a threshold for each class that was chosen on other clips."""

    micro: float
    """from the counts of all classes together, in [0, 1]"""
    macro: float
    """mean over classes, in [0, 1]"""
    n_classes: int
    """classes measured: with events both in the clips measured and in those that chose the thresholds"""


class PSDS(NamedTuple):
    """Polyphonic sound detection scores: agreement with the strong truth over all thresholds."""

    scenario1: float
    """in [0, 1]; detections and events must share 70 % of their time"""
    scenario2: float
    """in [0, 1]; 10 % is enough, but false detections over events of another class count for more"""
    n_classes: int
    """classes measured: with events in the clips measured"""


class StrongClips(NamedTuple):
    """Scores over time of some clips, beside their strong truth. Classes are named "0", "1", ..."""

    frames: dict[str, pd.DataFrame]
    """of each clip: onset, offset, scores of each class (`score_frames`)"""
    truth: dict[str, list[Event]]
    """of each clip (`strong_truth`)"""
    seconds: dict[str, float]
    """length of each clip"""

    def classes(self) -> set[str]:
        """Those with events."""
        return {label for events in self.truth.values() for _, _, label in events}

    def inputs(self, classes: Collection[str]) -> dict[str, Any]:
        """Scores and truth of some of the classes, as sed_scores_eval takes them."""
        return {
            "scores": {key: table[["onset", "offset", *classes]] for key, table in self.frames.items()},
            "ground_truth": {key: [e for e in self.truth[key] if e[2] in classes] for key in self.frames},
        }


def f1_scores(val: StrongClips, test: StrongClips) -> tuple[F1, F1, pd.DataFrame] | None:
    """Segment-based and event-based F1 on `test`, at the thresholds best on `val`.

    Segments last 1 s. An event is found if the onset is met within 0.2 s, and the offset within 0.2 s or 20 % of
    the event's length, whichever is more. Measured are classes that have events in both.

    Returns
    -------
    segment, event, table
        The table has, for segments and for events, threshold, f1, precision and recall of each class measured,
        indexed by its number. None where there is no such class.
    """
    classes = _in_order(val.classes() & test.classes())
    if not classes:
        return None
    segments: dict[str, Any] = {"segment_length": SEGMENT_SECONDS}
    segment, segment_table = _f1(
        segment_based,
        {**val.inputs(classes), **segments, "audio_durations": val.seconds},
        {**test.inputs(classes), **segments, "audio_durations": test.seconds},
    )
    collars = {"onset_collar": COLLAR, "offset_collar": COLLAR, "offset_collar_rate": COLLAR_RATE}
    event, event_table = _f1(collar_based, {**val.inputs(classes), **collars}, {**test.inputs(classes), **collars})
    return segment, event, segment_table.add_prefix("segment_").join(event_table.add_prefix("event_"))


def psds_scores(clips: StrongClips) -> tuple[PSDS, pd.DataFrame] | None:
    """PSDS in the two scenarios of the DCASE challenges, which needs no thresholds of other clips.

    A detection holds if events of its class cover a part `dtc` of it, and is false otherwise; an event is found
    if detections that hold cover a part `gtc` of it. Where events of another class cover a part `cttc` of a
    false detection, it is a cross trigger as well. A threshold gives a class its part of events found (TPR) and
    effective false positives an hour, eFPR: false detections an hour of audio, plus alpha_ct times the mean over
    the other classes of cross triggers an hour of that class's events. With mean and standard deviation over
    classes of the best TPR up to an eFPR of e,

        PSDS = 1 / 100 * integral of max(0, mean(e) - alpha_st * deviation(e)) for e from 0 to 100.

    Scenario 1: dtc = gtc = 0.7, alpha_ct = 0, alpha_st = 1; 2: dtc = gtc = 0.1, cttc = 0.3, alpha_ct = 0.5,
    alpha_st = 1. A class alone has no cross triggers. A class without events is not measured, nor are its
    detections.

    Definition: Bilen et al., "A Framework for the Robust Evaluation of Sound Event Detection",
    https://arxiv.org/abs/1910.08440; computed at all thresholds that make a difference: Ebbers, Haeb-Umbach and
    Serizel, "Threshold Independent Evaluation of Sound Event Detection Scores",
    https://arxiv.org/abs/2201.13148. Time grows with the number of clips and the square of that of classes.

    Returns
    -------
    psds, table
        The table has psds1 and psds2 of each class measured (no mean, no deviation: the integral of its own TPR),
        indexed by its number. None where no clip has events.
    """
    classes = _in_order(clips.classes())
    if not classes:
        return None
    # Without other classes, sed_scores_eval 0.0.4 fails instead of counting no cross triggers.
    scenario2 = _SCENARIO2 if len(classes) > 1 else {**_SCENARIO2, "cttc_threshold": None, "alpha_ct": 0.0}
    inputs = {**clips.inputs(classes), "audio_durations": clips.seconds}
    limits = {"unit_of_time": "hour", "max_efpr": _MAX_EFPR}
    one, singles1, *_ = intersection_based.psds(**inputs, **_SCENARIO1, **limits)
    two, singles2, *_ = intersection_based.psds(**inputs, **scenario2, **limits)
    table = _table({"psds1": singles1, "psds2": singles2}, classes)
    return PSDS(float(one), float(two), len(classes)), table


def score_frames(scores: NDArray[np.floating], times: NDArray[np.floating]) -> pd.DataFrame:
    """Scores (S, C) of a clip's segments with their times (S, 2) as frames that follow each other: see `timeline`.

    Returns
    -------
    One row a piece: onset, offset (seconds), and the scores of class "0", "1", ...
    """
    pieces, edges = timeline(scores, times)
    return _Frames(create_score_dataframe(pieces, edges, _names(range(pieces.shape[1]))))


def strong_truth(corpus: Corpus, keys: Collection[str]) -> dict[str, list[Event]]:
    """The events of these clips, merged, with classes named by their number.

    By number, because to sed_scores_eval some names have a meaning of their own ("onset", "macro_average").
    """
    events = corpus.events()
    events = events[events["path"].isin(keys)]
    events = events.assign(label=_names(corpus.label_set.indices(list(events["label"]))))
    return {**{key: [] for key in keys}, **{str(key): merge_events(rows) for key, rows in events.groupby("path")}}


def merge_events(events: pd.DataFrame) -> list[tuple[float, float, str]]:
    """Onset, offset and label of one clip's events, those of a class that touch or overlap made one."""
    merged: list[tuple[float, float, str]] = []
    for label, rows in events.groupby("label"):
        for onset, offset in sorted(zip(rows["onset"], rows["offset"], strict=True)):
            if merged and merged[-1][2] == label and onset <= merged[-1][1]:
                onset, offset = merged[-1][0], max(merged.pop()[1], offset)
            merged.append((float(onset), float(offset), str(label)))
    return merged


class _Frames(pd.DataFrame):
    """Its array is a copy: that of pandas 3 is read-only, which sed_scores_eval 0.0.4 cannot take."""

    @property
    def _constructor(self) -> type[_Frames]:
        return _Frames

    def to_numpy(self, *args: Any, **kwargs: Any) -> NDArray[Any]:
        array: NDArray[Any] = super().to_numpy(*args, **kwargs).copy()
        return array


def _f1(measure: Any, val: dict[str, Any], test: dict[str, Any]) -> tuple[F1, pd.DataFrame]:
    """F1 on `test` at the thresholds best on `val`, and the figures of each class, indexed by its number."""
    _, _, _, best, _ = measure.best_fscore(**val)
    # Where it is best to detect everything, the threshold is minus infinity; 0 does the same.
    thresholds = {name: max(float(threshold), 0.0) for name, threshold in best.items()}
    f1, precision, recall, _ = measure.fscore(threshold=thresholds, **test)
    columns = {"threshold": thresholds, "f1": f1, "precision": precision, "recall": recall}
    return F1(float(f1["micro_average"]), float(f1["macro_average"]), len(thresholds)), _table(columns, thresholds)


def _table(columns: dict[str, dict[str, float]], classes: Iterable[str]) -> pd.DataFrame:
    """Figures by class name as a table, indexed by the number of the class."""
    names = list(classes)
    table = pd.DataFrame({title: [values[name] for name in names] for title, values in columns.items()})
    table.index = pd.Index([int(name) for name in names])
    return table


def _names(numbers: Iterable[int]) -> list[str]:
    return [str(n) for n in numbers]


def _in_order(classes: Iterable[str]) -> list[str]:
    return sorted(classes, key=int)
