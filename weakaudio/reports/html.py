"""Self-contained HTML pages: paragraphs, figures with sound, tables and key numbers in one file without scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
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
    return _PAGE.format(title=escape(title), css=_CSS, body=body)


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
    if isinstance(block, KeyNumbers):
        items = "".join(f"<div><dd>{escape(n)}</dd><dt>{escape(what)}</dt></div>" for n, what in block.numbers)
        return f'<dl class="numbers">{items}</dl>'
    return _table(block)


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

# Figures stay on white in dark mode, as their colours are chosen for it.
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
