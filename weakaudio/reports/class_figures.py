"""Figures of classes: confusions, similarities, and the sound events that characterise them.

Readable with fifty classes: font sizes follow the row height, and super-categories differ in colour and marker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram

from weakaudio.errors import WeakAudioError
from weakaudio.reports.figures import COLOURS, INK, QUIET, STYLE, WIDTH

_COUNTED = 20  # most classes for which the cells of a confusion matrix show their counts
_SHAPES = "os^Dv"
_LEGEND_COLUMNS = 5
_ROWS = 4.9  # inches shared by the rows of a square matrix, at most


class _Look(NamedTuple):
    """Colour and marker of a super-category."""

    name: str
    colour: str
    shape: str


def confusion_matrix(matrix: NDArray[np.integer], labels: Sequence[str]) -> Figure:
    """Plot a confusion matrix, true class by row and predicted class by column, normalised by row.

    With more than 20 classes the counts are omitted, and shades follow the square root, so that single confusions
    stay visible.

    Parameters
    ----------
    matrix
        (C, C) numbers of clips.
    labels
        C class names.
    """
    matrix = np.asarray(matrix)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    counted = len(labels) <= _COUNTED
    size = max(3.2, min(0.42 * len(labels) + 1.4, WIDTH))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure((size, size), layout="constrained")
        axes = figure.subplots()
        norm = Normalize(0, 1) if counted else PowerNorm(0.5, 0, 1)
        image = axes.imshow(shares, cmap="Blues", norm=norm)
        if counted:
            for row, column in zip(*np.nonzero(matrix), strict=True):
                colour = "white" if shares[row, column] > 0.5 else INK
                count = str(matrix[row, column])
                axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=9.5)
        else:
            _scale(figure, axes, image, "share of the true class", [0, 0.05, 0.2, 0.5, 1])
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=_font_size(len(labels)))
        axes.set_yticks(range(len(labels)), labels, fontsize=_font_size(len(labels)))
        axes.tick_params(length=0)
        axes.set(xlabel="predicted class", ylabel="true class")
    return figure


def class_map(places: NDArray[np.floating], labels: Sequence[str], groups: Mapping[str, str] | None = None) -> Figure:
    """Plot clips on a plane, coloured by super-category, with each class named at the median of its clips.

    Parameters
    ----------
    places
        (n, 2) positions, from `weakaudio.transfer.semantics.clip_map`.
    labels
        n class names, one for each clip.
    groups
        Super-category of each class.
    """
    table = pd.DataFrame({"x": places[:, 0], "y": places[:, 1], "class": list(labels)})
    middles = table.groupby("class")[["x", "y"]].median()
    looks = _looks(middles.index, groups)
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, WIDTH), layout="constrained")
        axes = figure.subplots()
        for look in dict.fromkeys(looks.values()):
            group = table[[looks[name] == look for name in table["class"]]]
            axes.scatter(group["x"], group["y"], s=9, c=look.colour, marker=look.shape, alpha=0.55, linewidths=0)
        axes.set(xticks=[], yticks=[])
        axes.margins(0.04)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        if groups:
            _legend(figure, looks)
        _name_apart(figure, axes, middles)
    return figure


def class_tree(
    similarities: pd.DataFrame, tree: NDArray[np.floating], groups: Mapping[str, str] | None = None
) -> Figure:
    """Plot the dendrogram of classes beside their similarities, in the order of its leaves.

    Parameters
    ----------
    similarities
        (C, C) cosines.
    tree
        Linkage matrix, from `weakaudio.transfer.semantics.class_tree`.
    groups
        Super-category of each class, marked between tree and matrix.
    """
    drawn = dendrogram(tree, no_plot=True)
    order = drawn["leaves"]
    names = [str(similarities.index[n]) for n in order]
    values = similarities.to_numpy()[np.ix_(order, order)]
    looks = _looks(names, groups)
    height = max(2.8, min(0.42 * len(names) + 0.8, 6.2))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure((WIDTH, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 3.2))
        for across, along in zip(drawn["dcoord"], drawn["icoord"], strict=True):
            # scipy puts leaves at 5, 15, 25, ...
            left.plot(across, (np.asarray(along) - 5) / 10, color=QUIET, linewidth=1.0)
        left.set(xlim=(max(map(max, drawn["dcoord"])) * 1.02, 0), ylim=(len(names) - 0.5, -0.5), yticks=[])
        left.set_xlabel("1 - cosine")
        left.spines["left"].set_visible(False)
        end = float(np.abs(values[~np.eye(len(names), dtype=bool)]).max())
        image = right.imshow(values, cmap="RdBu_r", vmin=-end, vmax=end, aspect="auto")
        right.yaxis.tick_right()
        right.set_yticks(range(len(names)), names, fontsize=_font_size(len(names)))
        right.set_xticks([])
        right.tick_params(length=0)
        for side in ("left", "bottom"):
            right.spines[side].set_visible(False)
        if groups:
            for row, name in enumerate(names):
                left.plot(0, row, looks[name].shape, color=looks[name].colour, markersize=4, clip_on=False)
            _legend(figure, looks)
        _scale(figure, right, image, "cosine of class embeddings", None)
    return figure


def event_bars(table: pd.DataFrame, groups: Mapping[str, str] | None = None) -> Figure:
    """Plot the effect of the top event of each target class, and name all events listed for it.

    Parameters
    ----------
    table
        Table from `weakaudio.transfer.semantics.event_importance`.
    groups
        Super-category of each class; classes are ordered by super-category, then by falling effect.
    """
    effects = table.groupby("class", sort=False)["effect"].first()
    looks = _looks(effects.index, groups)
    order = sorted(effects.index, key=lambda name: (looks[name], -effects[name]))
    events = table.groupby("class", sort=False)["event"].agg("; ".join)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure((WIDTH, 0.9 + 0.155 * len(order)), layout="constrained")
        axes = figure.subplots()
        rows = np.arange(len(order))
        axes.barh(rows, effects[order], 0.72, color=[looks[name].colour for name in order])
        for row, name in enumerate(order):
            axes.text(max(effects[name], 0) + 0.08, row, events[name], va="center", fontsize=6.5)
        axes.set_yticks(rows, order, fontsize=7)
        axes.tick_params(axis="y", length=0)
        axes.set(ylim=(len(order) - 0.4, -0.6), xlabel="effect (standard deviations)")
        if groups:
            _legend(figure, looks)
    return figure


def _looks(classes: Sequence[str] | pd.Index, groups: Mapping[str, str] | None) -> dict[str, _Look]:
    if groups and (missing := [name for name in classes if name not in groups]):
        raise WeakAudioError(f"class {missing[0]!r} has no super-category: give one for each class, or for none")
    names = sorted({groups[name] for name in classes}) if groups else []
    by_name = {
        name: _Look(name, COLOURS[n % len(COLOURS)], _SHAPES[n % len(_SHAPES)]) for n, name in enumerate(names)
    }
    return {name: by_name[groups[name]] if groups else _Look("", COLOURS[0], "o") for name in classes}


def _legend(figure: Figure, looks: Mapping[str, _Look]) -> None:
    marks = [
        Line2D([], [], color=look.colour, marker=look.shape, linestyle="", markersize=6, label=look.name)
        for look in sorted(set(looks.values()))
    ]
    columns = min(len(marks), _LEGEND_COLUMNS)
    figure.legend(
        handles=marks, loc="outside upper left", ncols=columns, fontsize=9.5, handletextpad=0.1, columnspacing=1.4
    )


def _font_size(rows: int) -> float:
    """Font size in points at which the labels of this many rows do not overlap."""
    return min(11.0, 0.82 * 72 * _ROWS / rows)


def _scale(figure: Figure, axes: Axes, image: mpl.cm.ScalarMappable, label: str, ticks: list[float] | None) -> None:
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=30, pad=0.02, ticks=ticks)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _name_apart(figure: Figure, axes: Axes, middles: pd.DataFrame) -> None:
    """Place each name at its position, moved as little as avoids overlaps."""
    halo = [withStroke(linewidth=1.6, foreground="white")]
    texts = [
        axes.text(x, y, name, ha="center", va="center", fontsize=7, path_effects=halo, in_layout=False)
        for name, x, y in zip(middles.index, middles["x"], middles["y"], strict=True)
    ]
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # fixes the position of the axes
    sizes = np.array([[box.width, box.height] for box in (text.get_window_extent(renderer) for text in texts)])
    start = axes.transData.transform(middles[["x", "y"]].to_numpy())
    box = axes.get_window_extent(renderer)
    moved = separate(start, sizes, np.array([[box.x0, box.y0], [box.x1, box.y1]]))
    for text, place in zip(texts, axes.transData.inverted().transform(moved), strict=True):
        text.set_position((float(place[0]), float(place[1])))


def separate(
    centres: NDArray[np.floating], sizes: NDArray[np.floating], bounds: NDArray[np.floating], rounds: int = 500
) -> NDArray[np.float64]:
    """Separate overlapping boxes by small shifts, until none overlap or after `rounds` passes.

    Parameters
    ----------
    centres, sizes
        (n, 2) centres and sizes of the boxes.
    bounds
        (2, 2) lower and upper corner of the area that they must not leave.

    Returns
    -------
    (n, 2) centres.
    """
    moved = np.array(centres, dtype=np.float64)
    low, high = bounds[0] + sizes / 2, bounds[1] - sizes / 2
    for _ in range(rounds):
        between = moved[:, None] - moved[None]  # (n, n, 2)
        overlap = (sizes[:, None] + sizes[None]) / 2 - np.abs(between)
        both = (overlap > 0).all(axis=2) & ~np.eye(len(moved), dtype=bool)
        if not both.any():
            break
        for first, second in zip(*np.nonzero(np.triu(both)), strict=True):
            axis = int(overlap[first, second].argmin())
            side = 1.0 if between[first, second, axis] >= 0 else -1.0
            step = side * (overlap[first, second, axis] / 2 + 0.5) * 0.5
            moved[first, axis] += step
            moved[second, axis] -= step
        moved = np.clip(moved, low, high)
    return moved
