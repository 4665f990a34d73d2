"""Figures of training, of evaluation and of clips; the style that all figures have; and how they become files.

Figures are drawn with matplotlib's objects, never through pyplot, so that no state is shared between callers.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import librosa
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from weakaudio.audio.frontend import FrontEnd
from weakaudio.audio.geometry import timeline
from weakaudio.errors import WeakAudioError

# Okabe and Ito's colours: told apart by eyes of every kind. Systems take them in this order.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
INK, QUIET, _EVENT = "#222222", "#8A8A8A", "#F3C98B"
WIDTH = 6.4  # inches: a desktop column, and still readable when a phone shrinks it
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 11,
    "grid.color": "#E4E4E4",
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "svg.hashsalt": "weakaudio",  # equal figures become equal bytes
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
_TICKS_HZ = (500, 1000, 2000, 4000, 8000, 16000)
_MOST_CLASSES = 5  # rows beneath a clip, unless more classes than that truly occur


def training_curves(runs: Mapping[str, pd.DataFrame]) -> Figure:
    """Training loss and validation mAP by epoch.

    Parameters
    ----------
    runs
        For each run's name its `log/metrics.csv`: columns `epoch`, `train_loss`, `val_mAP`, one row an epoch.
    """
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 4.6), layout="constrained")
        loss, score = figure.subplots(2, sharex=True)
        for (name, rows), colour in zip(runs.items(), cycle(len(runs)), strict=True):
            look: dict[str, Any] = {"color": colour, "label": name, "marker": "o", "markersize": 4}
            loss.plot(rows["epoch"], rows["train_loss"], **look)
            score.plot(rows["epoch"], rows["val_mAP"], **look)
        loss.set(ylabel="training loss")
        loss.set_ylim(bottom=0)
        score.set(ylabel="validation mAP", xlabel="epoch", ylim=(0, 1))
        score.set_xlim(0.5, max(max(rows["epoch"]) for rows in runs.values()) + 0.5)
        score.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        legend(figure, loss.get_legend_handles_labels()[0])
    return figure


def learning_curve(table: pd.DataFrame) -> Figure:
    """Accuracy by the number of labelled clips of each class, and how much it varies.

    Parameters
    ----------
    table
        Columns `labels`, `accuracy`, `std`, one row a number of labels.
    """
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.errorbar(
            table["labels"], table["accuracy"], table["std"], color=COLOURS[0], marker="o", capsize=4, elinewidth=1.2
        )
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(table["labels"]), [str(labels) for labels in table["labels"]])
        axes.minorticks_off()
        axes.set(xlabel="labelled clips of each class", ylabel="accuracy on clips not heard", ylim=(0, 1))
    return figure


def per_class_bars(table: pd.DataFrame) -> Figure:
    """Average precision of each class, one bar a system, best class first.

    Parameters
    ----------
    table
        Indexed by class name: a column for each system, average precision in [0, 1], and `prevalence`, the part
        of clips that hold the class (what scores that know nothing reach); it is drawn as a line across the bars.
    """
    systems = [str(column) for column in table if column != "prevalence"]
    table = table.sort_values(systems[0], kind="stable", na_position="first")  # drawn from below
    rows, height = np.arange(len(table)), 0.8 / len(systems)
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 1.1 + 0.19 * (len(systems) + 0.5) * len(table)), layout="constrained")
        axes = figure.subplots()
        bars = []
        for n, (system, colour) in enumerate(zip(systems, cycle(len(systems)), strict=True)):
            at = rows + 0.4 - (n + 0.5) * height
            bars.append(axes.barh(at, table[system], height, color=colour, label=system))
        line = axes.vlines(table["prevalence"], rows - 0.42, rows + 0.42, color=INK, linewidth=2, label="prevalence")
        axes.grid(axis="y", visible=False)
        axes.set(xlim=(0, 1), ylim=(-0.6, len(table) - 0.4), xlabel="average precision")
        axes.set_yticks(rows, [str(name) for name in table.index])
        axes.tick_params(axis="y", length=0)
        legend(figure, [*bars, line])
    return figure


def clip_figure(
    logmel: NDArray[np.floating],
    front_end: FrontEnd,
    times: NDArray[np.floating],
    segment_probs: NDArray[np.floating],
    labels: Sequence[str],
    events: pd.DataFrame,
    most: int = _MOST_CLASSES,
) -> Figure:
    """A clip's log-mel; beneath it, for each class that matters, the network's score over the true events.

    Parameters
    ----------
    logmel
        (T, F), as `front_end` makes it.
    front_end
        Gives the axes their seconds and Hz.
    times
        (S, 2) start and end of each segment, seconds.
    segment_probs
        (S, C) in [0, 1]; where segments overlap, their mean is drawn.
    labels
        C class names.
    events
        The strong truth of this clip: columns `label`, `onset`, `offset` (seconds); may be empty.
    most
        Classes shown: all that occur, then those of the highest scores up to this many.
    """
    pieces, edges = timeline(segment_probs, times)
    shown = _relevant(segment_probs, labels, events, most)
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 2.9 + 0.46 * len(shown)), layout="constrained")
        above, beneath = figure.subplots(2, sharex=True, height_ratios=(2.1, 0.46 * len(shown)))
        draw_logmel(above, logmel, front_end, float(edges[-1]))
        for row, n in enumerate(shown):
            base = len(shown) - 1 - row
            own = events[events["label"] == labels[n]]
            spans = [(float(on), float(off - on)) for on, off in zip(own["onset"], own["offset"], strict=True)]
            beneath.broken_barh(spans, (base, 0.9), facecolors=_EVENT, zorder=1)
            beneath.stairs(base + 0.9 * pieces[:, n], edges, baseline=base, color=COLOURS[0], linewidth=1.8, zorder=3)
            height = base + 0.9 * np.append(pieces[:, n], pieces[-1, n])
            beneath.step(edges, height, where="post", color=COLOURS[0], zorder=2)
        beneath.set(xlabel="time (s)", ylim=(-0.02, len(shown)), xlim=(0, float(edges[-1])))
        beneath.set_yticks(np.arange(len(shown)) + 0.45, [labels[n] for n in reversed(shown)])
        beneath.tick_params(axis="y", length=0)
        beneath.grid(axis="y", visible=False)
        beneath.hlines(np.arange(len(shown)), 0, float(edges[-1]), color="#D0D0D0", linewidth=0.8, zorder=0)
        beneath.spines["left"].set_visible(False)
        score = Line2D([], [], color=COLOURS[0], label="score, from 0 to 1 in each row")
        legend(figure, [Patch(color=_EVENT, label="true event"), score])
    return figure


def image_bytes(figure: Figure, kind: str = "svg") -> bytes:
    """A figure as the content of a file, "svg" or "png"; equal figures become equal bytes."""
    file = io.BytesIO()
    dates: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(file, format=kind, dpi=160, metadata=dates)
    return file.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as .svg or .png, beside first and then renamed into place.

    Raises
    ------
    WeakAudioError
        Another suffix.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise WeakAudioError(f"{path}: figures are written as .svg or .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(image_bytes(figure, kind))
    os.replace(beside, path)


def cycle(count: int) -> list[str]:
    return [COLOURS[n % len(COLOURS)] for n in range(count)]


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    figure.legend(handles=list(handles), loc="outside upper left", ncols=min(len(handles), 4), handlelength=1.4)


def _relevant(
    segment_probs: NDArray[np.floating], labels: Sequence[str], events: pd.DataFrame, most: int
) -> list[int]:
    """Classes that occur, by their first onset, then those of the highest scores."""
    first = events.sort_values("onset")["label"].unique()
    true = [list(labels).index(name) for name in first]
    others = [int(n) for n in np.argsort(-segment_probs.max(0), kind="stable") if n not in true]
    return true + others[: max(most - len(true), 0)]


def draw_logmel(axes: Axes, logmel: NDArray[np.floating], front_end: FrontEnd, seconds: float) -> None:
    hop = front_end.hop_length / front_end.sample_rate
    n_mels = logmel.shape[1]
    # Frame t is centred at t * hop.
    extent = (-hop / 2, (len(logmel) - 0.5) * hop, -0.5, n_mels - 0.5)
    axes.imshow(
        logmel.T, origin="lower", aspect="auto", cmap="magma", extent=extent, interpolation="nearest",
        vmin=float(np.percentile(logmel, 5)),
    )  # fmt: skip
    top = front_end.f_max or front_end.sample_rate / 2
    centres = librosa.mel_frequencies(n_mels + 2, fmin=front_end.f_min, fmax=top)[1:-1]
    ticks = [hz for hz in _TICKS_HZ if centres[0] <= hz <= centres[-1]]
    axes.set_yticks(np.interp(ticks, centres, np.arange(n_mels)), [f"{hz:,}" for hz in ticks])
    axes.set(ylabel="frequency (Hz)", xlim=(0, seconds))
    axes.grid(visible=False)
