"""Class semantics: equal to plain loops, and planted relations are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list

from weakaudio.errors import ProtocolError
from weakaudio.transfer.cross_validation import FoldScores
from weakaudio.transfer.semantics import (
    class_embeddings,
    class_similarities,
    class_tree,
    clip_map,
    confused_pairs,
    event_importance,
    nearest_classes,
)

Array = NDArray[np.float64]
CLASSES = ["bell", "car", "dog", "engine"]


@pytest.fixture
def clips(rng: np.random.Generator) -> tuple[Array, list[str]]:
    """60 clips of 4 classes, shuffled and not equally many; "car" and "engine" are similar."""
    y = rng.permutation(["bell"] * 10 + ["car"] * 25 + ["dog"] * 5 + ["engine"] * 20).tolist()
    centres = dict(zip(CLASSES, rng.normal(size=(4, 16)), strict=True))
    centres["engine"] = centres["car"] + 0.3 * centres["engine"]
    X = np.stack([centres[name] + 0.2 * rng.normal(size=16) for name in y])
    return 50 + X * np.logspace(-2, 2, 16), y  # a common component, and features of all scales


def test_class_embeddings_are_those_of_a_plain_loop(clips: tuple[Array, list[str]]) -> None:
    X, y = clips
    shares = np.array([1 / (4 * y.count(name)) for name in y])[:, None]  # all classes weigh equally
    mean = (shares * X).sum(0)
    units = []
    for row in (X - mean) / np.sqrt((shares * (X - mean) ** 2).sum(0)):
        units.append(row / np.sqrt(sum(value * value for value in row)))
    expected = [np.mean([unit for unit, own in zip(units, y, strict=True) if own == name], 0) for name in CLASSES]
    table = class_embeddings(X, y)
    assert table.index.tolist() == CLASSES
    np.testing.assert_allclose(table.to_numpy(), expected, atol=1e-12)


def test_similarities_are_cosines(clips: tuple[Array, list[str]]) -> None:
    embeddings = class_embeddings(*clips)
    table = class_similarities(embeddings)
    assert table.index.tolist() == table.columns.tolist() == CLASSES
    for first in CLASSES:
        for second in CLASSES:
            a, b = embeddings.loc[first], embeddings.loc[second]
            assert table.loc[first, second] == pytest.approx((a @ b) / np.sqrt((a @ a) * (b @ b)))


def test_neither_a_common_component_nor_a_large_feature_hides_similarity(clips: tuple[Array, list[str]]) -> None:
    similarities = class_similarities(class_embeddings(*clips))
    assert similarities.loc["car", "engine"] > 0.5
    assert similarities.loc["car", "dog"] < 0
    nearest = nearest_classes(similarities)
    assert nearest[:2].to_numpy()[:, :2].tolist() == [["car", "engine"], ["engine", "car"]]
    assert sorted(nearest["class"]) == CLASSES
    assert (nearest["class"] != nearest["nearest"]).all()


def test_constant_features_change_nothing(clips: tuple[Array, list[str]]) -> None:
    X, y = clips
    constant = np.full((len(X), 2), 0.1, dtype=np.float32)
    with_constant = class_similarities(class_embeddings(np.hstack([X, constant]), y))
    pd.testing.assert_frame_equal(with_constant, class_similarities(class_embeddings(X, y)))


def test_the_tree_joins_similar_classes_first(rng: np.random.Generator) -> None:
    centres = np.repeat(rng.normal(size=(4, 32)), 3, axis=0)  # 12 classes in 4 families
    shuffled = rng.permutation(12)
    y = [f"class {n:02d}" for n in range(12) for _ in range(5)]
    X = np.repeat(centres[shuffled], 5, axis=0) + 0.3 * rng.normal(size=(60, 32))
    tree = class_tree(class_similarities(class_embeddings(X, y)))
    assert tree.shape == (11, 4)
    families = (shuffled // 3)[leaves_list(tree)]
    assert (np.diff(families) != 0).sum() == 3
    assert tree[7, 2] < 0.5 * tree[8, 2]  # 8 joins within families, then 3 between them


def test_the_lowest_join_is_one_minus_the_highest_cosine(clips: tuple[Array, list[str]]) -> None:
    similarities = class_similarities(class_embeddings(*clips))
    tree = class_tree(similarities)
    assert [CLASSES[int(n)] for n in sorted(tree[0, :2])] == ["car", "engine"]
    assert tree[0, 2] == pytest.approx(1 - similarities.loc["car", "engine"])


def test_clips_of_a_class_are_together_on_the_map(clips: tuple[Array, list[str]]) -> None:
    X, y = clips
    kinds = np.array(["traffic" if name in ("car", "engine") else name for name in y])
    places = clip_map(X)
    assert places.shape == (60, 2)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (kinds[distances.argmin(1)] == kinds).mean() > 0.95


def test_equal_seeds_make_equal_maps(clips: tuple[Array, list[str]]) -> None:
    X, _ = clips
    np.testing.assert_array_equal(clip_map(X, seed=3), clip_map(X, seed=3))


def test_the_smallest_map() -> None:
    places = clip_map([[0.0, 1], [1, 0], [1, 1], [0, 0]])
    assert np.isfinite(places).all()


def test_a_planted_relation_is_found(rng: np.random.Generator) -> None:
    y = np.repeat(["office", "park", "street"], 30)
    events = ["speech", "bird", "car", "keys"]
    probs = rng.uniform(0, 0.2, size=(90, 4))
    probs[:, 0] += 0.7  # speech is everywhere, and says nothing
    probs[y == "park", 1] += 0.3
    probs[y == "street", 2] += 0.3
    probs[y == "office", 3] *= 1.5
    probs[:, 3] *= 1e-3  # what is always quiet can still tell
    table = event_importance(probs, y, events, most=2)
    assert table["class"].tolist() == ["office", "office", "park", "park", "street", "street"]
    assert table["rank"].tolist() == [1, 2] * 3
    first = table[table["rank"] == 1].set_index("class")
    assert first["event"].to_dict() == {"office": "keys", "park": "bird", "street": "car"}
    assert first.loc["park", "in_class"] == pytest.approx(probs[y == "park", 1].mean())
    assert first.loc["park", "over_classes"] == pytest.approx(probs[:, 1].mean())


def test_effects_are_those_of_a_plain_loop_with_classes_weighing_the_same(clips: tuple[Array, list[str]]) -> None:
    X, y = clips
    probs = 1 / (1 + np.exp(50 - X))
    table = event_importance(probs, y, [str(n) for n in range(16)], most=16).set_index(["class", "event"])
    for event in range(16):
        own = {name: [p for p, true in zip(probs[:, event], y, strict=True) if true == name] for name in CLASSES}
        mean = np.mean([np.mean(values) for values in own.values()])
        deviation = np.sqrt(np.mean([np.mean((np.array(values) - mean) ** 2) for values in own.values()]))
        for name, values in own.items():
            assert table.loc[(name, str(event)), "effect"] == pytest.approx((np.mean(values) - mean) / deviation)


def test_effects_do_not_depend_on_the_number_of_clips(rng: np.random.Generator) -> None:
    probs, y = rng.random((12, 5)), np.repeat(["a", "b", "c"], 4)
    again = np.concatenate([probs, probs[y == "a"], probs[y == "a"]])
    events = list("vwxyz")
    many = event_importance(again, [*y, *["a"] * 8], events)
    pd.testing.assert_frame_equal(many, event_importance(probs, y, events))


def test_an_event_of_one_class_alone_has_the_maximal_effect() -> None:
    y = np.repeat(CLASSES, 3)
    table = event_importance(np.stack([y == "dog", np.ones(12)], 1), y, ["bark", "hum"], most=1).set_index("class")
    assert table.loc["dog", "event"] == "bark"
    assert table.loc["dog", "effect"] == pytest.approx(np.sqrt(3))
    assert table.loc["car", "event"] == "hum"  # constant: no effect
    assert table.loc["car", "effect"] == pytest.approx(0)


def test_fewer_events_than_asked_for_are_all_listed(clips: tuple[Array, list[str]]) -> None:
    X, y = clips
    assert len(event_importance(X[:, :2], y, ["a", "b"], most=5)) == 4 * 2


def test_the_order_of_clips_does_not_matter(clips: tuple[Array, list[str]], rng: np.random.Generator) -> None:
    X, y = clips
    order = rng.permutation(len(y))
    shuffled = [y[n] for n in order]
    pd.testing.assert_frame_equal(class_embeddings(X[order], shuffled), class_embeddings(X, y))
    events = [str(n) for n in range(16)]
    pd.testing.assert_frame_equal(event_importance(X[order], shuffled, events), event_importance(X, y, events))


def test_confused_pairs_are_counted() -> None:
    confusion = np.array([[7, 0, 1], [3, 5, 0], [0, 0, 4]])
    scores = FoldScores({1: 0.8}, np.array([]), np.array(["bell", "car", "dog"]), confusion)
    table = confused_pairs(scores)
    assert table.to_numpy().tolist() == [["car", "bell", 3, 3 / 8], ["bell", "dog", 1, 1 / 8]]
    assert table.columns.tolist() == ["class", "taken_for", "clips", "part"]


def test_no_confusions_give_no_pairs() -> None:
    scores = FoldScores({1: 1.0}, np.array([]), np.array(["bell", "car"]), np.diag([4, 4]))
    assert confused_pairs(scores).empty


X4 = [[0.0, 1], [1, 0], [1, 1], [0, 0]]
Y4 = ["a", "b", "a", "b"]
E2 = ["x", "y"]
SAME, NAN = [[1.0, 2]] * 4, [[0.0, 1], [1, 0], [np.nan, 1], [0, 0]]


@pytest.mark.parametrize(
    ("call", "arguments", "says"),
    [
        (class_embeddings, (X4, ["a"] * 4), r"at least two classes are needed, got \['a'\]"),
        (class_embeddings, (X4, Y4[:3]), "X has 4 rows, y 3"),
        (class_embeddings, (X4, ["a", None, "a", "b"]), "y: missing in 1 of 4 rows, first in row 1"),
        (class_embeddings, (X4, [["a"], ["b"], ["a", "b"], []]), "y: expected one value for each clip"),
        (class_embeddings, (X4, np.eye(4)), "y: expected one value for each clip"),
        (class_embeddings, (NAN, Y4), "NaN or infinite values, first in row 2: fix or drop that clip"),
        (class_embeddings, ([[0.0, 1], [1, 0, 2]], ["a", "b"]), "not numbers of equal length; .* one model"),
        (class_embeddings, ([0.0, 1], ["a", "b"]), r"shape \(2,\): expected \(clips, features\)"),
        (class_embeddings, ([], []), "expected .clips, features"),
        (class_embeddings, (SAME, Y4), "equal for all clips.*check the model"),
        (clip_map, (SAME,), "equal for all clips.*check the model"),
        (clip_map, (NAN,), "first in row 2: fix or drop"),
        (clip_map, (X4[:3],), "at least four clips"),
        (clip_map, ([[1.0], [2], [3], [4]],), "two features"),
        (event_importance, (X4, ["a"] * 4, E2), "at least two classes"),
        (event_importance, (NAN, Y4, E2), "probs holds NaN or infinite values, first in row 2"),
        (event_importance, (X4, Y4[:3], E2), "probs has 4 rows, y 3"),
        (event_importance, (X4, Y4, ["x"]), "2 columns, but there are 1 event names: give the labels of the model"),
        (event_importance, (X4, Y4, E2, 0), "most 0: expected 1 or more events"),
    ],
)
def test_unfit_input_is_refused(call: Callable[..., Any], arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        call(*arguments)
