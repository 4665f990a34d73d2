"""HTML page of a similarity search: log-mel and audio of the example and of each result."""

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
from weakaudio.reports.html import KeyNumbers, Picture, Section, Sound, Table, page, write_page

_CONTEXT = 1.0  # seconds before and after a sound
_MAX_SECONDS = 10.0  # length of an excerpt
_HEIGHT = 2.3  # inches


def write_similar_page(
    path: str | Path, found: pd.DataFrame, example: Example, folder: str | Path, title: str = "Similar sounds"
) -> None:
    """Write an HTML page with log-mel and audio of an example and its search results, with 1 s of context each.

    Excerpts end after ten seconds. A recording that cannot be read is listed with the reason.

    Parameters
    ----------
    path
        .html file, written atomically.
    found
        Results of `EmbeddingIndex.similar`.
    example
        The example searched for.
    folder
        Folder that was embedded.

    Raises
    ------
    WeakAudioError
        The folder does not exist, or the page cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise WeakAudioError(f"{folder}: no such folder; expected the folder that was embedded")
    source = folder / example.file if example.clip is not None else Path(example.file)
    wanted = _excerpt(source, _what(example.file, example.start, example.end), example.start, example.end)
    blocks: list[str | Picture | Table | KeyNumbers] = []
    for place, row in enumerate(found.to_dict("records"), 1):
        start, end = row.get("start"), row.get("end")
        what = f"{place}. {_what(row['file'], start, end)}: similarity {row['similarity']:.3f}"
        blocks.append(_excerpt(folder / row["file"], what, start, end))
    table = found.copy()
    table.insert(0, "place", range(1, len(found) + 1))
    sections = [
        Section("Example", [wanted]),
        Section("Most similar sounds", blocks or ["No other sounds were found."]),
        Section("Table of results", [Table(table, "Times in seconds from the start of the recording.")]),
    ]
    write_page(page(title, sections if len(found) else sections[:2]), path)


def _what(file: str, start: float | None, end: float | None) -> str:
    return file if start is None or end is None else f"{file}, {start:.2f} s to {end:.2f} s"


def _excerpt(path: Path, what: str, start: float | None, end: float | None) -> Picture | str:
    """Draw log-mel and audio of an excerpt with its context, the sound marked; or return why it cannot be read."""
    begin = 0.0 if start is None else max(start - _CONTEXT, 0.0)
    length = _MAX_SECONDS if end is None else min(end + _CONTEXT - begin, _MAX_SECONDS)
    try:
        # recordings of low rates are empty above 8 kHz
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
        (image,) = axes.images  # shifted to its time in the recording
        left, right, bottom, top = image.get_extent()
        image.set_extent((left + begin, right + begin, bottom, top))
        axes.set(xlabel="time in the recording (s)", xlim=(begin, begin + len(audio) / rate))
        if start is not None and end is not None:
            axes.axvspan(start, end, ymin=1.0, ymax=1.05, color=INK, clip_on=False)
    return Picture(figure, what, Sound(audio, rate))
