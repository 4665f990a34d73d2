"""Scores of segments become events: runs of a class above its threshold, put together as they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from weakaudio.audio.geometry import timeline

_TOLERANCE = 1e-5  # seconds by which a length may miss what was asked: less than a sample


@dataclass(frozen=True, eq=False)
class PostProcessing:
    """When a class counts as heard."""

    thresholds: NDArray[np.float64]
    """(C,) probability that an event reaches; infinity for classes that are not to be found"""
    hysteresis: float = 1.0
    """an event lasts as long as its class stays at or above this part of its threshold"""
    median: float = 0.0
    """length in seconds of a median filter over the scores beforehand"""
    merge_gap: float = 0.0
    """events of a class no farther apart become one; seconds"""
    min_length: float = 0.0
    """shorter events are left out, after merging; seconds"""

    def filter_size(self, hop: float) -> int:
        """Pieces of `hop` seconds that the median filter spans: the largest odd number that is no longer than it."""
        return max(2 * int((self.median / hop - 1) / 2 + _TOLERANCE) + 1, 1)


class Run(NamedTuple):
    """A class above its lower threshold."""

    label: int
    start: float
    """seconds"""
    end: float
    peak: float
    """highest score"""


def find_runs(
    probs: NDArray[np.floating],
    times: NDArray[np.floating],
    rules: PostProcessing,
    hop: float,
    begin: float = 0.0,
    stop: float = inf,
) -> list[Run]:
    """Runs of each class at or above `hysteresis` times its threshold, by class and then by start.

    Where segments overlap, the score is their mean, as in `weakaudio evaluate` (see `timeline`).

    Parameters
    ----------
    probs
        (S, C) probabilities of the segments.
    times
        (S, 2) start and end of each, seconds.
    rules
        Thresholds, hysteresis and the median filter; the rest is `EventJoiner`'s.
    hop
        Seconds from one segment to the next.
    begin, stop
        Part of the recording that is asked for, seconds; what is around it is there for the filter only.
    """
    pieces, edges = timeline(probs, times)
    edges = np.minimum(edges, times.max())  # they are rounded, and a recording ends where it ends
    size = rules.filter_size(hop)
    if size > 1:
        pieces = median_filter(pieces, (size, 1), mode="nearest")
    inside = (edges[:-1] >= begin - _TOLERANCE) & (edges[:-1] < stop - _TOLERANCE)
    first_piece = int(inside.argmax())
    pieces = pieces[inside]
    heard = np.pad(pieces >= rules.hysteresis * rules.thresholds, ((1, 1), (0, 0))).astype(np.int8)
    change = np.diff(heard, axis=0).T  # (C, P + 1), so that the runs of a class come one after another
    classes, first = np.nonzero(change == 1)
    last = np.nonzero(change == -1)[1]  # exclusive
    return [
        Run(int(c), float(edges[first_piece + a]), float(edges[first_piece + b]), float(pieces[a:b, c].max()))
        for c, a, b in zip(classes, first, last, strict=True)
    ]


@dataclass
class _Open:
    """What is not over yet of a class."""

    event: Run | None = None
    """reached its threshold; one that begins soon would be joined to it"""
    run: Run | None = None
    """goes on, as far as is known"""


@dataclass
class EventJoiner:
    """Puts runs of parts that follow each other together, and says which events are over."""

    rules: PostProcessing
    longest: float = inf
    """seconds after which an event that goes on is handed out, and another one begins"""
    _open: dict[int, _Open] = field(default_factory=dict)

    def push(self, runs: Iterable[Run], until: float) -> list[Run]:
        """Events that are over, given the runs of the next part (in the order of `find_runs`), which ends at `until`
        seconds; infinity closes all."""
        done: list[Run] = []
        for run in runs:
            state = self._open.setdefault(run.label, _Open())
            if state.run and run.start - state.run.end <= _TOLERANCE:
                state.run = _both(state.run, run)
            else:
                self._settle(state, done)
                state.run = run
        for label, state in list(self._open.items()):
            if state.run and (until - state.run.end > _TOLERANCE or until - state.run.start >= self.longest):
                self._settle(state, done)
            next_start = state.run.start if state.run else until
            if state.event and self._apart(state.event.end, next_start):
                self._hand_out(state, done)
            if state == _Open():
                del self._open[label]
        return done

    def _settle(self, state: _Open, done: list[Run]) -> None:
        """The run is over: it is an event, belongs to the one before, or never reached its threshold."""
        run, state.run = state.run, None
        if run is None or run.peak < self.rules.thresholds[run.label]:
            return
        if state.event and not self._apart(state.event.end, run.start):
            run = _both(state.event, run)
        else:
            self._hand_out(state, done)
        state.event = run
        if run.end - run.start >= self.longest:
            self._hand_out(state, done)

    def _hand_out(self, state: _Open, done: list[Run]) -> None:
        event, state.event = state.event, None
        if event and event.end - event.start >= self.rules.min_length - _TOLERANCE:
            done.append(event)

    def _apart(self, end: float, start: float) -> bool:
        return start - end > self.rules.merge_gap + _TOLERANCE


def _both(one: Run, other: Run) -> Run:
    return Run(one.label, one.start, other.end, max(one.peak, other.peak))


def join_runs(runs: Sequence[Run], rules: PostProcessing) -> list[Run]:
    """Events of a recording, given the runs of all of its parts in their order."""
    joiner = EventJoiner(rules)
    ordered = sorted(runs, key=lambda run: (run.label, run.start))
    return joiner.push(ordered, inf)


def find_events(
    probs: NDArray[np.floating],
    times: NDArray[np.floating],
    labels: Sequence[str],
    rules: PostProcessing,
) -> pd.DataFrame:
    """Events of a recording, from the scores of all of its segments: see `find_runs` and `event_table`.

    Events of one class neither overlap nor touch.
    """
    hop = float(np.median(np.diff(times[:, 0]))) if len(times) > 1 else inf
    return event_table(sort_events(join_runs(find_runs(probs, times, rules, hop), rules)), labels)


def sort_events(events: Sequence[Run], most: int | None = None) -> list[Run]:
    """By start, then end, then class; only `most` of them, those of the highest scores."""
    if most is not None:
        events = sorted(events, key=lambda event: (-event.peak, event.start, event.label))[:most]
    return sorted(events, key=lambda event: (event.start, event.end, event.label))


def event_table(events: Sequence[Run], labels: Sequence[str]) -> pd.DataFrame:
    """start, end (seconds), label, score (the highest inside the event), in the order given."""
    return pd.DataFrame(
        {
            "start": np.array([event.start for event in events], dtype=np.float64),
            "end": np.array([event.end for event in events], dtype=np.float64),
            "label": pd.Series([labels[event.label] for event in events], dtype=str),
            "score": np.array([event.peak for event in events], dtype=np.float64),
        }
    )
