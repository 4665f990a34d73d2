"""Scores become events: thresholds, hysteresis, median filter, gaps and lengths, whole or in parts."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sed_scores_eval.base_modules.detection import scores_to_event_list

from weakaudio.audio.geometry import SegmentGeometry, timeline
from weakaudio.evaluation.localisation import score_frames
from weakaudio.inference.postprocess import EventBuilder, PostProcessing, Scores, active_regions, find_events

RATE = 16000
LABELS = ["dog", "rain, heavy", "saw"]
COLUMNS = ["start", "end", "label", "score"]


def events_of(
    probs: NDArray[np.floating], times: NDArray[np.floating], labels: list[str], rules: PostProcessing
) -> pd.DataFrame:
    """Events of segments that may overlap: (S, C) scores and (S, 2) times."""
    values, edges = timeline(probs, times)
    hop = float(np.median(np.diff(times[:, 0]))) if len(times) > 1 else np.inf
    return find_events([Scores(values, np.minimum(edges, times.max()))], labels, rules, hop)


def abutting(scores: list[float], hop: float = 0.5) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of one class with the times of segments that follow each other."""
    edges = np.arange(len(scores) + 1) * hop
    return np.array(scores)[:, None], np.stack([edges[:-1], edges[1:]], axis=1)


@given(
    span=st.integers(1, 4),
    n_frames=st.integers(1, 200),
    rest=st.integers(1, 159),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
def test_events_cover_exactly_what_reaches_the_threshold(
    span: int, n_frames: int, rest: int, threshold: float, seed: int
) -> None:
    seconds = ((n_frames - 1) * 160 + rest) / RATE
    times = SegmentGeometry(8 * span, 8).times(n_frames, 0.01, seconds)
    probs = np.random.default_rng(seed).integers(0, 5, (len(times), 3)) / 4  # many meet a threshold exactly
    events = events_of(probs, times, LABELS, PostProcessing(np.full(3, threshold)))
    assert events.columns.tolist() == COLUMNS
    assert events["start"].is_monotonic_increasing
    assert ((events["start"] >= 0) & (events["start"] < events["end"]) & (events["end"] <= seconds)).all()
    pieces, edges = (probs, np.unique(times)) if span == 1 else timeline(probs, times)  # alone, a segment is a piece
    middles = (edges[:-1] + edges[1:]) / 2
    pieces = pieces[: len(middles)]  # a segment that begins where the recording ends has no length
    for n, label in enumerate(LABELS):
        own = events[events["label"] == label]
        assert (own["end"].to_numpy()[:-1] < own["start"].to_numpy()[1:]).all()
        inside = (own["start"].to_numpy()[:, None] <= middles) & (middles < own["end"].to_numpy()[:, None])
        np.testing.assert_array_equal(inside.sum(0), pieces[:, n] >= threshold)
        assert own["score"].tolist() == [pieces[heard, n].max() for heard in inside]


@given(span=st.integers(1, 3), n_frames=st.integers(8, 400), seed=st.integers(0, 999))
def test_events_are_those_that_evaluation_counts(span: int, n_frames: int, seed: int) -> None:
    times = SegmentGeometry(8 * span, 8).times(n_frames, 0.01, n_frames * 0.01)
    rng = np.random.default_rng(seed)
    probs, thresholds = rng.random((len(times), 3)), rng.uniform(0.2, 0.8, 3)
    events = events_of(probs, times, ["0", "1", "2"], PostProcessing(thresholds))
    expected = scores_to_event_list(score_frames(probs, times), thresholds)
    found = sorted(events[["start", "end", "label"]].itertuples(index=False, name=None))
    assert [label for *_, label in found] == [label for *_, label in expected]
    np.testing.assert_allclose([event[:2] for event in found], [event[:2] for event in expected], atol=1e-6)


def test_gaps_are_closed_before_short_events_go() -> None:
    probs, times = abutting([0.9, 0.0, 0.8, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0, 0.6, 0.6])

    def spans(**lengths: float) -> list[tuple[float, float, float]]:
        events = events_of(probs, times, ["a"], PostProcessing(np.array([0.5]), **lengths))
        return list(events[["start", "end", "score"]].itertuples(index=False, name=None))

    assert spans() == [(0, 0.5, 0.9), (1, 1.5, 0.8), (2.5, 3, 0.7), (4.5, 5.5, 0.6)]
    assert spans(merge_gap=0.5) == [(0, 1.5, 0.9), (2.5, 3, 0.7), (4.5, 5.5, 0.6)]
    assert spans(merge_gap=1.0) == [(0, 3, 0.9), (4.5, 5.5, 0.6)]
    assert spans(min_length=1.0) == [(4.5, 5.5, 0.6)]
    assert spans(merge_gap=0.5, min_length=1.5) == [(0, 1.5, 0.9)]


@pytest.mark.parametrize("hop", [0.1, 0.32, 1 / 3])
def test_lengths_that_are_no_binary_numbers_are_met(hop: float) -> None:
    probs, times = abutting([0, 0, 0, 1, 0, 1, 0, 0], hop)
    assert len(events_of(probs, times, ["a"], PostProcessing(np.array([0.5]), min_length=hop))) == 2
    assert len(events_of(probs, times, ["a"], PostProcessing(np.array([0.5]), merge_gap=hop))) == 1


def test_events_of_different_classes_are_not_joined() -> None:
    _, times = abutting([0.0] * 4)
    events = events_of(
        np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]]),
        times,
        ["a", "b"],
        PostProcessing(np.full(2, 0.5), merge_gap=9.0),
    )
    assert list(events.itertuples(index=False, name=None)) == [(0, 1, "a", 1), (1, 2, "b", 1)]


def plain(probs: list[float], high: float, low: float, gap: int, shortest: int) -> list[tuple[int, int, float]]:
    """Events of one class in pieces of a second."""
    runs, begin = [], None
    for n, value in enumerate([*probs, -1.0]):
        if value >= low and begin is None:
            begin = n
        elif value < low and begin is not None:
            runs.append((begin, n, max(probs[begin:n])))
            begin = None
    merged: list[tuple[int, int, float]] = []
    for run in (run for run in runs if run[2] >= high):
        if merged and run[0] - merged[-1][1] <= gap:
            merged[-1] = (merged[-1][0], run[1], max(merged[-1][2], run[2]))
        else:
            merged.append(run)
    return [event for event in merged if event[1] - event[0] >= shortest]


scores = st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.9]), min_size=1, max_size=40)


@given(
    scores,
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([1.0, 0.6]),
    st.sampled_from([0.0, 3.0, 7.0]),
    st.lists(st.integers(1, 39)),
)
def test_events_are_those_of_a_plain_loop_however_the_scores_are_divided(
    values: list[float], gap: int, shortest: int, hysteresis: float, median: float, cuts: list[int]
) -> None:
    rules = PostProcessing(np.array([0.5]), hysteresis, median, gap, shortest)
    edges = np.arange(len(values) + 1.0)
    bounds = [0, *sorted({cut for cut in cuts if cut < len(values)}), len(values)]
    parts = [
        Scores(np.array(values)[begin:stop, None], edges[begin : stop + 1])
        for begin, stop in itertools.pairwise(bounds)
    ]
    half = max(int(median), 1) // 2
    padded = [values[0]] * half + values + [values[-1]] * half
    smooth = [float(np.median(padded[n : n + 2 * half + 1])) for n in range(len(values))]
    expected = plain(smooth, 0.5, hysteresis * 0.5, gap, shortest)
    found = find_events(parts, ["a"], rules, 1.0)
    assert list(found[["start", "end", "score"]].itertuples(index=False, name=None)) == expected


def test_the_median_filter_removes_single_segments() -> None:
    values = np.array([0, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0.0])
    rules = PostProcessing(np.array([0.5]), median=3.5)
    assert rules.filter_size(1.0) == 3
    assert [rules.filter_size(hop) for hop in (0.5, 3.5, 4.0)] == [7, 1, 1]
    found = find_events([Scores(values[:, None], np.arange(len(values) + 1.0))], ["a"], rules, 1.0)
    assert list(zip(found["start"], found["end"], strict=True)) == [(5, 8)]


def test_an_event_is_returned_before_a_later_region_that_never_reaches_its_threshold() -> None:
    builder = EventBuilder(PostProcessing(np.array([0.8]), hysteresis=0.5, merge_gap=1.0), 0.5)

    def push(values: list[float], start: float) -> list[tuple[float, float]]:
        edges = start + 0.5 * np.arange(len(values) + 1)
        return [event[1:3] for event in builder.push(Scores(np.array(values)[:, None], edges))]

    assert push([0.9, 0.9, 0.0, 0.5], 0.0) == []  # the second region may still reach the threshold
    assert push([0.0, 0.0], 2.0) == [(0.0, 1.0)]
    assert builder.finish() == []


def test_keep_the_highest_scoring_events_in_order_of_time() -> None:
    probs, times = abutting([0.6, 0.0, 0.9, 0.0, 0.7])
    found = events_of(probs, times, ["a"], PostProcessing(np.array([0.5]), max_events=2))
    assert found["score"].tolist() == [0.9, 0.7]


def test_a_recording_ends_where_its_length_says() -> None:
    scores_ = Scores(np.ones((2, 1)), np.array([0.0, 1.0, 2.0]))
    found = find_events([scores_], ["a"], PostProcessing(np.array([0.5])), 1.0, seconds=1.9)
    assert found[["start", "end"]].to_numpy().tolist() == [[0.0, 1.9]]
    assert active_regions(scores_, np.array([np.inf])) == []
