"""Segment-based and event-based precision, recall and F1, of event tables and of scores over time.

Tables are counted here, not by sed_scores_eval: it takes scores and compares every pair of events of a recording,
which for a day with ten thousand calls does not fit into memory. The tests compare with sed_scores_eval and sed_eval.

Definition: Mesaros, Heittola and Virtanen, "Metrics for polyphonic sound event detection",
https://doi.org/10.3390/app6060162.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from sed_scores_eval import collar_based, segment_based

from weakaudio.errors import ProtocolError
from weakaudio.evaluation.scored_clips import ScoredClips, merge_events
from weakaudio.files import atomic_write, write_table
from weakaudio.formats.events import check_events

# As in the DCASE challenges.
SEGMENT_SECONDS = 1.0
COLLAR = 0.2  # seconds, at the onset; at the offset this, or
COLLAR_RATE = 0.2  # this part of the reference event's length, whichever is larger

METRICS, PER_CLASS = "metrics.json", "per_class.csv"

_DECIMALS = 6  # of seconds, so that a distance equal to a collar is within it

Spans = NDArray[np.float64]  # (n, 2) start and end of events that do not touch, in order
_NONE: Spans = np.zeros((0, 2))


class F1Score(NamedTuple):
    """Precision, recall and F1, each in [0, 1]; NaN where the denominator is 0."""

    precision: float
    recall: float
    f1: float


class Counts(NamedTuple):
    """Segments or events: those predicted, those in the reference, and those in both."""

    true_positives: int
    predictions: int
    references: int

    def score(self) -> F1Score:
        return F1Score(
            _ratio(self.true_positives, self.predictions),
            _ratio(self.true_positives, self.references),
            _ratio(2 * self.true_positives, self.predictions + self.references),
        )


class EventMetrics(NamedTuple):
    """Segment-based or event-based metrics over all classes measured."""

    micro: F1Score
    """from the counts of all classes together"""
    macro: F1Score
    """mean over the classes where it is defined: a class without predictions has no precision"""
    n_classes: int

    def __str__(self) -> str:
        precision, recall, f1 = self.micro
        return f"micro {f1:.3f} (precision {precision:.3f}, recall {recall:.3f}), macro {self.macro.f1:.3f}"


@dataclass(frozen=True)
class EventEvaluation:
    """Result of `evaluate_events`."""

    segment: EventMetrics
    """in segments of 1 s"""
    event: EventMetrics
    """with a collar of 0.2 s at the onset, and of 0.2 s or 20 % of the length at the offset"""
    per_class: pd.DataFrame
    """class, n_true (reference events), n_found (predicted events), and precision, recall and f1 of segments and of
    events; NaN: not defined"""
    n_files: int
    audio_seconds: float
    """of all files; where lengths were not given, up to the last event of each"""
    n_left_out: int
    """predicted events of classes that are not measured"""

    def save(self, folder: str | Path) -> None:
        """Write `metrics.json` and `per_class.csv` (`save_metrics`)."""
        names = ("n_files", "audio_seconds", "n_left_out", "segment", "event")
        save_metrics(folder, {name: getattr(self, name) for name in names}, self.per_class)

    def __str__(self) -> str:
        predictions, references = self.per_class["n_found"].sum(), self.per_class["n_true"].sum()
        left_out = f"; {self.n_left_out} predictions of other classes left out" if self.n_left_out else ""
        return (
            f"{self.n_files} files, {len(self.per_class)} classes: {predictions} events predicted, {references} in "
            f"the reference{left_out}\nsegment-based F1: {self.segment}\nevent-based F1: {self.event}"
        )


def evaluate_events(
    events: pd.DataFrame,
    truth: pd.DataFrame,
    seconds: Mapping[str, float] | None = None,
    labels: Sequence[str] | None = None,
) -> EventEvaluation:
    """Measure predicted events against reference events, at the threshold at which they were detected.

    Segment-based: a segment of 1 s is predicted, or in the reference, if an event reaches into it. Event-based: a
    prediction is a true positive if its onset lies within 0.2 s of a reference event's, and its offset within 0.2 s
    or 20 % of that event's length, whichever is larger; predictions and reference events are matched one to one, so
    that most are. Events of a class that touch or overlap are merged first, as in `weakaudio evaluate`. PSDS needs
    scores, which a table of events no longer has: `weakaudio.evaluate` measures it.

    Parameters
    ----------
    events, truth
        Event tables (`read_events`): predictions and reference. A file that only one of them names has no events in
        the other.
    seconds
        Length of each file measured, at which its segments end. None: the files with events in either table, each as
        long as up to its last event; F1 is the same, unless an event reaches past its recording's end.
    labels
        Classes measured. None: those in `truth`, which may be silent about others.

    Raises
    ------
    WeakAudioError
        No event tables (`check_events`).
    ProtocolError
        No reference events, no file in both tables, an event's file not in `seconds`, or an invalid length.
    """
    events, truth = check_events(events, "events"), check_events(truth, "truth")
    labels = sorted(set(truth["label"]) if labels is None else set(labels))
    n_predictions = len(events)
    events, truth = (table[table["label"].isin(labels)] for table in (events, truth))
    if truth.empty:
        raise ProtocolError("truth: no reference events of the classes measured")
    lengths = _lengths(events, truth, seconds)

    predicted, reference = _spans(events), _spans(truth)
    by_segment: dict[str, list[Counts]] = {label: [] for label in labels}
    by_event: dict[str, list[Counts]] = {label: [] for label in labels}
    for file, label in predicted.keys() | reference.keys():
        pair = predicted.get((file, label), _NONE), reference.get((file, label), _NONE)
        by_segment[label].append(count_segments(*pair, lengths[file]))
        by_event[label].append(count_events(*pair))
    segments = {label: _total(counts) for label, counts in by_segment.items()}
    matched = {label: _total(counts) for label, counts in by_event.items()}
    per_class = pd.DataFrame({"class": labels}, index=labels)
    per_class["n_true"] = [one.references for one in matched.values()]
    per_class["n_found"] = [one.predictions for one in matched.values()]
    per_class = per_class.join(_scores(segments).add_prefix("segment_")).join(_scores(matched).add_prefix("event_"))
    return EventEvaluation(
        segment=_metrics(segments),
        event=_metrics(matched),
        per_class=per_class.reset_index(drop=True),
        n_files=len(lengths),
        audio_seconds=float(sum(lengths.values())),
        n_left_out=n_predictions - len(events),
    )


def f1_at_best_thresholds(
    val: ScoredClips, test: ScoredClips
) -> tuple[EventMetrics, EventMetrics, pd.DataFrame] | None:
    """Segment-based and event-based metrics on `test`, at the thresholds of best F1 on `val`.

    Definitions are those of `evaluate_events`, thresholds are chosen for each class and for each of the two metrics.

    Returns
    -------
    segment, event, table
        Over the classes with reference events in both `val` and `test`. The table has threshold, precision, recall
        and f1 of each, for segments and for events, indexed by its number. None where there is no such class.
    """
    classes = [label for label in test.classes() if label in val.classes()]
    if not classes:
        return None
    collars = {"onset_collar": COLLAR, "offset_collar": COLLAR, "offset_collar_rate": COLLAR_RATE}
    for_segments, for_events = [], []
    for clips in (val, test):
        inputs = clips.inputs(classes)
        for_segments.append({**inputs, "segment_length": SEGMENT_SECONDS, "audio_durations": clips.seconds})
        for_events.append({**inputs, **collars})
    segment, segment_table = _tuned(segment_based, *for_segments)
    event, event_table = _tuned(collar_based, *for_events)
    return segment, event, segment_table.add_prefix("segment_").join(event_table.add_prefix("event_"))


def save_metrics(folder: str | Path, content: Mapping[str, Any], per_class: pd.DataFrame) -> None:
    """Write `metrics.json`, with null for NaN and infinity, and `per_class.csv`, each atomically.

    Raises
    ------
    WriteError
        They cannot be written.
    """
    write_table(per_class, Path(folder) / PER_CLASS)
    with atomic_write(Path(folder) / METRICS) as partial:
        text = json.dumps(_finite(content), indent=1, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")


def count_segments(predicted: Spans, reference: Spans, seconds: float) -> Counts:
    """Segments of 1 s of a recording into which events of a class reach.

    Parameters
    ----------
    predicted, reference
        (n, 2) and (m, 2) start and end, in seconds.
    seconds
        Length of the recording; a last part of a segment counts as one.
    """
    last = math.ceil(round(seconds / SEGMENT_SECONDS, _DECIMALS))

    def to_segments(spans: Spans) -> Spans:
        spans = np.round(spans / SEGMENT_SECONDS, _DECIMALS)
        return np.clip(np.stack([np.floor(spans[:, 0]), np.ceil(spans[:, 1])], axis=1), 0, last)

    predicted, reference = to_segments(predicted), to_segments(reference)
    n_predicted, n_reference = _covered(predicted), _covered(reference)
    n_either = _covered(np.concatenate([predicted, reference]))
    return Counts(n_predicted + n_reference - n_either, n_predicted, n_reference)


def count_events(predicted: Spans, reference: Spans) -> Counts:
    """Events of a class in a recording, matched one to one where onset and offset lie within the collars.

    Parameters
    ----------
    predicted, reference
        (n, 2) and (m, 2) start and end in seconds, in order of start.
    """
    onsets = predicted[:, 0]
    reach = COLLAR + 10.0**-_DECIMALS
    first = np.searchsorted(onsets, reference[:, 0] - reach)
    last = np.searchsorted(onsets, reference[:, 0] + reach, side="right")  # exclusive
    near = last - first
    row = np.repeat(np.arange(len(reference)), near)
    column = np.arange(len(row)) - np.repeat(np.cumsum(near) - near, near) + np.repeat(first, near)
    collars = np.maximum(COLLAR, COLLAR_RATE * (reference[row, 1] - reference[row, 0]))
    distance = np.abs(predicted[column] - reference[row])
    match = (np.round(distance[:, 0] - COLLAR, _DECIMALS) <= 0) & (np.round(distance[:, 1] - collars, _DECIMALS) <= 0)
    true_positives = 0
    if match.any():
        shape = (len(reference), len(predicted))
        pairs = csr_matrix((np.ones(match.sum()), (row[match], column[match])), shape=shape)
        true_positives = int((maximum_bipartite_matching(pairs, perm_type="column") >= 0).sum())
    return Counts(true_positives, len(predicted), len(reference))


def _lengths(events: pd.DataFrame, truth: pd.DataFrame, seconds: Mapping[str, float] | None) -> dict[str, float]:
    """Length of each file measured, in seconds."""
    if seconds is None:
        if len(events) and not set(events["file"]) & set(truth["file"]):
            raise ProtocolError(
                f"no file is in both tables; the first of events is {events['file'].iloc[0]!r}, the first of truth "
                f"{truth['file'].iloc[0]!r}; name files by their path below one folder in both"
            )
        ends = pd.concat([events, truth]).groupby("file")["end"].max()
        return {str(file): float(end) for file, end in ends.items()}
    for file, length in seconds.items():
        if not 0 < length < math.inf:
            raise ProtocolError(f"{file}: its length is {length} s; expected more than 0")
    for name, table in (("events", events), ("truth", truth)):
        unknown = table["file"][~table["file"].isin(list(seconds))]
        if len(unknown):
            raise ProtocolError(f"{name}: {unknown.iloc[0]!r} is not among the files whose lengths are given")
    return dict(seconds)


def _spans(table: pd.DataFrame) -> dict[tuple[str, str], Spans]:
    """Merged events by file and class."""
    table = table.rename(columns={"start": "onset", "end": "offset"})
    spans: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for file, rows in table.groupby("file"):
        for onset, offset, label in merge_events(rows):
            spans.setdefault((str(file), label), []).append((onset, offset))
    return {key: np.array(pairs) for key, pairs in spans.items()}


def _covered(spans: Spans) -> int:
    """Number of integers covered by spans, which may overlap."""
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    before = np.concatenate([[0.0], np.maximum.accumulate(spans[:, 1])])[: len(spans)]
    return int(np.maximum(spans[:, 1] - np.maximum(spans[:, 0], before), 0).sum())


def _tuned(measure: Any, val: dict[str, Any], test: dict[str, Any]) -> tuple[EventMetrics, pd.DataFrame]:
    """Metrics by a module of sed_scores_eval on `test`, at the best thresholds on `val`; a table by class number."""
    _, _, _, best, _ = measure.best_fscore(**val)
    # Where it is best to detect everything, the threshold is minus infinity; 0 does the same.
    thresholds = {label: max(float(threshold), 0.0) for label, threshold in best.items()}
    _, _, _, stats = measure.fscore(threshold=thresholds, **test)
    counts = {
        label: Counts(int(one["tps"]), int(one["tps"] + one["fps"]), int(one["n_ref"]))
        for label, one in ((label, stats[label]) for label in thresholds)
    }
    table = _scores(counts)
    table.insert(0, "threshold", list(thresholds.values()))
    return _metrics(counts), table.set_index(table.index.astype(int))


def _total(counts: Iterable[Counts]) -> Counts:
    return Counts(*(sum(column) for column in zip((0, 0, 0), *counts, strict=True)))


def _metrics(counts: Mapping[str, Counts]) -> EventMetrics:
    """Micro and macro averages of counts by class."""
    return EventMetrics(_total(counts.values()).score(), F1Score(*_scores(counts).mean().tolist()), len(counts))


def _scores(counts: Mapping[str, Counts]) -> pd.DataFrame:
    """Precision, recall and F1, one row a class, indexed by its name."""
    return pd.DataFrame([one.score() for one in counts.values()], index=list(counts))


def _ratio(part: float, of: int) -> float:
    return part / of if of else math.nan


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null; named tuples become objects."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
