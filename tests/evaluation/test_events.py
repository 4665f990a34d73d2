"""Segment- and event-based F1 of event tables against a plain count, sed_scores_eval and sed_eval."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sed_scores_eval import collar_based, segment_based

from weakaudio.errors import ProtocolError, WeakAudioError
from weakaudio.evaluation.events import Counts, count_events, count_segments, evaluate_events
from weakaudio.evaluation.scored_clips import ScoredClips, score_frames
from weakaudio.formats.event_formats import COLUMNS

Rows = list[tuple[str, float, float, str]]


def table(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame([(*row, 1.0) for row in rows], columns=list(COLUMNS))


# ---- by hand ---------------------------------------------------------------------------------------------


def test_metrics_equal_values_computed_by_hand() -> None:
    truth: Rows = [
        ("a.wav", 1.0, 3.0, "dog"),  # detected: 0.15 s late, and 0.4 s at the end, a fifth of 2 s
        ("a.wav", 5.0, 6.0, "dog"),  # missed: the onset is 0.25 s early
        ("b.wav", 0.0, 0.5, "cat"),  # missed: no prediction in b.wav
    ]
    events: Rows = [
        ("a.wav", 1.15, 3.4, "dog"),
        ("a.wav", 4.75, 6.0, "dog"),
        ("c.wav", 2.2, 2.8, "cat"),  # false positive, in a file without reference events
        ("c.wav", 0.0, 9.0, "bat"),  # left out: the reference does not have the class
    ]
    found = evaluate_events(table(events), table(truth))
    assert found.event.micro == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert found.event.macro == pytest.approx((1 / 4, 1 / 4, 1 / 4))
    assert found.segment.micro == pytest.approx((3 / 6, 3 / 4, 6 / 10))  # dog: 1 2 5 of 1 2 3 4 5; cat: none of 1
    assert found.per_class["class"].tolist() == ["cat", "dog"]
    assert found.per_class["n_true"].tolist() == [1, 2]
    assert found.per_class["n_found"].tolist() == [1, 2]
    assert found.per_class["segment_precision"].tolist() == pytest.approx([0, 3 / 5])
    assert (found.n_files, found.n_left_out) == (3, 1)
    assert found.audio_seconds == pytest.approx(6.0 + 0.5 + 2.8)


def test_perfect_and_empty_predictions() -> None:
    truth = table([("a.wav", 1.0, 3.0, "dog"), ("b.wav", 2.0, 2.1, "cat")])
    perfect, silent = evaluate_events(truth, truth), evaluate_events(table([]), truth)
    assert perfect.event.micro == perfect.segment.macro == (1, 1, 1)
    assert (silent.event.micro.recall, silent.event.micro.f1, silent.segment.macro.f1) == (0, 0, 0)
    assert np.isnan(silent.event.micro.precision)


def test_a_collar_met_exactly_counts_in_spite_of_rounding() -> None:
    for n in range(1, 200):
        onset = n / 10
        true = np.array([[onset, onset + 0.3]])
        assert count_events(np.array([[onset + 0.2, onset + 0.3 - 0.2 + 0.4]]), true).true_positives == 1
        assert count_events(np.array([[onset + 0.2001, onset + 0.5]]), true).true_positives == 0
        assert count_segments(np.array([[n * 0.1 * 10, n + 1.0]]), np.array([[n, n + 1.0]]), 300.0) == (1, 1, 1)


def test_matching_is_one_to_one_and_maximal() -> None:
    # The first prediction is within reach of both events, the second of the first event only.
    true, found = np.array([[1.0, 1.05], [1.1, 1.15]]), np.array([[0.85, 0.9], [1.25, 1.3]])
    assert count_events(found, true) == Counts(1 + 1, 2, 2)
    assert count_events(found[:1], true) == Counts(1, 1, 2)


# ---- other implementations ----------------------------------------------------------------------------------------


@st.composite
def drawn(draw: st.DrawFn) -> tuple[Rows, Rows, dict[str, float]]:
    """Events, truth and lengths of a few files, in hundredths of a second; every class is in the truth."""
    seconds = {f"{n}.wav": draw(st.integers(300, 1000)) / 100 for n in range(draw(st.integers(1, 3)))}
    tables: tuple[Rows, Rows] = ([], [])
    for (file, length), label in itertools.product(seconds.items(), "ab"):
        edges = sorted(draw(st.sets(st.integers(0, int(length * 100)), max_size=8)))
        true = list(zip(edges[::2], edges[1::2], strict=False))
        if file == "0.wav" and not true:
            true = [(10, 150)]
        moves = st.tuples(st.integers(-30, 30), st.integers(-60, 60), st.booleans())
        found = [(on + a, off + b) for on, off in true for a, b, keep in [draw(moves)] if keep]
        found += draw(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), max_size=2))
        limit = int(length * 100)
        for on, off in found:
            on, off = max(0, on), min(limit, off)
            if on < off:
                tables[0].append((file, on / 100, off / 100, label))
        tables[1].extend((file, on / 100, off / 100, label) for on, off in true)
    return tables[0], tables[1], seconds


def joined(rows: Rows, file: str, label: str) -> list[tuple[int, int]]:
    """Events of a class in hundredths of a second, merged where they touch."""
    steps = sorted({n for f, on, off, c in rows if (f, c) == (file, label) for n in range(cent(on), cent(off))})
    runs: list[tuple[int, int]] = []
    for n in steps:
        runs = [*runs[:-1], (runs[-1][0], n + 1)] if runs and runs[-1][1] == n else [*runs, (n, n + 1)]
    return runs


def cent(seconds: float) -> int:
    return round(seconds * 100)


def most_pairs(found: list[tuple[int, int]], true: list[tuple[int, int]]) -> int:
    """By trying every pairing."""
    if not true:
        return 0
    (on, off), rest = true[0], true[1:]
    best = most_pairs(found, rest)
    for n, (a, b) in enumerate(found):
        if abs(a - on) <= 20 and 10 * abs(b - off) <= max(200, 2 * (off - on)):
            best = max(best, 1 + most_pairs(found[:n] + found[n + 1 :], rest))
    return best


@settings(max_examples=40, deadline=None)
@given(drawn())
def test_counts_equal_a_plain_count(case: tuple[Rows, Rows, dict[str, float]]) -> None:
    events, truth, seconds = case
    result = evaluate_events(table(events), table(truth), seconds)
    totals = {"event": [0, 0, 0], "segment": [0, 0, 0]}
    for label in "ab":
        counts = {"event": [0, 0, 0], "segment": [0, 0, 0]}
        for file in seconds:
            found, true = joined(events, file, label), joined(truth, file, label)
            counts["event"] = add(counts["event"], [most_pairs(found, true), len(found), len(true)])
            predicted = {n // 100 for on, off in found for n in range(on, off)}
            reference = {n // 100 for on, off in true for n in range(on, off)}
            counts["segment"] = add(counts["segment"], [len(predicted & reference), len(predicted), len(reference)])
        for what, (hits, n_found, n_true) in counts.items():
            row = result.per_class.set_index("class").loc[label]
            assert row[f"{what}_f1"] == pytest.approx(2 * hits / (n_found + n_true))
            assert row[f"{what}_recall"] == pytest.approx(hits / n_true)
            assert row[f"{what}_precision"] == pytest.approx(hits / n_found if n_found else np.nan, nan_ok=True)
            totals[what] = add(totals[what], [hits, n_found, n_true])
    for what, mean in (("event", result.event), ("segment", result.segment)):
        hits, n_found, n_true = totals[what]
        assert mean.micro.f1 == pytest.approx(2 * hits / (n_found + n_true))
        assert mean.macro.f1 == pytest.approx(result.per_class[f"{what}_f1"].mean())
    if not events or {row[0] for row in events} & {row[0] for row in truth}:  # else lengths are required
        without = evaluate_events(table(events), table(truth))
        pd.testing.assert_frame_equal(without.per_class, result.per_class)


def add(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


@settings(max_examples=20, deadline=None)
@given(drawn())
def test_f1_equals_sed_scores_eval(case: tuple[Rows, Rows, dict[str, float]]) -> None:
    events, truth, seconds = case
    result = evaluate_events(table(events), table(truth), seconds)
    frames, strong = {}, {}
    for file, length in seconds.items():
        edges = np.unique([0.0, length, *(t for f, on, off, _ in events if f == file for t in (on, off))])
        times, middles = np.stack([edges[:-1], edges[1:]], axis=1), (edges[:-1] + edges[1:]) / 2
        active = [
            [any(f == file and c == label and on < m < off for f, on, off, c in events) for label in "ab"]
            for m in middles
        ]
        frames[file] = score_frames(np.array(active, dtype=float), times).rename(columns={"0": "a", "1": "b"})
        strong[file] = [(on / 100, off / 100, label) for label in "ab" for on, off in joined(truth, file, label)]
    inputs = {**ScoredClips(frames, strong, seconds).inputs(["a", "b"]), "threshold": 0.5}
    segment, *_ = segment_based.fscore(**inputs, audio_durations=seconds, segment_length=1.0)
    event, *_ = collar_based.fscore(**inputs, onset_collar=0.2, offset_collar=0.2, offset_collar_rate=0.2)
    for what, theirs, ours in (("segment", segment, result.segment), ("event", event, result.event)):
        assert ours.micro.f1 == pytest.approx(theirs["micro_average"])
        assert ours.macro.f1 == pytest.approx(theirs["macro_average"])
        assert list(result.per_class[f"{what}_f1"]) == pytest.approx([theirs["a"], theirs["b"]])


@pytest.mark.parametrize("seed", range(3))
def test_micro_averages_equal_sed_eval(seed: int) -> None:
    sed_eval = pytest.importorskip("sed_eval")
    dcase_util = pytest.importorskip("dcase_util")
    rng = np.random.default_rng(seed)
    truth: Rows = [(f"{n % 4}.wav", 3.0 * n, 3.0 * n + float(rng.uniform(0.2, 2)), "ab"[n % 2]) for n in range(40)]
    events: Rows = [
        (file, max(0.0, on + float(rng.normal(0, 0.15))), off + float(rng.normal(0, 0.2)), label)
        for file, on, off, label in truth
        if rng.random() < 0.8
    ]
    events = [event for event in events if event[1] < event[2]]
    result = evaluate_events(table(events), table(truth))
    by_event = sed_eval.sound_event.EventBasedMetrics(
        ["a", "b"], t_collar=0.2, percentage_of_length=0.2, event_matching_type="optimal"
    )
    by_segment = sed_eval.sound_event.SegmentBasedMetrics(["a", "b"], time_resolution=1.0)

    def of(rows: Rows, file: str) -> object:
        names = ("filename", "onset", "offset", "event_label")
        return dcase_util.containers.MetaDataContainer(
            [dict(zip(names, row, strict=True)) for row in rows if row[0] == file]
        )

    for file in sorted({row[0] for row in truth}):
        for measure in (by_event, by_segment):
            measure.evaluate(reference_event_list=of(truth, file), estimated_event_list=of(events, file))
    for measure, ours in ((by_event, result.event), (by_segment, result.segment)):
        theirs = measure.overall_f_measure()
        assert ours.micro == pytest.approx((theirs["precision"], theirs["recall"], theirs["f_measure"]))
        assert 0.1 < ours.micro.f1 < 0.95


# ---- arguments and results -----------------------------------------------------------------------------------


def test_classes_asked_for_count_without_reference_events() -> None:
    truth = table([("a.wav", 1.0, 2.0, "dog")])
    events = table([("a.wav", 1.0, 2.0, "dog"), ("a.wav", 1.0, 2.0, "cat")])
    assert evaluate_events(events, truth).event.micro.precision == 1.0
    asked = evaluate_events(events, truth, labels=["dog", "cat", "bat"])
    assert asked.event.micro == pytest.approx((0.5, 1.0, 2 / 3))
    assert asked.event.macro == pytest.approx((0.5, 1.0, 0.5))  # bat: neither predictions nor references
    assert asked.n_left_out == 0


def test_segments_end_with_the_recording_and_silent_files_count() -> None:
    truth, events = table([("a.wav", 1.0, 2.0, "dog")]), table([("a.wav", 1.0, 9.0, "dog")])
    found = evaluate_events(events, truth, {"a.wav": 2.5, "silent.wav": 60.0})
    assert found.segment.micro.precision == pytest.approx(1 / 2)
    assert (found.n_files, found.audio_seconds) == (2, 62.5)


def test_invalid_tables_are_refused_with_the_reason() -> None:
    truth, events = table([("a.wav", 1.0, 2.0, "dog")]), table([("b/a.wav", 1.0, 2.0, "dog")])
    with pytest.raises(ProtocolError, match=r"no file is in both tables.*'b/a.wav'.*'a.wav'"):
        evaluate_events(events, truth)
    with pytest.raises(ProtocolError, match=r"events: 'b/a.wav' is not among"):
        evaluate_events(events, truth, {"a.wav": 10.0})
    with pytest.raises(ProtocolError, match=r"a.wav: its length is nan s"):
        evaluate_events(truth, truth, {"a.wav": float("nan")})
    with pytest.raises(ProtocolError, match="no reference events"):
        evaluate_events(events, table([]))
    with pytest.raises(WeakAudioError, match="truth: column label missing"):
        evaluate_events(events, truth.drop(columns="label"))


def test_any_class_name_is_allowed() -> None:
    rows: Rows = [("a.wav", 0.0, 1.0, label) for label in ("onset", "macro_average", "a\\b", "nan", "Größe, \n")]
    assert evaluate_events(table(rows), table(rows)).event.macro == (1, 1, 1)


def test_a_day_with_thousands_of_calls_takes_seconds() -> None:
    starts = np.arange(20_000) * 4.0
    truth = table([("day.wav", float(s), float(s) + 2, "call") for s in starts])
    events = table([("day.wav", float(s) + 0.1, float(s) + 2.1, "call") for s in starts[::2]])
    began = time.process_time()
    found = evaluate_events(events, truth)
    assert found.event.micro == pytest.approx((1.0, 0.5, 2 / 3))
    assert time.process_time() - began < 20


def test_memory_does_not_grow_with_the_end_of_an_event() -> None:
    found = evaluate_events(table([("a.wav", 0.0, 1e15, "dog")]), table([("a.wav", 0.0, 1.0, "dog")]))
    assert found.segment.micro.recall == 1.0


def test_results_are_saved(tmp_path: Path) -> None:
    truth = table([("a.wav", 1.0, 2.0, "dog"), ("a.wav", 4.0, 5.0, "cat")])
    found = evaluate_events(table([]), truth, {"a.wav": 10.0})
    found.save(tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["event"]["micro"] == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert (metrics["n_files"], metrics["audio_seconds"], metrics["n_left_out"]) == (1, 10.0, 0)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "per_class.csv"), found.per_class, check_dtype=False)
    assert "1 files, 2 classes: 0 events predicted, 2 in the reference" in str(found)
