"""The page of a scaling law: loss against parameters and against latency, and the best network for each budget.

A self-contained HTML file.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter

from weakaudio.errors import WeakAudioError
from weakaudio.nas.scaling_law import BestRatio, Law
from weakaudio.reports.figures import INK, QUIET, STYLE, WIDTH, legend
from weakaudio.reports.html import KeyNumbers, Picture, Section, Table, page

_AXES = {"parameters": ("parameters, without the classifier (millions)", 1e-6), "latency": ("latency (ms)", 1e3)}
_MAP, _SHADES = "viridis", (0.0, 0.85)  # lighter ones are invisible on white


def law_figure(
    table: pd.DataFrame, law: Law, against: str, choices: Sequence[tuple[float, BestRatio]] = ()
) -> Figure:
    """Draw measured losses as points, and the law as a line for each depth.

    Parameters
    ----------
    table
        Columns `depth`, `width`, `loss`, and `parameters` or `latency` (seconds); one row per network.
    law
        Fitted to it.
    against
        "parameters" or "latency": the horizontal axis.
    choices
        Budgets in seconds and the networks chosen for them, drawn as rings if `against` is "latency".

    Raises
    ------
    WeakAudioError
        Another axis, or a table without that column or without rows.
    """
    if against not in _AXES or against not in table or table.empty:
        raise WeakAudioError(f"law: no figure against {against!r}; expected a table with parameters or latency")
    label, unit = _AXES[against]
    depths = sorted(table["depth"].unique())
    colours = mpl.colormaps[_MAP](np.linspace(*_SHADES, len(depths)))
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 4.2), layout="constrained")
        axes = figure.subplots()
        handles = []
        for depth, colour in zip(depths, colours, strict=True):
            own = table[table["depth"] == depth].sort_values("width")
            x = own[against].to_numpy(dtype=float) * unit
            (line,) = axes.plot(x, law.predict(own["depth"], own["width"]), color=colour, label=f"depth {depth:g}")
            axes.plot(x, own["loss"], color=colour, marker="o", linestyle="none")
            handles.append(line)
        if choices and against == "latency":
            at = [choice.latency * unit for _, choice in choices]
            rings = axes.plot(
                at, [c.loss for _, c in choices], "o", markersize=13, fillstyle="none", color=INK, label="chosen"
            )
            handles += rings
        handles.append(Line2D([], [], color=QUIET, marker="o", linestyle="none", label="measured"))
        axes.set(xlabel=label, ylabel="loss", xscale="log")
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.5)))
        legend(figure, handles)
    return figure


def law_page(
    table: pd.DataFrame, law: Law, held_out: pd.DataFrame, choices: Sequence[tuple[float, BestRatio]] = ()
) -> str:
    """Make an HTML document of a law.

    Parameters
    ----------
    table
        As for `law_figure`, with `parameters`, and with `latency` if it is known.
    law
        Fitted to it.
    held_out
        From `held_out_error`.
    choices
        Budgets in seconds, and the results of `best_ratio`.
    """
    errors = held_out["error"].abs()
    formula = f"{law.floor:.3g} + {law.a:.3g} D^-{law.alpha:.3g} + {law.b:.3g} W^-{law.beta:.3g}"
    numbers = [
        (f"{100 * errors.max():.1f} %", "greatest error on held-out networks"),
        (f"{100 * errors.median():.1f} %", "median error on these"),
        (str(len(table)), "networks trained"),
    ]
    pictures = [
        Picture(
            law_figure(table, law, against, choices),
            f"Loss against {against}: points were measured, lines are the law.",
        )
        for against in _AXES
        if against in table
    ]
    sections = [
        Section("The law", [f"L(D, W) = {formula}", KeyNumbers(numbers), *pictures]),
        Section("Held-out networks", [Table(held_out, "Measured and predicted loss.")]),
    ]
    if choices:
        rows = [
            {
                "budget (ms)": 1000 * budget,
                "depth": choice.depth,
                "width": choice.width,
                "latency (ms)": 1000 * choice.latency,
                "predicted loss": choice.loss,
            }
            for budget, choice in choices
        ]
        best = Table(pd.DataFrame(rows), "Lowest predicted loss within each budget.")
        sections.insert(1, Section("Best network for each budget", [best]))
    return page("Depth and width", sections)
