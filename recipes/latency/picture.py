"""The figures of `recipes.latency.frontier` as a picture, beside its README.

    python -m recipes.latency.picture

Above, quality against speed; below, where the time of a clip goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from recipes.results import ROOT, Row, load
from weakaudio.reports.figures import QUIET, STYLE, WIDTH, cycle

PICTURE = "frontier.svg"
QUALITY, SPEED = "ESC-50 (%)", "times real time, batch 8"
STEPS = ("decode", "resample", "log-mel", "network")
_MARKERS = "osD^vP"
_SHADES = ("#c6d3e1", "#8fa9c4", "#4f7ba7", "#1f3e63")


def values(rows: Sequence[Row], what: str) -> pd.DataFrame:
    """(systems, metrics) of one table, in the order in which they were recorded."""
    own = pd.DataFrame([row for row in rows if row["what"] == what], columns=["system", "metric", "value"])
    table = own.pivot_table(index="system", columns="metric", values="value", sort=False)
    return table.reindex(own["system"].unique())


def draw(rows: Sequence[Row]) -> Figure:
    """The picture of rows of `recipes.results`."""
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 7.0), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(3, 2))
        _draw_frontier(above, values(rows, "frontier"))
        _draw_steps(below, values(rows, "path, batch 8"))
    return figure


def _draw_frontier(axes: Axes, table: pd.DataFrame) -> None:
    judged = table.dropna(subset=[QUALITY, SPEED])
    split = [str(name).split(", ", 1) for name in judged.index]  # a model, and how it is run
    models, ways = (list(dict.fromkeys(parts)) for parts in zip(*split, strict=True))
    colours = dict(zip(models, cycle(len(models)), strict=True))
    markers = dict(zip(ways, _MARKERS, strict=False))
    for (model, way), speed, quality in zip(split, judged[SPEED], judged[QUALITY], strict=True):
        axes.plot(speed, quality, marker=markers[way], markersize=8, color=colours[model], linestyle="none")
    look: dict[str, Any] = {"linestyle": "none", "markersize": 8}
    names = [Line2D([], [], marker="o", color=colours[name], label=name, **look) for name in models]
    signs = [Line2D([], [], marker=markers[way], color=QUIET, label=way, **look) for way in ways]
    axes.figure.legend(handles=[*names, *signs], ncols=3, loc="outside upper left", fontsize=9)
    axes.margins(0.1)
    axes.set_xlabel("times real time from waveform, batch 8")
    axes.set_ylabel(QUALITY)


def _draw_steps(axes: Axes, table: pd.DataFrame) -> None:
    columns = {step: next(name for name in table.columns if name.startswith(step)) for step in STEPS}
    names = list(table.index)[::-1]
    left = pd.Series(0.0, index=names)
    for step, shade in zip(STEPS, _SHADES, strict=True):
        taken = table.loc[names, columns[step]]
        axes.barh(names, taken, left=left, color=shade, label=step)
        left = left + taken
    axes.set_xlabel("ms for a clip of 10 s, network fused in torch, batch 8")
    axes.legend(ncols=len(STEPS), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)


def main(root: Path = ROOT) -> None:
    """Draw what is recorded below `root`, and save it there."""
    path = root / "recipes" / "latency" / PICTURE
    with mpl.rc_context(STYLE):
        draw(load("latency", root)).savefig(path, metadata={"Date": None})  # the same bytes each time


if __name__ == "__main__":
    main()
