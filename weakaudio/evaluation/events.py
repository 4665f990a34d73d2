"""How well a table of events agrees with the strong truth: segment-based and event-based F1.

Counted here, not by sed_scores_eval, which takes scores over time and compares every pair of events of a recording:
in a day with ten thousand calls, that is more than memory holds. The tests hold it against sed_scores_eval and
sed_eval. PSDS needs the scores at all thresholds, which a table of events no longer has: `weakaudio evaluate MODEL
CORPUS` measures it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from weakaudio.errors import ProtocolError
from weakaudio.evaluation.localisation import COLLAR, COLLAR_RATE, SEGMENT_SECONDS, merge_events
from weakaudio.files import atomic_write, write_table
from weakaudio.formats.events import check_events

METRICS, PER_CLASS = "metrics.json", "per_class.csv"  # as `weakaudio evaluate` names them

_DECIMALS = 6  # of times in seconds, so that what lies on a limit is within it

Spans = NDArray[np.float64]  # (n, 2) start and end of events, which do not touch, in order
_NONE: Spans = np.zeros((0, 2))


class Counts(NamedTuple):
    """Of segments or of events."""

    hits: int
    n_found: int
    n_true: int

    def scores(self) -> Scores:
        """NaN where there is nothing to divide by."""
        return Scores(
            _ratio(self.hits, self.n_found),
            _ratio(self.hits, self.n_true),
            _ratio(2 * self.hits, self.n_found + self.n_true),
        )


class Scores(NamedTuple):
    """Each in [0, 1]."""

    precision: float
    recall: float
    f1: float


class Agreement(NamedTuple):
    """Over all classes measured."""

    micro: Scores
    """from the counts of all classes together"""
    macro: Scores
    """mean over classes, of each where it is defined; where nothing was found, there is no precision"""


@dataclass(frozen=True)
class EventEvaluation:
    """What `evaluate_events` found."""

    segment: Agreement
    """of segments of 1 s"""
    event: Agreement
    """of events, with a collar of 0.2 s for the onset, and of 0.2 s or 20 % of the length for the offset"""
    per_class: pd.DataFrame
    """class, n_true, n_found (events), and precision, recall and f1 of segments and of events; NaN: not defined"""
    n_files: int
    audio_seconds: float
    """of all files; where lengths were not given, up to the last event of each"""
    n_left_out: int
    """events that were found of classes that are not measured"""

    def save(self, folder: str | Path) -> None:
        """Write `metrics.json` and `per_class.csv`, beside first and then renamed into place.

        Raises
        ------
        WriteError
            They cannot be written.
        """
        folder = Path(folder)
        write_table(self.per_class, folder / PER_CLASS)
        content = {
            "n_files": self.n_files,
            "audio_seconds": self.audio_seconds,
            "n_left_out": self.n_left_out,
            **{what: {"micro": _finite(one.micro), "macro": _finite(one.macro)} for what, one in self._agreements()},
        }
        with atomic_write(folder / METRICS) as beside:
            beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        lines = [
            f"{what}-based F1: micro {one.micro.f1:.3f} (precision {one.micro.precision:.3f}, recall "
            f"{one.micro.recall:.3f}), macro {one.macro.f1:.3f}"
            for what, one in self._agreements()
        ]
        n_true, n_found = self.per_class["n_true"].sum(), self.per_class["n_found"].sum()
        first = f"{self.n_files} files, {len(self.per_class)} classes: {n_found} events found, {n_true} true"
        left_out = f"; {self.n_left_out} found of other classes are left out" if self.n_left_out else ""
        return "\n".join([first + left_out, *lines])

    def _agreements(self) -> list[tuple[str, Agreement]]:
        return [("segment", self.segment), ("event", self.event)]


def evaluate_events(
    events: pd.DataFrame,
    truth: pd.DataFrame,
    seconds: Mapping[str, float] | None = None,
    labels: Sequence[str] | None = None,
) -> EventEvaluation:
    """Measure events against the strong truth, at the one threshold at which they were found.

    A segment of 1 s is heard, or true, if an event reaches into it. An event is found if the onset is met within
    0.2 s, and the offset within 0.2 s or 20 % of the event's length, whichever is more; each event and each detection
    counts once, paired so that most are found. Events of a class that touch or overlap are one, as in `weakaudio
    evaluate`. F1 is 2 * hits / (found + true).

    Definition: Mesaros, Heittola and Virtanen, "Metrics for polyphonic sound event detection",
    https://doi.org/10.3390/app6060162.

    Parameters
    ----------
    events, truth
        As `read_events` gives them. A file that only one of them names has no events in the other.
    seconds
        Length of each file measured; segments end there. None: files are those that have events in either table, and
        end with the last of them. F1 is the same for both, as long as no event goes on past its recording's end.
    labels
        The classes measured. None: those with events in `truth`, since of others it may say nothing.

    Raises
    ------
    WeakAudioError
        As `check_events`.
    ProtocolError
        Nothing is true, no file is in both tables, an event's file is not in `seconds`, or a length is no length.
    """
    events, truth = check_events(events, "events"), check_events(truth, "truth")
    labels = sorted(set(truth["label"]) if labels is None else set(labels))
    n_found = len(events)
    events, truth = (table[table["label"].isin(labels)] for table in (events, truth))
    if truth.empty:
        raise ProtocolError("truth: no events of the classes to be measured; there is nothing to find")
    lengths = _lengths(events, truth, seconds)

    found, true = _spans(events), _spans(truth)
    segments, whole = dict.fromkeys(labels, Counts(0, 0, 0)), dict.fromkeys(labels, Counts(0, 0, 0))
    for file, label in found.keys() | true.keys():
        pair = found.get((file, label), _NONE), true.get((file, label), _NONE)
        segments[label] = _add(segments[label], count_segments(*pair, lengths[file]))
        whole[label] = _add(whole[label], count_events(*pair))

    columns: dict[str, list[Any]] = {
        "class": labels,
        "n_true": [whole[label].n_true for label in labels],
        "n_found": [whole[label].n_found for label in labels],
    }
    for what, counts in (("segment", segments), ("event", whole)):
        for n, name in enumerate(Scores._fields):
            columns[f"{what}_{name}"] = [counts[label].scores()[n] for label in labels]
    return EventEvaluation(
        segment=_agreement(segments),
        event=_agreement(whole),
        per_class=pd.DataFrame(columns),
        n_files=len(lengths),
        audio_seconds=float(sum(lengths.values())),
        n_left_out=n_found - len(events),
    )


def count_segments(found: Spans, true: Spans, seconds: float) -> Counts:
    """Segments of 1 s of a recording that events of a class reach into.

    Parameters
    ----------
    found, true
        (n, 2) and (m, 2) start and end, seconds.
    seconds
        Length of the recording; a last part of a segment counts as one.
    """
    last = math.ceil(round(seconds / SEGMENT_SECONDS, _DECIMALS))
    found, true = (np.round(spans / SEGMENT_SECONDS, _DECIMALS) for spans in (found, true))
    found, true = (
        np.clip(np.stack([np.floor(spans[:, 0]), np.ceil(spans[:, 1])], axis=1), 0, last) for spans in (found, true)
    )
    n_found, n_true, n_either = _covered(found), _covered(true), _covered(np.concatenate([found, true]))
    return Counts(n_found + n_true - n_either, n_found, n_true)


def count_events(found: Spans, true: Spans) -> Counts:
    """Events of a class in a recording whose onset and offset are met, each by a detection of its own.

    Parameters
    ----------
    found, true
        (n, 2) and (m, 2) start and end in seconds, in order of start.
    """
    onsets = found[:, 0]
    reach = COLLAR + 10.0**-_DECIMALS
    first = np.searchsorted(onsets, true[:, 0] - reach)
    last = np.searchsorted(onsets, true[:, 0] + reach, side="right")  # exclusive
    near = last - first
    event = np.repeat(np.arange(len(true)), near)
    detection = np.arange(len(event)) - np.repeat(np.cumsum(near) - near, near) + np.repeat(first, near)
    collars = np.maximum(COLLAR, COLLAR_RATE * (true[event, 1] - true[event, 0]))
    missed_by = np.abs(found[detection] - true[event])
    met = (np.round(missed_by[:, 0] - COLLAR, _DECIMALS) <= 0) & (np.round(missed_by[:, 1] - collars, _DECIMALS) <= 0)
    hits = 0
    if met.any():
        pairs = csr_matrix((np.ones(met.sum()), (event[met], detection[met])), shape=(len(true), len(found)))
        hits = int((maximum_bipartite_matching(pairs, perm_type="column") >= 0).sum())
    return Counts(hits, len(found), len(true))


def _lengths(events: pd.DataFrame, truth: pd.DataFrame, seconds: Mapping[str, float] | None) -> dict[str, float]:
    """Of each file measured, in seconds."""
    if seconds is None:
        if len(events) and not set(events["file"]) & set(truth["file"]):
            raise ProtocolError(
                f"no file is in both tables; the first of events is {events['file'].iloc[0]!r}, the first of truth "
                f"{truth['file'].iloc[0]!r}; name files by their path below one folder in both"
            )
        return {
            str(file): float(end) for file, end in pd.concat([events, truth]).groupby("file")["end"].max().items()
        }
    for file, length in seconds.items():
        if not 0 < length < math.inf:
            raise ProtocolError(f"{file}: its length is {length} s; expected more than 0")
    for name, table in (("events", events), ("truth", truth)):
        unknown = table["file"][~table["file"].isin(list(seconds))]
        if len(unknown):
            raise ProtocolError(f"{name}: {unknown.iloc[0]!r} is not among the files whose lengths are given")
    return dict(seconds)


def _spans(table: pd.DataFrame) -> dict[tuple[str, str], Spans]:
    """Events of each file and class, those that touch or overlap made one, by file and class."""
    table = table.rename(columns={"start": "onset", "end": "offset"})
    spans: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for file, rows in table.groupby("file"):
        for onset, offset, label in merge_events(rows):
            spans.setdefault((str(file), label), []).append((onset, offset))
    return {key: np.array(own) for key, own in spans.items()}


def _covered(spans: Spans) -> int:
    """How many whole numbers spans, which may overlap, cover together."""
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    before = np.concatenate([[0.0], np.maximum.accumulate(spans[:, 1])])[: len(spans)]
    return int(np.maximum(spans[:, 1] - np.maximum(spans[:, 0], before), 0).sum())


def _add(one: Counts, other: Counts) -> Counts:
    return Counts(*(a + b for a, b in zip(one, other, strict=True)))


def _agreement(counts: Mapping[str, Counts]) -> Agreement:
    total = Counts(0, 0, 0)
    for one in counts.values():
        total = _add(total, one)
    columns = zip(*(one.scores() for one in counts.values()), strict=True)
    return Agreement(total.scores(), Scores(*(_mean(column) for column in columns)))


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return _ratio(sum(defined), len(defined))


def _ratio(part: float, of: int) -> float:
    return part / of if of else math.nan


def _finite(scores: Scores) -> dict[str, float | None]:
    """JSON knows no NaN: it becomes null."""
    return {name: None if math.isnan(value) else value for name, value in scores._asdict().items()}
