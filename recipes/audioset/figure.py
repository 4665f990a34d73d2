"""The figure of an evaluation: average precision of each class, against its number of training clips."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from weakaudio.reports.figures import COLOURS, INK, STYLE

NAMED = 10  # classes at either end

_NONE = 0.5  # where a class without training clips stands on a logarithmic axis


def per_class_figure(per_class: pd.DataFrame, training: pd.Series | None = None) -> Figure:
    """Average precision of all classes, and the names of the best and the worst.

    Parameters
    ----------
    per_class
        As of `Evaluation.per_class`: columns `class` and `ap`; classes whose `ap` is NaN are left out.
    training
        Positive training clips of each class, by its name: the x axis. None: classes in order, best first.
    """
    ranked = per_class.dropna(subset="ap").sort_values("ap", ascending=False, kind="stable").reset_index(drop=True)
    named = min(NAMED, len(ranked) // 2)  # at either end, so that no class is in both
    groups = {
        f"best {named}": (ranked.iloc[:named], COLOURS[0], 3),
        f"worst {named}": (ranked.iloc[len(ranked) - named :], COLOURS[5], 3),
        "the others": (ranked.iloc[named : len(ranked) - named], "#A8A8A8", 2),
    }
    with mpl.rc_context(STYLE):
        figure = Figure((11, 6), layout="constrained")
        points, bars = figure.subplots(1, 2, width_ratios=(1.15, 1))
        for name, (rows, colour, layer) in groups.items():
            x = rows.index.to_numpy() + 1 if training is None else training[rows["class"]].clip(lower=_NONE)
            look = {"s": 22, "color": colour, "alpha": 0.8, "linewidth": 0, "zorder": layer}
            points.scatter(x, rows["ap"], label=name if len(rows) else None, **look)
        points.set(ylabel="average precision", ylim=(-0.02, 1.02), xlabel="class, best first")
        if training is not None:
            _count_axis(points, training.clip(lower=_NONE))
        mean = ranked["ap"].mean()
        points.axhline(mean, color=INK, linewidth=1, linestyle="--", label=f"mean of {len(ranked)}: {mean:.3f}")
        points.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, handletextpad=0.3, columnspacing=1.2)
        best, worst, _ = groups.values()
        _bars(bars, [best, worst], gap=len(ranked) > 2 * named)
    return figure


def _count_axis(axes: Axes, counts: pd.Series) -> None:
    """A logarithmic axis of training clips with a place for 0."""
    low, high = 0.8 * counts.min(), 1.25 * counts.max()
    steps = (1, 2, 5) if high < 1000 * low else (1,)
    shown = [step * 10**power for power in range(8) for step in steps if low < step * 10**power < high]
    ticks = {**({_NONE: "0"} if low < _NONE else {}), **{count: _short(count) for count in shown}}
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="training clips of the class", xlim=(low, high))


def _short(count: int) -> str:
    return f"{count // 10**6}M" if count >= 10**6 else f"{count // 1000}k" if count >= 10**4 else f"{count:,}"


def _bars(axes: Axes, groups: list[tuple[pd.DataFrame, str, int]], gap: bool) -> None:
    """A bar per class, from the top, with its name and its average precision."""
    places: dict[int, str] = {}
    place = 0
    for rows, colour, _ in groups:
        for name, ap in zip(rows["class"], rows["ap"], strict=True):
            axes.barh(place, ap, color=colour)
            axes.annotate(f"{ap:.3f}", (ap, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
            places[place] = name
            place += 1
        place += int(gap)
    axes.set_yticks(list(places), list(places.values()))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="average precision", xlim=(0, 1.12))
    axes.set_xticks(np.arange(0, 1.1, 0.2))
    axes.set_ylim(max(place, NAMED) - 0.4, -0.6)  # from the top; few classes have no thicker bars
