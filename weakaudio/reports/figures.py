"""Figures of training, evaluation and clips, the common style of all figures, and their export to files.

Figures are drawn with matplotlib's objects, never through pyplot, so callers share no state.
"""

from __future__ import annotations

import io
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
from weakaudio.files import atomic_write

# Palette of Okabe and Ito, safe for colour-blind readers; systems take the colours in this order.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
INK, QUIET, _EVENT = "#222222", "#8A8A8A", "#F3C98B"
WIDTH = 6.4  # inches: fits a desktop column, and stays readable scaled down to a phone
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",  # bundled with matplotlib: the same figure on every machine
    "font.size": 11,
    "grid.color": "#E4E4E4",
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "svg.hashsalt": "weakaudio",  # equal figures give equal bytes
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
_TICKS_HZ = (500, 1000, 2000, 4000, 8000, 16000)
_MAX_CLASSES = 5  # rows below a clip, unless more classes occur in it


def training_curves(runs: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot training loss and validation mAP by epoch.

    Parameters
    ----------
    runs
        `log/metrics.csv` of each run, by its name: columns `epoch`, `train_loss`, `val_mAP`, one row for each epoch.
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
    """Plot accuracy against the number of labelled clips of each class, with standard deviations.

    Parameters
    ----------
    table
        Columns `labels`, `accuracy`, `std`, one row for each number of labels.
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
        axes.set(xlabel="labelled clips of each class", ylabel="accuracy on unseen clips", ylim=(0, 1))
    return figure


def per_class_bars(table: pd.DataFrame) -> Figure:
    """Plot the average precision of each class, one bar for each system, best class first.

    Parameters
    ----------
    table
        Indexed by class name: one column of average precision in [0, 1] for each system, and `prevalence`, the share
        of clips with the class, which is the chance level; it is drawn as a line across the bars.
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
    most: int = _MAX_CLASSES,
) -> Figure:
    """Plot a clip's log-mel and, below it, the scores of its main classes over the true events.

    Parameters
    ----------
    logmel
        (T, F) log-mel from `front_end`.
    front_end
        Determines the seconds and Hz of the axes.
    times
        (S, 2) start and end of each segment, seconds.
    segment_probs
        (S, C) scores in [0, 1]; overlapping segments are averaged.
    labels
        C class names.
    events
        Strong labels of the clip: columns `label`, `onset`, `offset` (seconds); may be empty.
    most
        Number of classes shown: all that occur, then those with the highest scores up to this number.
    """
    scores, edges = timeline(segment_probs, times)
    shown = _relevant(segment_probs, labels, events, most)
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 2.9 + 0.46 * len(shown)), layout="constrained")
        above, beneath = figure.subplots(2, sharex=True, height_ratios=(2.1, 0.46 * len(shown)))
        draw_logmel(above, logmel, front_end, float(edges[-1]))
        for row, n in enumerate(shown):
            base = len(shown) - 1 - row
            true = events[events["label"] == labels[n]]
            spans = [(float(on), float(off - on)) for on, off in zip(true["onset"], true["offset"], strict=True)]
            beneath.broken_barh(spans, (base, 0.9), facecolors=_EVENT, zorder=1)
            beneath.stairs(base + 0.9 * scores[:, n], edges, baseline=base, color=COLOURS[0], linewidth=1.8, zorder=3)
            height = base + 0.9 * np.append(scores[:, n], scores[-1, n])
            beneath.step(edges, height, where="post", color=COLOURS[0], zorder=2)
        beneath.set(xlabel="time (s)", ylim=(-0.02, len(shown)), xlim=(0, float(edges[-1])))
        beneath.set_yticks(np.arange(len(shown)) + 0.45, [labels[n] for n in reversed(shown)])
        beneath.tick_params(axis="y", length=0)
        beneath.grid(axis="y", visible=False)
        beneath.hlines(np.arange(len(shown)), 0, float(edges[-1]), color="#D0D0D0", linewidth=0.8, zorder=0)
        beneath.spines["left"].set_visible(False)
        curve = Line2D([], [], color=COLOURS[0], label="score, 0 to 1 in each row")
        legend(figure, [Patch(color=_EVENT, label="true event"), curve])
    return figure


def image_bytes(figure: Figure, kind: str = "svg") -> bytes:
    """Render a figure as "svg" or "png"; equal figures give equal bytes."""
    file = io.BytesIO()
    dates: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(file, format=kind, dpi=160, metadata=dates)
    return file.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as .svg or .png, atomically.

    Raises
    ------
    WeakAudioError
        Another suffix, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise WeakAudioError(f"{path}: figures are written as .svg or .png")
    with atomic_write(path) as part:
        part.write_bytes(image_bytes(figure, kind))


def cycle(count: int) -> list[str]:
    """List the first colours, repeated if there are more systems than colours."""
    return [COLOURS[n % len(COLOURS)] for n in range(count)]


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Place a legend above the axes."""
    figure.legend(handles=list(handles), loc="outside upper left", ncols=min(len(handles), 4), handlelength=1.4)


def _relevant(
    segment_probs: NDArray[np.floating], labels: Sequence[str], events: pd.DataFrame, most: int
) -> list[int]:
    """List the classes that occur, by first onset, then those with the highest scores."""
    first = events.sort_values("onset")["label"].unique()
    true = [list(labels).index(name) for name in first]
    others = [int(n) for n in np.argsort(-segment_probs.max(0), kind="stable") if n not in true]
    return true + others[: max(most - len(true), 0)]


def draw_logmel(axes: Axes, logmel: NDArray[np.floating], front_end: FrontEnd, seconds: float) -> None:
    """Draw a log-mel (T, F) over time, with its frequency axis in Hz."""
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
