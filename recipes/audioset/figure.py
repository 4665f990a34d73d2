"""The figure of an evaluation: average precision of each class, against its number of training clips."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, SymmetricalLogLocator

from weakaudio.reports.figures import COLOURS, INK, STYLE

NAMED = 10  # classes at either end


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
    best, worst = ranked.iloc[:named], ranked.iloc[len(ranked) - named :]
    others = ranked.iloc[named : len(ranked) - named]
    groups = {
        f"best {named}": (best, COLOURS[0], 3),
        f"worst {named}": (worst, COLOURS[5], 3),
        "the others": (others, "#A8A8A8", 2),
    }
    with mpl.rc_context(STYLE):
        figure = Figure((11, 6), layout="constrained")
        points, bars = figure.subplots(1, 2, width_ratios=(1.15, 1))
        for name, (rows, colour, layer) in groups.items():
            x = rows.index.to_numpy() + 1 if training is None else training[rows["class"]]
            look = {"s": 22, "color": colour, "alpha": 0.8, "linewidth": 0, "zorder": layer}
            points.scatter(x, rows["ap"], label=name if len(rows) else None, **look)
        points.set(ylabel="average precision", ylim=(-0.02, 1.02), xlabel="class, best first")
        if training is not None:
            low, high = 0.8 * training.min() - 0.1, 1.25 * training.max()
            steps = (1, 2, 5) if high < 1000 * low else (1,)
            points.set_xscale("symlog", linthresh=1)  # logarithmic, with a place for 0
            points.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=steps))
            points.xaxis.set_major_formatter(EngFormatter(sep=""))
            points.set(xlabel="training clips of the class", xlim=(low, high))
        mean = ranked["ap"].mean()
        points.axhline(mean, color=INK, linewidth=1, linestyle="--", label=f"mean of {len(ranked)}: {mean:.3f}")
        points.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, handletextpad=0.3, columnspacing=1.2)

        places = np.arange(2 * named)  # a bar per class, from the top
        places[named:] += len(others) > 0
        colours = [COLOURS[0]] * named + [COLOURS[5]] * named
        drawn = bars.barh(places, [*best["ap"], *worst["ap"]], color=colours)
        bars.bar_label(drawn, fmt="%.3f", padding=4, fontsize=9)
        bars.set_yticks(places, [*best["class"], *worst["class"]])
        bars.tick_params(axis="y", length=0)
        bars.grid(axis="y", visible=False)
        bars.set(xlabel="average precision", xlim=(0, 1.12), xticks=np.arange(0, 1.1, 0.2))
        bars.set_ylim(max(2 * named + 1, NAMED) - 0.4, -0.6)  # few classes have no thicker bars
    return figure
