"""The page of sounds that are alike: each to see and to hear, beside the example."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.figure import Figure

from weakaudio.audio.frontend import LogMel
from weakaudio.audio.io import audio_info, read_audio
from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.inference.similarity import Example
from weakaudio.reports.figures import INK, STYLE, WIDTH, draw_logmel
from weakaudio.reports.html import Figures, Picture, Section, Sound, Table, page, write_page

_CONTEXT = 1.0  # seconds before and after, to see and to hear
_MOST_SECONDS = 10.0  # of one sound
_HEIGHT = 2.3  # inches


def write_similar_page(
    path: str | Path, found: pd.DataFrame, example: Example, folder: str | Path, title: str = "Sounds alike"
) -> None:
    """Write one HTML page with log-mel and audio of the example and of what was found, with a second around each.

    Of what is longer than ten seconds, those from its start are shown. A recording that cannot be read is named with
    the reason.

    Parameters
    ----------
    path
        .html; written beside first and then renamed into place.
    found, example
        As `EmbeddingIndex.similar` gave, and got.
    folder
        The folder that was embedded.

    Raises
    ------
    WeakAudioError
        No such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise WeakAudioError(f"{folder}: no such folder; it is the one that was embedded, where the sounds are")
    source = folder / example.file if example.clip is not None else Path(example.file)
    wanted = _excerpt(source, _what(example.file, example.start, example.end), example.start, example.end)
    blocks: list[str | Picture | Table | Figures] = []
    for place, row in enumerate(found.to_dict("records"), 1):
        start, end = row.get("start"), row.get("end")
        what = f"{place}. {_what(row['file'], start, end)}: similarity {row['similarity']:.3f}"
        blocks.append(_excerpt(folder / row["file"], what, start, end))
    table = found.copy()
    table.insert(0, "place", range(1, len(found) + 1))
    sections = [
        Section("The example", [wanted]),
        Section("Most alike", blocks or ["Nothing else is there to be found."]),
        Section("All in one table", [Table(table, "Times in seconds from the start of the recording.")]),
    ]
    write_page(page(title, sections if len(found) else sections[:2]), path)


def _what(file: str, start: float | None, end: float | None) -> str:
    return file if start is None or end is None else f"{file}, {start:.2f} s to {end:.2f} s"


def _excerpt(path: Path, what: str, start: float | None, end: float | None) -> Picture | str:
    """Log-mel and audio of an excerpt, marked where it has something around it; or why there is none."""
    begin = 0.0 if start is None else max(start - _CONTEXT, 0.0)
    length = _MOST_SECONDS if end is None else min(end + _CONTEXT - begin, _MOST_SECONDS)
    try:
        # Above 8 kHz there is nothing to be seen in recordings of low rates.
        logmel = LogMel("32k" if audio_info(path).sample_rate >= 32000 else "16k")
        rate = logmel.front_end.sample_rate
        audio, _ = read_audio(path, rate, begin, length)
    except AudioError as error:
        return f"{what}: {error}"
    with torch.inference_mode():
        frames, _ = logmel(torch.from_numpy(audio)[None])
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        draw_logmel(axes, frames[0].numpy(), logmel.front_end, len(audio) / rate)
        (image,) = axes.images  # moved to where it is in the recording
        left, right, bottom, top = image.get_extent()
        image.set_extent((left + begin, right + begin, bottom, top))
        axes.set(xlabel="time in the recording (s)", xlim=(begin, begin + len(audio) / rate))
        if start is not None and end is not None:
            axes.axvspan(start, end, ymin=1.0, ymax=1.05, color=INK, clip_on=False)
    return Picture(figure, what, Sound(audio, rate))
