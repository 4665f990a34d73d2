"""The page of a detection run: its events to sort, to filter, to see and to hear.

One HTML file that needs no server and fetches nothing. What it looks like stands in `event_page.html` and
`event_page.css`, what it does in `event_page.js`; the events are data beside them, and only those of the page that
is shown are drawn.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import soundfile as sf
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from weakaudio.audio.io import to_int16
from weakaudio.batch.recordings import FAILURES
from weakaudio.errors import WeakAudioError
from weakaudio.files import printable
from weakaudio.reports.html import write_page

MOST_FAILURES = 1000  # on the page; all of them stand in failures.csv

_TIME_DECIMALS, _SCORE_DECIMALS, _CURVE_DECIMALS = 3, 6, 3
_MOST_COLUMNS = 600  # of a log-mel picture: a screen shows no more
_LEVELS = 32  # colours of a picture: 64 would be a quarter larger, and look the same
# What an MP3 can have; it is the smallest that every browser plays. Recorders for bats go beyond it.
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class Excerpt(NamedTuple):
    """An event to see and to hear, with what is around it."""

    audio: NDArray[np.float32]
    """(N,) mono, full scale at +-1"""
    sample_rate: int
    """Hz"""
    start: float
    """where the audio starts, seconds from the start of the recording"""
    logmel: NDArray[np.floating]
    """(T, F) of the same time as `audio`"""
    scores: NDArray[np.floating]
    """(P,) of the event's class, in [0, 1]"""
    edges: NDArray[np.floating]
    """(P + 1,) score p lasts from edges[p] to edges[p + 1]: seconds from the start of the recording"""


def write_event_page(
    path: str | Path,
    events: pd.DataFrame,
    recordings: pd.DataFrame,
    failures: Sequence[tuple[str, str]],
    excerpts: Mapping[int, Excerpt],
    title: str = "Events",
) -> None:
    """Write `event_page`, beside first and then renamed into place.

    Raises
    ------
    WeakAudioError
        As `event_page`.
    """
    write_page(event_page(events, recordings, failures, excerpts, title), path)


def event_page(
    events: pd.DataFrame,
    recordings: pd.DataFrame,
    failures: Sequence[tuple[str, str]],
    excerpts: Mapping[int, Excerpt],
    title: str = "Events",
) -> str:
    """One HTML document; its own policy allows no script but its own, and nothing to be fetched.

    Parameters
    ----------
    events
        file, start, end (seconds from the start of the file), label, score (in [0, 1]), one row an event.
    recordings
        file, seconds (how long it is), one row a recording. With a column begin (date and time, ISO 8601, as the
        recorder's clock showed it; None where nobody knows), events lie on the clock, too.
    failures
        Path and reason of each recording that was left out.
    excerpts
        By position in `events`: of each event that is to be seen and heard on the page. 5 s at 32 kHz make the page
        about 80 kB larger.
    title
        The page's heading.

    Raises
    ------
    WeakAudioError
        A column is missing, times or scores are not finite, an event's file is not among the recordings or there
        twice, a begin is no date, or an excerpt is of no event or has no samples, no log-mel or no scores.
    """
    _check_columns(events, "events", ("file", "start", "end", "label", "score"), ("start", "end", "score"))
    _check_columns(recordings, "recordings", ("file", "seconds"), ("seconds",))
    _check_excerpts(excerpts, len(events))
    data = _data(events, recordings, sorted(excerpts))
    assets = {kind: _asset(f"event_page.{kind}") for kind in ("html", "css", "js")}
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            "media-src data:",
            f"style-src {_hash(assets['css'])}",
            f"script-src {_hash(assets['js'])}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return assets["html"].format(
        policy=policy,
        title=_text(title),
        css=assets["css"],
        script=assets["js"],
        numbers=_numbers(data, len(failures)),
        failures=_failures(failures, len(recordings)),
        data=_island(data),
        excerpts="\n".join(
            f'<script type="application/json" id="excerpt-{row}">{_island(_excerpt(excerpts[row]))}</script>'
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
            raise WeakAudioError(f"{what}, row {bad[0]}: {column} is {values[bad[0]]}, expected a number")


def _check_excerpts(excerpts: Mapping[int, Excerpt], n_events: int) -> None:
    for row, excerpt in excerpts.items():
        if not 0 <= row < n_events:
            raise WeakAudioError(f"excerpt of event {row}: there are {n_events} events")
        n_scores = len(excerpt.scores)
        if excerpt.audio.ndim != 1 or not len(excerpt.audio):
            raise WeakAudioError(f"excerpt of event {row}: audio of shape {excerpt.audio.shape}, expected (samples,)")
        if excerpt.logmel.ndim != 2 or not excerpt.logmel.size:
            raise WeakAudioError(
                f"excerpt of event {row}: log-mel of shape {excerpt.logmel.shape}, expected (frames, mels)"
            )
        if not n_scores or len(excerpt.edges) != n_scores + 1:
            raise WeakAudioError(
                f"excerpt of event {row}: {n_scores} scores and {len(excerpt.edges)} edges, expected one edge more"
            )


def _data(events: pd.DataFrame, recordings: pd.DataFrame, excerpts: list[int]) -> dict[str, Any]:
    """Columns rather than rows, and names once only: 20 bytes an event."""
    files = pd.Index(recordings["file"])
    twice = files[files.duplicated()]
    if len(twice):
        raise WeakAudioError(f"recordings: {twice[0]} is there twice")
    file = files.get_indexer(pd.Index(events["file"]))
    if (file < 0).any():
        raise WeakAudioError(f"events: {events['file'].iloc[int(np.argmin(file))]} is not among the recordings")
    label, labels = pd.factorize(events["label"])
    begins = recordings["begin"] if "begin" in recordings else [None] * len(recordings)

    def column(values: pd.Series, decimals: int) -> list[float]:
        return np.round(values.to_numpy(dtype=np.float64), decimals).tolist()

    return {
        "files": [str(name) for name in files],
        "seconds": column(recordings["seconds"], _TIME_DECIMALS),
        "begin": [_clock(begin, name) for begin, name in zip(begins, files, strict=True)],
        "labels": [str(name) for name in labels],
        "file": file.tolist(),
        "label": label.tolist(),
        "start": column(events["start"], _TIME_DECIMALS),
        "end": column(events["end"], _TIME_DECIMALS),
        "score": column(events["score"], _SCORE_DECIMALS),
        "excerpts": excerpts,
    }


def _clock(begin: Any, file: str) -> float | None:
    """What the recorder's clock showed, in seconds since 1970 on that clock: its zone does not matter."""
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
        "edges": np.round(np.asarray(excerpt.edges, dtype=np.float64), _TIME_DECIMALS).tolist(),
        "scores": np.round(np.asarray(excerpt.scores, dtype=np.float64), _CURVE_DECIMALS).tolist(),
    }


def _picture(logmel: NDArray[np.floating]) -> bytes:
    """A PNG of few colours, low frequencies below; the quietest 2 % and the loudest thousandth are clipped."""
    values = np.nan_to_num(np.asarray(logmel, dtype=np.float32))
    group = -(-len(values) // _MOST_COLUMNS)
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
    """The few numbers that count."""
    seconds = sum(data["seconds"])
    unit, length = ("hours", 3600) if seconds >= 3600 else ("minutes", 60) if seconds >= 60 else ("seconds", 1)
    numbers = [
        (f"{len(data['files']):,}", _noun(len(data["files"]), "recording")),
        (f"{seconds / length:,.1f}", f"{unit} of audio"),
        (f"{len(data['start']):,}", _noun(len(data["start"]), "event")),
        (f"{len(data['labels']):,}", _noun(len(data["labels"]), "class", "classes") + " heard"),
        (f"{n_failures:,}", _noun(n_failures, "recording") + " left out"),
    ]
    return "".join(f"<div><dd>{number}</dd><dt>{what}</dt></div>" for number, what in numbers)


def _noun(n: int, one: str, many: str | None = None) -> str:
    return one if n == 1 else many or f"{one}s"


def _failures(failures: Sequence[tuple[str, str]], n_recordings: int) -> str:
    if not failures:
        return "<p>None: every recording could be read.</p>"
    some = f" The first {MOST_FAILURES:,} are these." if len(failures) > MOST_FAILURES else ""
    rows = "\n".join(
        f"<tr><td>{_text(path)}</td><td>{_text(reason)}</td></tr>" for path, reason in failures[:MOST_FAILURES]
    )
    return (
        f"<p>{len(failures):,} of {n_recordings + len(failures):,}; they stand in {FAILURES}, too.{some}</p>\n"
        '<div class="list"><table><thead><tr><th scope="col">File</th><th scope="col">Reason</th></tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _text(text: str) -> str:
    return escape(printable(text))


def _island(data: Any) -> str:
    """JSON inside of HTML: without a "<" no text of it can end the element, or begin another."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _asset(name: str) -> str:
    return resources.files("weakaudio.reports").joinpath(name).read_text(encoding="utf-8")
