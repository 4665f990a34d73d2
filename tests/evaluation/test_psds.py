"""PSDS against a plain count in fractions; merging of events."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weakaudio.evaluation.events import f1_at_best_thresholds
from weakaudio.evaluation.psds import PSDS, psds_scores
from weakaudio.evaluation.scored_clips import ScoredClips, merge_events, score_frames


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8), st.sampled_from("ab")), min_size=1))
def test_merged_events_cover_the_same_time_and_do_not_touch(drawn: list[tuple[int, int, str]]) -> None:
    table = pd.DataFrame([(on, on + length, label) for on, length, label in drawn])
    table.columns = pd.Index(["onset", "offset", "label"])
    merged = merge_events(table)

    def seconds(events: list[tuple[float, float, str]]) -> set[tuple[str, int]]:
        return {(label, second) for on, off, label in events for second in range(int(on), int(off))}

    assert seconds(merged) == seconds([(on, on + length, label) for on, length, label in drawn])
    for label in "ab":
        own = sorted(event for event in merged if event[2] == label)
        assert all(before[1] < after[0] for before, after in itertools.pairwise(own))


# ---- PSDS: helpers ----------------------------------------------------------------------------------------

FRAMES, FRAME = 8, 10  # frames of a clip, and seconds of each: one false positive in three clips is 15 per hour
TIMES = np.stack([np.arange(FRAMES), np.arange(1, FRAMES + 1)], axis=1) * float(FRAME)

Truth = list[list[tuple[int, int, int]]]  # of each clip: onset, offset (seconds), class


def clips(scores: NDArray[np.float64], truth: Truth) -> ScoredClips:
    """Clips of 80 s with scores (clips, frames, classes) and reference events."""
    keys = [f"{n}.wav" for n in range(len(scores))]
    return ScoredClips(
        frames={key: score_frames(own, TIMES) for key, own in zip(keys, scores, strict=True)},
        references={key: [(on, off, str(k)) for on, off, k in own] for key, own in zip(keys, truth, strict=True)},
        seconds=dict.fromkeys(keys, float(FRAMES * FRAME)),
    )


def psds(scores: NDArray[np.float64], truth: Truth) -> tuple[float, float]:
    found = psds_scores(clips(scores, truth))
    assert found is not None
    return found[0].scenario1, found[0].scenario2


def active(truth: Truth, n_classes: int) -> NDArray[np.float64]:
    """(clips, frames, classes) 1 where an event is, for events that begin and end with frames."""
    scores = np.zeros((len(truth), FRAMES, n_classes))
    for own, events in zip(scores, truth, strict=True):
        for on, off, k in events:
            own[on // FRAME : off // FRAME, k] = 1.0
    return scores


@st.composite
def drawn(draw: st.DrawFn) -> tuple[NDArray[np.float64], Truth]:
    """Scores of few levels, and events at whole seconds that do not touch those of their class."""
    n_clips, n_classes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    levels = st.integers(0, 4)
    size = n_clips * FRAMES * n_classes
    scores = np.array(draw(st.lists(levels, min_size=size, max_size=size)), dtype=float) / 4
    truth: Truth = [[] for _ in range(n_clips)]
    for n, k in itertools.product(range(n_clips), range(n_classes)):
        # every class has an event in the first clip
        edges = draw(st.lists(st.integers(0, FRAMES * FRAME), min_size=2 * (n == 0), max_size=5, unique=True))
        truth[n] += [(on, off, k) for on, off in itertools.pairwise(sorted(edges))][::2]
    return scores.reshape(n_clips, FRAMES, n_classes), truth


# ---- PSDS: a plain count ---------------------------------------------------------------------------------


def overlap(a: tuple[int, int], b: tuple[int, int]) -> int:
    return max(0, min(a[1], b[1]) - max(a[0], b[0]))


def detections(scores: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    """Runs of frames that reach the threshold, in seconds."""
    found = []
    for hit, run in itertools.groupby(range(FRAMES), key=lambda p: bool(scores[p] >= threshold)):
        frames = list(run)
        if hit:
            found.append((frames[0] * FRAME, (frames[-1] + 1) * FRAME))
    return found


def roc(
    scores: NDArray[np.float64], truth: Truth, k: int, scenario: Sequence[Fraction]
) -> list[tuple[Fraction, Fraction]]:
    """(eFPR per hour, TPR) of a class at every threshold."""
    dtc, gtc, cttc, alpha_ct = scenario
    others = [c for c in range(scores.shape[2]) if c != k]
    n_events = sum(e[2] == k for events in truth for e in events)
    lasting = {c: sum(off - on for events in truth for on, off, label in events if label == c) for c in others}
    points = [(Fraction(0), Fraction(0))]
    for threshold in np.unique(scores[:, :, k]):
        hits, false, crossed = 0, 0, dict.fromkeys(others, 0)
        for own, events in zip(scores, truth, strict=True):
            of = {c: [e[:2] for e in events if e[2] == c] for c in range(scores.shape[2])}
            holding = []
            for found in detections(own[:, k], threshold):
                length = found[1] - found[0]
                if sum(overlap(found, e) for e in of[k]) >= dtc * length:
                    holding.append(found)
                    continue
                false += 1
                for c in others:
                    crossed[c] += sum(overlap(found, e) for e in of[c]) >= cttc * length
            hits += sum(sum(overlap(e, found) for found in holding) >= gtc * (e[1] - e[0]) for e in of[k])
        efpr = Fraction(false, len(scores) * FRAMES * FRAME)
        if others:
            efpr += alpha_ct * sum((Fraction(crossed[c], lasting[c]) for c in others), Fraction(0)) / len(others)
        points.append((3600 * efpr, Fraction(hits, n_events)))
    return points


def area(rocs: list[list[tuple[Fraction, Fraction]]]) -> float:
    """Under mean minus deviation of the classes' best TPR up to an eFPR, from 0 to 100, over 100."""
    steps = sorted({efpr for points in rocs for efpr, _ in points if efpr < 100})
    total = 0.0
    for begin, end in itertools.pairwise([*steps, Fraction(100)]):
        best = [float(max(tpr for efpr, tpr in points if efpr <= begin)) for points in rocs]
        total += max(0.0, float(np.mean(best) - np.std(best))) * float(end - begin)
    return total / 100


SCENARIOS = {  # dtc, gtc, cttc, alpha_ct
    "psds1": (Fraction(7, 10), Fraction(7, 10), Fraction(1), Fraction(0)),
    "psds2": (Fraction(1, 10), Fraction(1, 10), Fraction(3, 10), Fraction(1, 2)),
}


@given(drawn())
def test_psds_equals_a_plain_count_in_fractions(case: tuple[NDArray[np.float64], Truth]) -> None:
    scores, truth = case
    found = psds_scores(clips(scores, truth))
    assert found is not None
    values, table = found
    for name, value in (("psds1", values.scenario1), ("psds2", values.scenario2)):
        rocs = [roc(scores, truth, k, SCENARIOS[name]) for k in range(scores.shape[2])]
        assert value == pytest.approx(area(rocs), abs=1e-9)
        assert list(table[name]) == pytest.approx([area([own]) for own in rocs], abs=1e-9)
    assert values.n_classes == scores.shape[2]


# ---- PSDS: by hand ---------------------------------------------------------------------------------------


def test_perfect_scores_score_1() -> None:
    truth: Truth = [[(0, 30, 0), (50, 60, 1)], [(10, 80, 1)], [], [(20, 40, 0), (60, 80, 0)]]
    assert psds(active(truth, 2), truth) == (1.0, 1.0)


def test_inverted_truth_scores_0() -> None:
    truth: Truth = [[(0, 30, 0), (50, 60, 1)], [(10, 80, 1)], [], [(20, 40, 0), (60, 80, 0)]]
    assert psds(1 - active(truth, 2), truth)[0] == 0.0


def test_a_constant_score_has_one_threshold() -> None:
    # 4 detections of whole clips, 1 a false positive, in 320 s. All events are detected from 3600 / 320 per hour.
    truth: Truth = [[(0, 60, 0)], [(0, 60, 0)], [(0, 60, 0)], []]
    assert psds(np.full((4, FRAMES, 1), 0.5), truth) == pytest.approx((1 - 0.1125, 1 - 0.1125))


def test_false_positives_on_another_class_are_cross_triggers_in_scenario_2() -> None:
    # Class 1 is perfect. Class 0, always on, has 2 false positives in 320 s: 22.5 per hour; both lie on
    # class 1, which lasts 120 s: 60 per hour, of which scenario 2 adds the half. Up to there the TPR are 0
    # and 1, whose mean less their deviation is 0; from there both are 1.
    truth: Truth = [[(0, 60, 0)], [(0, 60, 0)], [(0, 60, 1)], [(0, 60, 1)]]
    scores = active(truth, 2)
    scores[:, :, 0] = 0.5
    assert psds(scores, truth) == pytest.approx((1 - 0.225, 1 - 0.225 - 0.3))
    found = psds_scores(clips(scores, truth))
    assert found is not None
    assert found[1].to_numpy() == pytest.approx(np.array([[1 - 0.225, 1 - 0.225 - 0.3], [1.0, 1.0]]))


def test_scenario_2_tolerates_shifted_detections_and_scenario_1_does_not() -> None:
    truth: Truth = [[(0, 20, 0)], [(0, 40, 0)]]
    late = np.roll(active(truth, 1), 1, axis=1)  # by 10 s: half of the first event, three quarters of the second
    assert psds(late, truth) == pytest.approx((0.5 * (1 - 0.225), 1.0))  # false: 1 in 160 s, at the one threshold


# ---- PSDS: properties ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_informative_scores_beat_the_same_scores_shuffled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth: Truth = [[(int(on) * 10, int(on) * 10 + 30, n % 3)] for n, on in enumerate(rng.integers(0, 5, 30))]
    scores = active(truth, 3) + 0.3 * rng.random((30, FRAMES, 3))
    among_clips, in_time = rng.permutation(scores, axis=0), rng.permuted(scores, axis=1)
    for shuffled in (among_clips, in_time):
        assert all(np.array(psds(scores, truth)) > np.array(psds(shuffled, truth)) + 0.2)


@given(case=drawn(), seed=st.integers(0, 99))
def test_the_order_of_classes_does_not_matter(case: tuple[NDArray[np.float64], Truth], seed: int) -> None:
    scores, truth = case
    order = np.random.default_rng(seed).permutation(scores.shape[2])  # class order[n] becomes n
    other: Truth = [[(on, off, int(np.flatnonzero(order == k)[0])) for on, off, k in events] for events in truth]
    found, again = psds_scores(clips(scores, truth)), psds_scores(clips(scores[:, :, order], other))
    assert found is not None
    assert again is not None
    assert again[0] == pytest.approx(found[0], abs=1e-12)
    np.testing.assert_allclose(again[1].to_numpy(), found[1].to_numpy()[order], atol=1e-12)


@given(drawn())
def test_only_the_rank_of_scores_matters(case: tuple[NDArray[np.float64], Truth]) -> None:
    scores, truth = case
    assert psds(scores**3 / 7, truth) == psds(scores, truth)


def test_classes_without_events_are_left_out_with_their_detections() -> None:
    truth: Truth = [[(0, 30, 0)], [(50, 60, 2)]]
    scores = active(truth, 3)
    scores[:, :, 1] = 1.0
    found = psds_scores(clips(scores, truth))
    assert found is not None
    assert found[0] == PSDS(1.0, 1.0, 2)
    assert list(found[1].index) == [0, 2]


def test_clips_without_events_have_no_metrics() -> None:
    silent = clips(np.zeros((2, FRAMES, 1)), [[], []])
    some = clips(np.zeros((2, FRAMES, 1)), [[(0, 10, 0)], []])
    assert psds_scores(silent) is None
    assert f1_at_best_thresholds(silent, some) is None
    assert f1_at_best_thresholds(some, silent) is None
