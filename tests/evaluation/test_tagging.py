from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from weakaudio.errors import ProtocolError
from weakaudio.evaluation.tagging import per_class_metrics, tagging_metrics

Table = NDArray[np.floating]


def drawn(clips: int = 200, classes: int = 6) -> tuple[Table, Table]:
    rng = np.random.default_rng(0)
    targets = (rng.random((clips, classes)) < 0.3).astype(float)
    return targets, rng.normal(size=targets.shape) + targets


def average_precision(targets: Table, scores: Table) -> float:
    """Mean, over the positives, of the precision at their rank (no ties)."""
    ranked = targets[np.argsort(-scores)]
    return float(np.mean([ranked[: n + 1].mean() for n in range(len(ranked)) if ranked[n]]))


def auc(targets: Table, scores: Table) -> float:
    """Share of pairs in which the positive ranks first."""
    return float((scores[targets == 1][:, None] > scores[targets == 0]).mean())


def lwlrap(targets: Table, scores: Table) -> float:
    """Mean, over all labels of all clips, of the precision at the label's rank in its clip."""
    precisions = []
    for row, own in zip(targets, scores, strict=True):
        for k in np.flatnonzero(row):
            ahead = own >= own[k]
            precisions.append(row[ahead].sum() / ahead.sum())
    return float(np.mean(precisions))


def test_per_class_metrics_equal_scikit_learn_and_a_plain_loop() -> None:
    targets, scores = drawn()
    table = per_class_metrics(targets, scores)
    for k in range(targets.shape[1]):
        y, s = targets[:, k], scores[:, k]
        assert table["ap"][k] == pytest.approx(average_precision(y, s)) == average_precision_score(y, s)
        assert table["auc"][k] == pytest.approx(auc(y, s)) == roc_auc_score(y, s)
        assert table["positives"][k] == y.sum()


def lwlrap_of_class(targets: Table, scores: Table, k: int) -> float:
    """Mean, over the clips that have class k, of the precision at its rank in the clip."""
    precisions = []
    for row, own in zip(targets, scores, strict=True):
        if row[k]:
            ranked = sorted(range(len(row)), key=lambda j: -own[j])
            place = ranked.index(k) + 1
            precisions.append(sum(row[j] for j in ranked[:place]) / place)
    return sum(precisions) / len(precisions)


def test_per_class_lwlrap_equals_a_plain_loop() -> None:
    targets, scores = drawn()
    table = per_class_metrics(targets, scores)
    for k in range(targets.shape[1]):
        assert table["lwlrap"][k] == pytest.approx(lwlrap_of_class(targets, scores, k), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_per_class_lwlrap_weighted_by_positives_is_the_overall_lwlrap(ties: bool) -> None:
    targets, scores = drawn()
    scores = scores.round() if ties else scores
    targets[:, 4], targets[:, 5] = 0, 1  # never, always: no average precision, but the ranking counts
    targets[7] = 0
    table = per_class_metrics(targets, scores)
    assert table["lwlrap"].isna().tolist() == [False] * 4 + [True, False]
    present = table[table["positives"] > 0]
    overall = np.average(present["lwlrap"], weights=present["positives"])
    assert overall == pytest.approx(tagging_metrics(targets, scores).lwlrap, abs=1e-12)


def test_means_are_over_classes_and_lwlrap_over_labels() -> None:
    targets, scores = drawn()
    metrics = tagging_metrics(targets, scores)
    columns = list(zip(targets.T, scores.T, strict=True))
    assert metrics.mean_ap == pytest.approx(np.mean([average_precision(y, s) for y, s in columns]))
    assert metrics.mean_auc == pytest.approx(np.mean([auc(y, s) for y, s in columns]))
    assert metrics.d_prime == pytest.approx(2**0.5 * NormalDist().inv_cdf(metrics.mean_auc))
    assert metrics.lwlrap == pytest.approx(lwlrap(targets, scores))
    assert metrics.prevalence == pytest.approx(targets.mean())
    assert (metrics.n_classes, metrics.n_clips) == (6, 200)


def test_metrics_equal_values_computed_by_hand() -> None:
    targets = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.4, 0.3], [0.7, 0.6, 0.1], [0.1, 0.5, 0.9]])
    metrics = tagging_metrics(targets, scores)
    # class 0: + - + -: AP (1 + 2/3) / 2, AUC 3/4; class 1: + - + -: the same; class 2 has no positive
    assert metrics.mean_ap == pytest.approx(5 / 6)
    assert metrics.mean_auc == pytest.approx(3 / 4)
    assert metrics.d_prime == pytest.approx(0.953873, abs=1e-6)
    # labels in their clips: 1; 1/2 (second of three); 1, 1
    assert metrics.lwlrap == pytest.approx((1 + 1 / 2 + 1 + 1) / 4)
    assert metrics.prevalence == pytest.approx(1 / 2)
    assert (metrics.n_classes, metrics.n_clips) == (2, 4)
    classes = per_class_metrics(targets, scores)["lwlrap"]
    assert classes[:2].tolist() == pytest.approx([1, (1 / 2 + 1) / 2])
    assert np.isnan(classes[2])


def test_classes_without_positives_or_negatives_are_left_out() -> None:
    targets, scores = drawn()
    expected = tagging_metrics(targets, scores)
    noise = np.random.default_rng(1).normal(size=(len(targets), 2))
    wider = np.column_stack([targets, np.zeros(len(targets)), np.ones(len(targets))])
    metrics = tagging_metrics(wider, np.column_stack([scores, noise]))
    assert metrics.mean_ap == expected.mean_ap
    assert metrics.mean_auc == expected.mean_auc
    assert metrics.prevalence == expected.prevalence
    assert metrics.n_classes == 6
    assert (
        per_class_metrics(wider, np.column_stack([scores, noise]))["ap"].isna().tolist() == [False] * 6 + [True] * 2
    )


def test_random_scores_have_the_prevalence_as_their_map() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((4000, 20)) < 0.1).astype(float)
    metrics = tagging_metrics(targets, rng.random(targets.shape))
    assert metrics.mean_ap == pytest.approx(metrics.prevalence, abs=0.01)
    assert metrics.mean_auc == pytest.approx(0.5, abs=0.01)
    assert metrics.d_prime == pytest.approx(0, abs=0.05)
    constant = tagging_metrics(targets, np.full(targets.shape, 0.5))
    assert constant.mean_ap == pytest.approx(constant.prevalence)
    assert constant.mean_auc == 0.5


def test_perfect_scores_are_perfect() -> None:
    targets, _ = drawn()
    metrics = tagging_metrics(targets, targets)
    assert (metrics.mean_ap, metrics.mean_auc, metrics.lwlrap) == (1.0, 1.0, 1.0)
    assert metrics.d_prime == np.inf


def test_nan_scores_are_refused() -> None:
    targets, scores = drawn()
    scores[[3, 5], 0] = np.nan
    with pytest.raises(ProtocolError, match="2 clips are NaN"):
        tagging_metrics(targets, scores)


@pytest.mark.parametrize("shape", [(200, 5), (199, 6), (200,)])
def test_shapes_that_differ_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match="expected"):
        tagging_metrics(drawn()[0], np.zeros(shape))


def test_clips_without_labels_are_refused() -> None:
    with pytest.raises(ProtocolError, match="nothing to measure"):
        tagging_metrics(np.zeros((5, 2)), np.random.default_rng(0).random((5, 2)))
