"""Figures, and a page that holds them: one HTML file that needs no server and fetches nothing.

Figures are drawn with matplotlib's objects, never through pyplot, so that no state is shared between callers.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import librosa
import matplotlib as mpl
import numpy as np
import pandas as pd
import soundfile as sf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from weakaudio.audio.io import to_int16
from weakaudio.audio.logmel import FrontEnd
from weakaudio.audio.timeline import timeline

# Okabe and Ito's colours: told apart by eyes of every kind. Systems take them in this order.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_INK, _QUIET, _EVENT = "#222222", "#8A8A8A", "#F3C98B"
_WIDTH = 6.4  # inches: a desktop column, and still readable when a phone shrinks it
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _QUIET,
    "axes.grid": True,
    "axes.labelcolor": _INK,
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
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
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
    with mpl.rc_context(_STYLE):
        figure = Figure((_WIDTH, 4.6), layout="constrained")
        loss, score = figure.subplots(2, sharex=True)
        for (name, rows), colour in zip(runs.items(), _cycle(len(runs)), strict=True):
            look: dict[str, Any] = {"color": colour, "label": name, "marker": "o", "markersize": 4}
            loss.plot(rows["epoch"], rows["train_loss"], **look)
            score.plot(rows["epoch"], rows["val_mAP"], **look)
        loss.set(ylabel="training loss")
        loss.set_ylim(bottom=0)
        score.set(ylabel="validation mAP", xlabel="epoch", ylim=(0, 1))
        score.set_xlim(0.5, max(max(rows["epoch"]) for rows in runs.values()) + 0.5)
        score.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _legend(figure, loss.get_legend_handles_labels()[0])
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
    with mpl.rc_context(_STYLE):
        figure = Figure((_WIDTH, 1.1 + 0.19 * (len(systems) + 0.5) * len(table)), layout="constrained")
        axes = figure.subplots()
        bars = []
        for n, (system, colour) in enumerate(zip(systems, _cycle(len(systems)), strict=True)):
            at = rows + 0.4 - (n + 0.5) * height
            bars.append(axes.barh(at, table[system], height, color=colour, label=system))
        line = axes.vlines(table["prevalence"], rows - 0.42, rows + 0.42, color=_INK, linewidth=2, label="prevalence")
        axes.grid(axis="y", visible=False)
        axes.set(xlim=(0, 1), ylim=(-0.6, len(table) - 0.4), xlabel="average precision")
        axes.set_yticks(rows, [str(name) for name in table.index])
        axes.tick_params(axis="y", length=0)
        _legend(figure, [*bars, line])
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
    with mpl.rc_context(_STYLE):
        figure = Figure((_WIDTH, 2.9 + 0.46 * len(shown)), layout="constrained")
        above, beneath = figure.subplots(2, sharex=True, height_ratios=(2.1, 0.46 * len(shown)))
        _draw_logmel(above, logmel, front_end, float(edges[-1]))
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
        _legend(figure, [Patch(color=_EVENT, label="true event"), score])
    return figure


def confusion_matrix(matrix: NDArray[np.integer], labels: Sequence[str]) -> Figure:
    """Counts of clips, true class by row, predicted class by column, shaded by the part of their row.

    Parameters
    ----------
    matrix
        (C, C) counts.
    labels
        C class names.
    """
    matrix = np.asarray(matrix)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = max(3.2, min(0.42 * len(labels) + 1.4, _WIDTH))
    with mpl.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure((size, size), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if len(labels) <= 20:  # more counts than that nobody reads
            for row, column in zip(*np.nonzero(matrix), strict=True):
                colour = "white" if shares[row, column] > 0.5 else _INK
                count = str(matrix[row, column])
                axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=9.5)
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(length=0)
        axes.set(xlabel="predicted class", ylabel="true class")
    return figure


class Sound(NamedTuple):
    """Audio to listen to."""

    audio: NDArray[np.float32]
    """(N,), full scale at +-1"""
    sample_rate: int
    """Hz"""


class Picture(NamedTuple):
    """A figure on a page."""

    figure: Figure
    caption: str
    """also what a screen reader says"""
    sound: Sound | None = None
    """what the figure shows, to be played"""


class Table(NamedTuple):
    """A table on a page; floating-point numbers are shown with three decimals."""

    frame: pd.DataFrame
    """without its index"""
    caption: str


class Figures(NamedTuple):
    """The few numbers that count, large."""

    numbers: Sequence[tuple[str, str]]
    """number and what it is"""


class Section(NamedTuple):
    """A heading and what stands under it; a plain `str` is a paragraph."""

    heading: str
    blocks: Sequence[str | Picture | Table | Figures]


def page(title: str, sections: Sequence[Section]) -> str:
    """One HTML document with everything in it; its own policy forbids it to fetch anything, or to run scripts."""
    body = "\n".join(
        f"<section>\n<h2>{escape(section.heading)}</h2>\n"
        + "\n".join(_render(block) for block in section.blocks)
        + "\n</section>"
        for section in sections
    )
    return _PAGE.format(title=escape(title), css=_CSS, body=body)


def write_page(html: str, path: str | Path) -> None:
    """Write a page, beside first and then renamed into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(html, encoding="utf-8")
    os.replace(beside, path)


def _cycle(count: int) -> list[str]:
    return [COLOURS[n % len(COLOURS)] for n in range(count)]


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    figure.legend(handles=list(handles), loc="outside upper left", ncols=min(len(handles), 4), handlelength=1.4)


def _relevant(
    segment_probs: NDArray[np.floating], labels: Sequence[str], events: pd.DataFrame, most: int
) -> list[int]:
    """Classes that occur, by their first onset, then those of the highest scores."""
    first = events.sort_values("onset")["label"].unique()
    true = [list(labels).index(name) for name in first]
    others = [int(n) for n in np.argsort(-segment_probs.max(0), kind="stable") if n not in true]
    return true + others[: max(most - len(true), 0)]


def _draw_logmel(axes: Axes, logmel: NDArray[np.floating], front_end: FrontEnd, seconds: float) -> None:
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


def _render(block: str | Picture | Table | Figures) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    if isinstance(block, Picture):
        caption = escape(block.caption)
        image = f'<img alt="{caption}" src="{_uri("image/svg+xml", _svg(block.figure))}">'
        player = _player(block.sound) if block.sound else ""
        return f"<figure>{image}{player}<figcaption>{caption}</figcaption></figure>"
    if isinstance(block, Figures):
        items = "".join(f"<div><dd>{escape(n)}</dd><dt>{escape(what)}</dt></div>" for n, what in block.numbers)
        return f'<dl class="numbers">{items}</dl>'
    return _table(block)


def _player(sound: Sound) -> str:
    file = io.BytesIO()
    sf.write(file, to_int16(sound.audio), sound.sample_rate, format="WAV", subtype="PCM_16")
    return f'<audio controls src="{_uri("audio/wav", file.getvalue())}"></audio>'


def _table(block: Table) -> str:
    """A real table; numbers to the right, in three decimals; what is missing is a dash."""
    frame = block.frame
    numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    sides = [' class="number"' if number else "" for number in numeric]
    head = "".join(f'<th scope="col"{s}>{escape(str(c))}</th>' for c, s in zip(frame, sides, strict=True))
    rows = "\n".join(
        "<tr>" + "".join(f"<td{s}>{escape(_cell(v))}</td>" for v, s in zip(row, sides, strict=True)) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    caption = f"<caption>{escape(block.caption)}</caption>"
    return f'<div class="table"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(value: Any) -> str:
    if pd.isna(value):
        return "–"  # noqa: RUF001 (a dash on purpose)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(file, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""

# Figures keep a white card in the dark as well: their colours are made for it.
_CSS = """
:root { color-scheme: light dark; --ground: #fbfbfa; --ink: #222; --quiet: #666; --line: #ddd; --card: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #17181a; --ink: #e6e6e4; --quiet: #a2a29e; --line: #3a3b3e; --card: #202124; }
}
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 40rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 1rem 0; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; box-sizing: border-box; margin: 0 auto; padding: .4rem;
  background: #fff; border: 1px solid var(--line); border-radius: 8px; }
figure audio { display: block; width: 100%; margin-top: .5rem; }
th:first-child, td:first-child { padding-left: 0; }
figcaption, caption { color: var(--quiet); font-size: .9rem; text-align: left; padding: .4rem 0; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; }
th, td { text-align: left; padding: .35rem 0 .35rem .6rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; vertical-align: bottom; }
.number { text-align: right; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .7rem; margin: 1rem 0; }
.numbers div { display: flex; flex-direction: column; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: .6rem .9rem; }
.numbers dd { margin: 0; font-size: 1.7rem; font-weight: 650; line-height: 1.3; }
.numbers dt { color: var(--quiet); font-size: .9rem; line-height: 1.35; }
"""
