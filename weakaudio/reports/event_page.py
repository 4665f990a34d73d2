"""HTML report of a detection run: a sortable and filterable table of events with excerpts, and a timeline.

One self-contained file, built from `event_page.html`, `event_page.css` and `event_page.js`. Events are embedded as
JSON, and the script draws only the table rows in view.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import soundfile as sf
from matplotlib import colormaps
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from weakaudio.audio.io import to_int16
from weakaudio.batch.recordings import FAILURES
from weakaudio.errors import WeakAudioError
from weakaudio.files import printable
from weakaudio.reports.html import asset, render_numbers, write_page

MAX_FAILURES = 1000  # listed on the page; failures.csv lists all

_TIME_DECIMALS, _SCORE_DECIMALS, _CURVE_DECIMALS = 3, 6, 3
_MAX_COLUMNS = 600  # of a log-mel picture, about its width on a screen
_LEVELS = 32  # colours of a picture: 64 look the same and take a quarter more space
# Sample rates of MP3, the most compact format that all browsers play; others (bat recorders) become FLAC.
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class Excerpt(NamedTuple):
    """Audio, log-mel and scores of an event and its context."""

    audio: NDArray[np.float32]
    """(N,) mono, full scale at +-1"""
    sample_rate: int
    """Hz"""
    start: float
    """start of the audio, seconds from the start of the recording"""
    logmel: NDArray[np.floating]
    """(T, F) log-mel of `audio`"""
    scores: NDArray[np.floating]
    """(P,) scores of the event's class, in [0, 1]"""
    edges: NDArray[np.floating]
    """(P + 1,) bounds of the scores, seconds from the start of the recording: score p holds from edges[p] to
    edges[p + 1]"""


def write_event_page(
    path: str | Path,
    events: pd.DataFrame,
    recordings: pd.DataFrame,
    failures: Sequence[tuple[str, str]],
    excerpts: Mapping[int, Excerpt],
    title: str = "Events",
) -> None:
    """Write the page of `event_page` atomically.

    Raises
    ------
    WeakAudioError
        See `event_page`; or the file cannot be written.
    """
    write_page(event_page(events, recordings, failures, excerpts, title), path)


def event_page(
    events: pd.DataFrame,
    recordings: pd.DataFrame,
    failures: Sequence[tuple[str, str]],
    excerpts: Mapping[int, Excerpt],
    title: str = "Events",
) -> str:
    """Render one HTML document; its content security policy allows its own script only, and no network requests.

    Parameters
    ----------
    events
        One row for each event: file, start, end (seconds from the start of the file), label, score (in [0, 1]).
    recordings
        One row for each recording: file, seconds (its length) and optionally begin (date and time in ISO 8601 on the
        recorder's clock; None if unknown), which adds clock times.
    failures
        Path and reason of each recording that was not analysed.
    excerpts
        Excerpts by the position of their event in `events`; 5 s at 32 kHz add about 80 kB to the page.
    title
        Heading of the page.

    Raises
    ------
    WeakAudioError
        A column is missing; times or scores are not finite; the file of an event is not among the recordings, or is
        listed twice; a begin is not a date; an excerpt belongs to no event, or lacks samples, log-mel or scores.
    """
    _check_columns(events, "events", ("file", "start", "end", "label", "score"), ("start", "end", "score"))
    _check_columns(recordings, "recordings", ("file", "seconds"), ("seconds",))
    _check_excerpts(excerpts, len(events))
    data = _data(events, recordings, sorted(excerpts))
    css, script = asset("common.css", "event_page.css"), asset("event_page.js")
    return asset("event_page.html").format(
        style_hash=_hash(css),
        script_hash=_hash(script),
        title=_text(title),
        css=css,
        script=script,
        numbers=_numbers(data, len(failures)),
        failures=_failures(failures, len(recordings)),
        data=_json(data),
        excerpts="\n".join(
            f'<script type="application/json" id="excerpt-{row}">{_json(_excerpt(excerpts[row]))}</script>'
            for row in data["excerpts"]
        ),
    )


def _check_columns(table: pd.DataFrame, what: str, columns: Sequence[str], numbers: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise WeakAudioError(f"{what}: no column {missing[0]!r}; expected {', '.join(columns)}")
    for column in numbers:
        values = table[column].to_numpy(dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise WeakAudioError(f"{what}, row {bad[0]}: {column} is {values[bad[0]]}, expected a finite number")


def _check_excerpts(excerpts: Mapping[int, Excerpt], n_events: int) -> None:
    for row, excerpt in excerpts.items():
        where, n_scores = f"excerpt of event {row}:", len(excerpt.scores)
        if not 0 <= row < n_events:
            raise WeakAudioError(f"{where} there are {n_events} events")
        if excerpt.audio.ndim != 1 or not len(excerpt.audio):
            raise WeakAudioError(f"{where} audio of shape {excerpt.audio.shape}, expected (samples,)")
        if excerpt.logmel.ndim != 2 or not excerpt.logmel.size:
            raise WeakAudioError(f"{where} log-mel of shape {excerpt.logmel.shape}, expected (frames, mels)")
        if not n_scores or len(excerpt.edges) != n_scores + 1:
            raise WeakAudioError(f"{where} {n_scores} scores and {len(excerpt.edges)} edges, expected one edge more")


def _data(events: pd.DataFrame, recordings: pd.DataFrame, excerpts: list[int]) -> dict[str, Any]:
    """Collect the data of the script: columns, with each name stored once; about 20 bytes for each event."""
    files = pd.Index(recordings["file"])
    twice = files[files.duplicated()]
    if len(twice):
        raise WeakAudioError(f"recordings: {twice[0]} is listed twice")
    file = files.get_indexer(pd.Index(events["file"]))
    if (file < 0).any():
        raise WeakAudioError(f"events: {events['file'].iloc[int(np.argmin(file))]} is not among the recordings")
    label, labels = pd.factorize(events["label"])
    begins = recordings["begin"] if "begin" in recordings else [None] * len(recordings)

    return {
        "files": [str(name) for name in files],
        "seconds": _rounded(recordings["seconds"], _TIME_DECIMALS),
        "begin": [_clock(begin, name) for begin, name in zip(begins, files, strict=True)],
        "labels": [str(name) for name in labels],
        "file": file.tolist(),
        "label": label.tolist(),
        "start": _rounded(events["start"], _TIME_DECIMALS),
        "end": _rounded(events["end"], _TIME_DECIMALS),
        "score": _rounded(events["score"], _SCORE_DECIMALS),
        "excerpts": excerpts,
    }


def _rounded(values: ArrayLike, decimals: int) -> list[float]:
    return np.round(np.asarray(values, dtype=np.float64), decimals).tolist()


def _clock(begin: Any, file: str) -> float | None:
    """Convert a begin to seconds since 1970 on the recorder's clock, whatever its time zone."""
    if pd.isna(begin):
        return None
    try:
        return float(pd.Timestamp(begin).tz_localize(None).timestamp())
    except (ValueError, TypeError, OverflowError) as error:
        raise WeakAudioError(f"{file}: begin {begin!r}, expected date and time as in 2024-05-01T04:30:00") from error


def _excerpt(excerpt: Excerpt) -> dict[str, Any]:
    mp3 = excerpt.sample_rate in _MP3_RATES and "MP3" in sf.available_formats()
    audio = io.BytesIO()
    sf.write(audio, to_int16(excerpt.audio), excerpt.sample_rate, format="MP3" if mp3 else "FLAC")
    return {
        "type": "audio/mpeg" if mp3 else "audio/flac",
        "audio": base64.b64encode(audio.getvalue()).decode("ascii"),
        "picture": base64.b64encode(_picture(excerpt.logmel)).decode("ascii"),
        "start": round(float(excerpt.start), _TIME_DECIMALS),
        "seconds": round(len(excerpt.audio) / excerpt.sample_rate, 6),
        "edges": _rounded(excerpt.edges, _TIME_DECIMALS),
        "scores": _rounded(excerpt.scores, _CURVE_DECIMALS),
    }


def _picture(logmel: NDArray[np.floating]) -> bytes:
    """Render a log-mel as a PNG with a palette, clipped at its 2nd and 99.9th percentiles."""
    values = np.nan_to_num(np.asarray(logmel, dtype=np.float32))
    group = -(-len(values) // _MAX_COLUMNS)
    values = np.pad(values, ((0, -len(values) % group), (0, 0)), mode="edge")
    values = values.reshape(-1, group, values.shape[1]).mean(axis=1)
    low, high = np.percentile(values, [2, 99.9])
    levels = np.rint((_LEVELS - 1) * np.clip((values - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels.T[::-1]))
    image.putpalette((colormaps["magma"](np.linspace(0, 1, _LEVELS))[:, :3] * 255).astype(np.uint8).tobytes())
    png = io.BytesIO()
    image.save(png, format="PNG", optimize=True)
    return png.getvalue()


def _numbers(data: dict[str, Any], n_failures: int) -> str:
    seconds = sum(data["seconds"])
    unit, length = ("hours", 3600) if seconds >= 3600 else ("minutes", 60) if seconds >= 60 else ("seconds", 1)
    numbers = [
        (f"{len(data['files']):,}", _noun(len(data["files"]), "recording")),
        (f"{seconds / length:,.1f}", f"{unit} of audio"),
        (f"{len(data['start']):,}", _noun(len(data["start"]), "event")),
        (f"{len(data['labels']):,}", _noun(len(data["labels"]), "class", "classes") + " detected"),
        (f"{n_failures:,}", _noun(n_failures, "recording") + " not analysed"),
    ]
    return render_numbers(numbers)


def _noun(n: int, one: str, many: str | None = None) -> str:
    return one if n == 1 else many or f"{one}s"


def _failures(failures: Sequence[tuple[str, str]], n_recordings: int) -> str:
    if not failures:
        return "<p>None: every recording could be read.</p>"
    some = f" (the first {MAX_FAILURES:,} are shown)" if len(failures) > MAX_FAILURES else ""
    rows = "\n".join(
        f"<tr><td>{_text(path)}</td><td>{_text(reason)}</td></tr>" for path, reason in failures[:MAX_FAILURES]
    )
    return (
        f"<p>{len(failures):,} of {n_recordings + len(failures):,} recordings, listed in {FAILURES}{some}.</p>\n"
        '<div class="list"><table><thead><tr><th scope="col">File</th><th scope="col">Reason</th></tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _text(text: str) -> str:
    return escape(printable(text))


def _json(data: Any) -> str:
    """Encode JSON for HTML: without "<", no text in it can close the element or open another."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
    return f"sha256-{digest}"
