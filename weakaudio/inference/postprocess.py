"""Scores over time become events: a pure function of the scores and of `PostProcessing`, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import median_filter

SCORE_LEVELS = 65535
"""scores are multiples of its inverse: the 16 bits that a run keeps are exactly those that events are made of"""

_TOLERANCE = 1e-5  # seconds by which a length may miss a limit: less than a sample


@dataclass(frozen=True, eq=False)
class Scores:
    """Class scores of a recording, or of a part of it, over consecutive intervals of time."""

    probs: NDArray[np.floating]
    """(P, C) in [0, 1]"""
    edges: NDArray[np.float64]
    """(P + 1,) interval p lasts from edges[p] to edges[p + 1]: seconds from the start of the recording"""


@dataclass(frozen=True, eq=False)
class PostProcessing:
    """Settings that turn scores into events, and decide nothing about the scores."""

    thresholds: NDArray[np.float64]
    """(C,) score that an event reaches; infinity for classes that are not detected"""
    hysteresis: float = 1.0
    """an event lasts while its score stays at or above this fraction of the threshold"""
    median: float = 0.0
    """length in seconds of a median filter over the scores, applied first"""
    merge_gap: float = 0.0
    """events of a class that are no farther apart are merged; seconds"""
    min_length: float = 0.0
    """shorter events are dropped, after merging; seconds"""
    max_events: int | None = None
    """keep the N highest-scoring events of a recording; None: all"""

    @property
    def low_thresholds(self) -> NDArray[np.float64]:
        """(C,) score at which an event that has reached its threshold ends."""
        return self.hysteresis * self.thresholds

    def filter_size(self, hop: float) -> int:
        """Size of the median filter in intervals of `hop` seconds: the largest odd number not above its length."""
        return max(2 * int((self.median / hop - 1) / 2 + _TOLERANCE) + 1, 1)


class ActiveRegion(NamedTuple):
    """A stretch of time in which the score of a class stays at or above its lower threshold."""

    label: int
    start: float
    """seconds"""
    end: float
    peak: float
    """highest score"""


def active_regions(scores: Scores, low_thresholds: NDArray[np.float64]) -> list[ActiveRegion]:
    """Find the regions in which each class stays at or above its lower threshold (C,), by class, then by start."""
    classes = np.flatnonzero((scores.probs >= low_thresholds).any(0))
    values, edges = scores.probs[:, classes], scores.edges
    active = np.pad(values >= low_thresholds[classes], ((1, 1), (0, 0))).astype(np.int8)
    change = np.diff(active, axis=0).T  # (classes, P + 1): the regions of a class follow one another
    which, first = np.nonzero(change == 1)
    last = np.nonzero(change == -1)[1]  # exclusive
    return [
        ActiveRegion(int(classes[c]), float(edges[a]), float(edges[b]), float(values[a:b, c].max()))
        for c, a, b in zip(which, first, last, strict=True)
    ]


@dataclass
class _Pending:
    """Regions of a class that later scores may still change."""

    event: ActiveRegion | None = None
    """has reached its threshold and may be merged with one that follows"""
    region: ActiveRegion | None = None
    """lasts up to the newest scores"""


class EventBuilder:
    """Turns scores that arrive in parts into events, each returned as soon as no later score can change it.

    The events do not depend on how the scores are divided into parts.

    Parameters
    ----------
    post_processing
        Thresholds, filter and lengths; `max_events` is a property of whole recordings and has no effect here.
    hop
        Seconds from one segment of the network to the next: the interval that the median filter counts in.
    longest
        Events that last longer are returned in pieces of about this length; seconds.
    """

    def __init__(self, post_processing: PostProcessing, hop: float, longest: float = inf) -> None:
        self._rules, self._longest = post_processing, longest
        self._size = post_processing.filter_size(hop)
        self._low = post_processing.low_thresholds
        self._values: NDArray[np.floating] | None = None  # the intervals to filter, and half a filter before them
        self._edges = np.zeros(0)  # of the intervals to filter
        self._pending: dict[int, _Pending] = {}

    def push(self, scores: Scores) -> list[ActiveRegion]:
        """Return the events that are over, given the scores that follow those pushed before."""
        half = self._size // 2
        if not len(scores.probs):
            return []
        if self._values is None:  # beyond its ends, a recording continues with its first and last score
            before = np.repeat(scores.probs[:1], half, axis=0)
            self._values, self._edges = np.concatenate([before, scores.probs]), scores.edges
        else:
            self._values = np.concatenate([self._values, scores.probs])
            self._edges = np.concatenate([self._edges, scores.edges[1:]])
        return self._filter(half, len(self._values) - half)

    def finish(self, seconds: float = inf) -> list[ActiveRegion]:
        """Return the events that are left, none of which ends after `seconds`, the length of the recording."""
        done: list[ActiveRegion] = []
        if self._values is not None and self._size > 1:
            half = self._size // 2
            self._values = np.concatenate([self._values, np.repeat(self._values[-1:], half, axis=0)])
            done = self._filter(half, len(self._values) - half)
        for pending in self._pending.values():
            if pending.region:
                pending.region = pending.region._replace(end=min(pending.region.end, seconds))
            self._settle(pending, done)
            self._release(pending, done)
        self._pending.clear()
        return done

    def _filter(self, first: int, last: int) -> list[ActiveRegion]:
        """Advance over the intervals from `first` to `last` (exclusive), which have half a filter on either side."""
        assert self._values is not None
        if last <= first:
            return []
        values = self._values
        if self._size > 1:
            values = values.copy()
            likely = np.flatnonzero((values >= self._low).any(0))
            values[:, likely] = median_filter(values[:, likely], (self._size, 1), mode="nearest")
        n = last - first
        ready = Scores(values[first:last], self._edges[: n + 1])
        self._values, self._edges = self._values[n:], self._edges[n:]
        return self._advance(active_regions(ready, self._low), float(ready.edges[-1]))

    def _advance(self, regions: Iterable[ActiveRegion], until: float) -> list[ActiveRegion]:
        """Join the regions found up to `until` seconds to the pending ones."""
        done: list[ActiveRegion] = []
        for found in regions:
            pending = self._pending.setdefault(found.label, _Pending())
            if pending.region and found.start - pending.region.end <= _TOLERANCE:
                pending.region = _union(pending.region, found)
            else:
                self._settle(pending, done)
                pending.region = found
        for label, pending in list(self._pending.items()):
            region = pending.region
            if region and (until - region.end > _TOLERANCE or until - region.start >= self._longest):
                self._settle(pending, done)
            next_start = pending.region.start if pending.region else until
            if pending.event and self._apart(pending.event.end, next_start):
                self._release(pending, done)
            if pending == _Pending():
                del self._pending[label]
        return done

    def _settle(self, pending: _Pending, done: list[ActiveRegion]) -> None:
        """End the pending region: make it an event, merge it into the one before, or drop it."""
        region, pending.region = pending.region, None
        if region is None or region.peak < self._rules.thresholds[region.label]:
            return
        if pending.event and not self._apart(pending.event.end, region.start):
            region = _union(pending.event, region)
        else:
            self._release(pending, done)
        pending.event = region
        if region.end - region.start >= self._longest:
            self._release(pending, done)

    def _release(self, pending: _Pending, done: list[ActiveRegion]) -> None:
        event, pending.event = pending.event, None
        if event and event.end - event.start >= self._rules.min_length - _TOLERANCE:
            done.append(event)

    def _apart(self, end: float, start: float) -> bool:
        return start - end > self._rules.merge_gap + _TOLERANCE


def _union(one: ActiveRegion, other: ActiveRegion) -> ActiveRegion:
    return ActiveRegion(one.label, one.start, other.end, max(one.peak, other.peak))


def find_events(
    parts: Iterable[Scores],
    labels: Sequence[str],
    post_processing: PostProcessing,
    hop: float,
    seconds: float = inf,
) -> pd.DataFrame:
    """Turn the scores of a recording into its events.

    Parameters
    ----------
    parts
        The scores, in one part or in several that follow each other.
    labels
        (C,) class names.
    post_processing
        Thresholds, filter and lengths.
    hop
        Seconds from one segment of the network to the next.
    seconds
        Length of the recording, where events end at the latest.

    Returns
    -------
    Columns start, end (seconds), label, score (the highest inside the event), sorted by start, end and class. Events
    of one class neither overlap nor touch.
    """
    builder = EventBuilder(post_processing, hop)
    events = [event for part in parts for event in builder.push(part)] + builder.finish(seconds)
    if (most := post_processing.max_events) is not None:
        events = sorted(events, key=lambda event: (-event.peak, event.start, event.label))[:most]
    return event_table(events, labels)


def event_table(events: Iterable[ActiveRegion], labels: Sequence[str]) -> pd.DataFrame:
    """Make the table of `find_events` from events in any order."""
    rows = sorted(events, key=lambda event: (event.start, event.end, event.label))
    return pd.DataFrame(
        {
            "start": np.array([event.start for event in rows], dtype=np.float64),
            "end": np.array([event.end for event in rows], dtype=np.float64),
            "label": pd.Series([labels[event.label] for event in rows], dtype=str),
            "score": np.array([event.peak for event in rows], dtype=np.float64),
        }
    )
