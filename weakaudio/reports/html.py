"""Self-contained HTML pages: paragraphs, figures with sound, tables and key numbers in one file without scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import soundfile as sf
from matplotlib.figure import Figure
from numpy.typing import NDArray

from weakaudio.audio.io import to_int16
from weakaudio.files import atomic_write
from weakaudio.reports.figures import image_bytes


class Sound(NamedTuple):
    """Audio for a player."""

    audio: NDArray[np.float32]
    """(N,), full scale at +-1"""
    sample_rate: int
    """Hz"""


class Picture(NamedTuple):
    """A figure on a page."""

    figure: Figure
    caption: str
    """also the alternative text"""
    sound: Sound | None = None
    """audio of what the figure shows, with a player below it"""


class Table(NamedTuple):
    """A table on a page; floats are shown with three decimals."""

    frame: pd.DataFrame
    """shown without its index"""
    caption: str


class KeyNumbers(NamedTuple):
    """Key numbers, in large type."""

    numbers: Sequence[tuple[str, str]]
    """pairs of a number and its description"""


class Section(NamedTuple):
    """A heading and the blocks below it; a plain `str` is a paragraph."""

    heading: str
    blocks: Sequence[str | Picture | Table | KeyNumbers]


def page(title: str, sections: Sequence[Section]) -> str:
    """Render one HTML document; its content security policy forbids scripts and network requests."""
    body = "\n".join(
        f"<section>\n<h2>{escape(section.heading)}</h2>\n"
        + "\n".join(_render(block) for block in section.blocks)
        + "\n</section>"
        for section in sections
    )
    return asset("page.html").format(title=escape(title), css=asset("common.css", "page.css"), body=body)


def write_page(html: str, path: str | Path) -> None:
    """Write a page atomically, with its folder if that is missing.

    Raises
    ------
    WeakAudioError
        The page cannot be written.
    """
    with atomic_write(path) as part:
        part.write_text(html, encoding="utf-8")


def _render(block: str | Picture | Table | KeyNumbers) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    if isinstance(block, Picture):
        caption = escape(block.caption)
        image = f'<img alt="{caption}" src="{_uri("image/svg+xml", image_bytes(block.figure))}">'
        player = _player(block.sound) if block.sound else ""
        return f"<figure>{image}{player}<figcaption>{caption}</figcaption></figure>"
    return render_numbers(block.numbers) if isinstance(block, KeyNumbers) else _table(block)


def render_numbers(numbers: Sequence[tuple[str, str]]) -> str:
    """Render pairs of a number and its description."""
    items = "".join(f"<div><dd>{escape(number)}</dd><dt>{escape(what)}</dt></div>" for number, what in numbers)
    return f'<dl class="numbers">{items}</dl>'


def asset(*names: str) -> str:
    """Read files of this package and concatenate them."""
    folder = resources.files("weakaudio.reports")
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


def _player(sound: Sound) -> str:
    file = io.BytesIO()
    sf.write(file, to_int16(sound.audio), sound.sample_rate, format="WAV", subtype="PCM_16")
    return f'<audio controls src="{_uri("audio/wav", file.getvalue())}"></audio>'


def _table(block: Table) -> str:
    """Render a table: numbers right-aligned, missing values as a dash."""
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


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
