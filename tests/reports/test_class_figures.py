"""Figures of classes show their numbers and names, and names are legible."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from weakaudio.errors import WeakAudioError
from weakaudio.reports import class_figures, figures

CLASSES = [f"class number {n:02d}" for n in range(50)]
GROUPS = {name: f"group {n // 10}" for n, name in enumerate(CLASSES)}


def similarities_of(names: list[str]) -> pd.DataFrame:
    """Random cosines."""
    vectors = np.random.default_rng(0).normal(size=(len(names), 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return pd.DataFrame(vectors @ vectors.T, index=names, columns=names)


def tree_of(similarities: pd.DataFrame) -> np.ndarray:
    return linkage(squareform(1 - similarities.to_numpy(), checks=False), "average", optimal_ordering=True)


def events_of(names: list[str]) -> pd.DataFrame:
    """Two events for each class, with effects that rise from class to class."""
    return pd.DataFrame(
        {
            "class": np.repeat(names, 2),
            "rank": [1, 2] * len(names),
            "event": [f"{name}, {n}" for name in names for n in ("first", "second")],
            "effect": [effect for n in range(len(names)) for effect in (0.1 * n, 0.05 * n)],
        }
    )


def overlapping(texts: list[Text], figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that overlap."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    return [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]


def names_of(legend_of: Figure) -> list[str]:
    return [text.get_text() for text in legend_of.legends[0].get_texts()]


def test_a_small_confusion_matrix_shows_counts_and_is_shaded_by_row() -> None:
    (axes,) = class_figures.confusion_matrix(np.array([[3, 1], [0, 0]]), ["dog", "bell"]).axes
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [((0, 0), "3"), ((1, 0), "1")]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["dog", "bell"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")


def test_one_confusion_among_fifty_classes_is_visible() -> None:
    matrix = 39 * np.eye(50, dtype=int)
    matrix[:, 7] += 1
    axes, scale = class_figures.confusion_matrix(matrix, CLASSES).axes
    image = axes.images[0]
    none, one = (image.cmap(image.norm(part))[:3] for part in (0, 1 / 40))
    assert np.abs(np.subtract(none, one)).max() > 0.1
    assert not axes.texts
    assert scale.get_xlabel() == "share of the true class"


def test_names_of_fifty_classes_do_not_overlap() -> None:
    confusion = class_figures.confusion_matrix(np.eye(50, dtype=int), CLASSES)
    similarities = similarities_of(CLASSES)
    tree = class_figures.class_tree(similarities, tree_of(similarities), GROUPS)
    events = class_figures.event_bars(events_of(CLASSES), GROUPS)
    for figure, axes in ((confusion, confusion.axes[0]), (tree, tree.axes[1]), (events, events.axes[0])):
        assert len(axes.get_yticklabels()) == 50
        assert overlapping(axes.get_yticklabels(), figure) == []
    assert overlapping(confusion.axes[0].get_xticklabels(), confusion) == []


def test_clips_on_the_map_have_the_colour_of_their_group() -> None:
    rng = np.random.default_rng(0)
    labels, places = rng.permutation(np.repeat(CLASSES, 4)), rng.normal(size=(200, 2))
    figure = class_figures.class_map(places, labels.tolist(), GROUPS)
    (axes,) = figure.axes
    assert names_of(figure) == [f"group {n}" for n in range(5)]
    for n, (points, mark) in enumerate(zip(axes.collections, figure.legends[0].legend_handles, strict=True)):
        own = [GROUPS[label] == f"group {n}" for label in labels]
        np.testing.assert_allclose(points.get_offsets(), places[own])
        assert to_hex(points.get_facecolor()[0]) == to_hex(mark.get_color())
    looks = [(mark.get_color(), mark.get_marker()) for mark in figure.legends[0].legend_handles]
    assert len({colour for colour, _ in looks}) == len({shape for _, shape in looks}) == 5


def test_a_class_is_named_at_the_median_of_its_clips() -> None:
    places = np.array([[0, 0], [2, 0], [1, 3], [10, 10], [10, 12], [10, 11]])
    figure = class_figures.class_map(places, ["dog"] * 3 + ["bell"] * 3)
    at = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert at["dog"] == pytest.approx((1, 0))
    assert at["bell"] == pytest.approx((10, 11))
    assert not figure.legends


def test_names_on_a_crowded_map_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    labels = CLASSES[:20] * 3
    # most of them in the centre
    places = np.concatenate([rng.normal(size=(57, 2)), [[-30, -30], [30, 30], [30, -30]]])
    figure = class_figures.class_map(places, labels)
    (axes,) = figure.axes
    assert len(axes.texts) == 20
    assert overlapping(list(axes.texts), figure) == []
    inside = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent()
        assert box.x0 >= inside.x0 - 1
        assert box.x1 <= inside.x1 + 1


def test_the_tree_is_aligned_with_the_rows_of_its_classes() -> None:
    similarities = similarities_of(["dog", "bell", "cat", "rain"])
    similarities.loc["dog", "rain"] = similarities.loc["rain", "dog"] = 0.99
    tree = tree_of(similarities)
    left, right, _ = class_figures.class_tree(similarities, tree).axes
    names = [tick.get_text() for tick in right.get_yticklabels()]
    np.testing.assert_allclose(right.images[0].get_array(), similarities.loc[names, names])
    joint = min(left.lines, key=lambda line: max(line.get_xdata()))  # the lowest join
    rows = sorted({float(y) for y in joint.get_ydata()})
    assert sorted(names[int(row)] for row in rows) == ["dog", "rain"]
    assert max(joint.get_xdata()) == pytest.approx(0.01)
    assert left.get_ylim() == right.get_ylim()


def test_rows_of_the_tree_are_marked_by_super_category() -> None:
    similarities = similarities_of(CLASSES)
    figure = class_figures.class_tree(similarities, tree_of(similarities), GROUPS)
    left, right, _ = figure.axes
    looks = {mark.get_label(): mark.get_color() for mark in figure.legends[0].legend_handles}
    marks = {int(line.get_ydata()[0]): line.get_color() for line in left.lines if len(line.get_xdata()) == 1}
    names = [tick.get_text() for tick in right.get_yticklabels()]
    assert [marks[row] for row in range(50)] == [looks[GROUPS[name]] for name in names]


def test_bars_are_effects_by_super_category() -> None:
    names = ["dog", "bell", "cat"]
    groups = {"dog": "animals", "cat": "animals", "bell": "things"}
    (axes,) = class_figures.event_bars(events_of(names), groups).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["cat", "dog", "bell"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.2, 0, 0.1])
    assert axes.texts[0].get_text() == "cat, first; cat, second"
    assert axes.get_xlabel() == "effect (standard deviations)"


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_equal_figures_give_equal_files(suffix: str, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    for name in ("a", "b"):
        similarities = similarities_of(CLASSES[:6])
        figure = class_figures.class_tree(similarities, tree_of(similarities), GROUPS)
        figures.save_figure(figure, tmp_path / "new" / f"{name}{suffix}")
    first, second = ((tmp_path / "new" / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second
    assert first.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert len(list((tmp_path / "new").iterdir())) == 2
    assert dict(mpl.rcParams) == before


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeakAudioError, match=r"figure.gif: figures are written as .svg or .png"):
        figures.save_figure(class_figures.confusion_matrix(np.eye(2, dtype=int), ["a", "b"]), tmp_path / "figure.gif")


def test_a_class_without_a_super_category_is_refused() -> None:
    with pytest.raises(
        WeakAudioError, match="class 'bell' has no super-category: give one for each class, or for none"
    ):
        class_figures.event_bars(events_of(["dog", "bell"]), {"dog": "animals"})
