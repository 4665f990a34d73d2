"""Event tables on disk: CSV, Parquet, JSON lines, Raven selection tables, Audacity labels and DESED TSV.

An event table has the columns file (path relative to the folder searched), start, end (seconds), label and score
(in [0, 1]); one row an event, sorted by file, then by start.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from weakaudio.errors import WeakAudioError
from weakaudio.formats.event_formats import COLUMNS, FORMATS, Row, check_label_folder, label_place, number

_SCORE_DECIMALS = 6


def write_events(
    events: pd.DataFrame, path: str | Path, format: str | None = None, folder: str | Path | None = None
) -> None:
    """Write an event table, beside first and then renamed into place. Scores are rounded to 6 decimals.

    ======== ======== ==========================================================================================
    format   ends in  holds
    ======== ======== ==========================================================================================
    csv      .csv     the table
    parquet  .parquet the table
    jsonl    .jsonl   an object a line, with the table's columns as keys
    raven    .txt     a selection table of Raven Pro for all recordings. "Begin Time (s)" counts within a recording,
                      and so does "File Offset (s)", by which Raven places an event where it opens many recordings
                      at once: the time since the first of them would hang on the lengths of all that lie between.
                      Raven finds recordings by "Begin Path". "File" is the path in the table. Boxes are drawn from
                      0 to 8000 Hz, since events have no frequencies
    audacity .labels  a folder like the one searched: labels of `site/a.wav` are in `site/a.wav.txt`; no scores
    desed    .tsv     filename, onset, offset, event_label and score; readers of DESED's tables pass over the last
    ======== ======== ==========================================================================================

    In the last three, times are rounded to 6 decimals.

    Parameters
    ----------
    events
        Its other columns are not written.
    path
        The end of its name chooses the format, unless `format` does.
    folder
        That was searched; "Begin Path" of Raven's table.

    Raises
    ------
    WeakAudioError
        No known format, `events` is no event table, a name that the format cannot hold (see `check_names`), or
        `path` cannot be written.
    """
    path = Path(path)
    chosen = find_format(path, format)
    table = check_events(events, str(path))
    check_output(table["file"].unique().tolist(), table["label"].unique().tolist(), path, format, folder)
    FORMATS[chosen].write(table.round({"score": _SCORE_DECIMALS}), path, None if folder is None else Path(folder))


def read_events(path: str | Path, format: str | None = None) -> pd.DataFrame:
    """Read an event table in any format of `write_events`.

    Without scores, as the strong truth is, all are 1. A line of DESED's that names a recording only says that it has
    no events, and is left out. Of Raven's tables, columns that are chosen in Raven count: an event is at "File
    Offset (s)" of "Begin File" or "Begin Path", or else at "Begin Time (s)"; its label is its "Annotation",
    "Species", "Common Name" or "Label"; its score "Score" or "Confidence".

    Parameters
    ----------
    path
        A file; for Audacity's labels a folder of them, or one file.
    format
        None: as the name ends; a folder holds Audacity's labels.

    Raises
    ------
    WeakAudioError
        No such file, no known format, damaged, or no event table: no start before its end, a score outside [0, 1].
    """
    path = Path(path)
    if not path.exists():
        raise WeakAudioError(f"{path}: no such file")
    chosen = "audacity" if format is None and path.is_dir() else find_format(path, format)
    if path.is_dir() and chosen != "audacity":
        raise WeakAudioError(f"{path}: a folder; expected a file of events")
    try:
        rows = list(FORMATS[chosen].read(path))
    except (OSError, ValueError, KeyError, RecursionError, csv.Error, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise WeakAudioError(f"{path}: cannot be read as a table of events in format {chosen} ({reason})") from error
    return _events(rows, str(path))


def find_format(path: str | Path, format: str | None = None) -> str:
    """The format of a table of events: by name, or else as the path ends.

    Raises
    ------
    WeakAudioError
        There is no such format.
    """
    if format is not None:
        if format not in FORMATS:
            raise WeakAudioError(f"format {format!r}: unknown; there are {', '.join(FORMATS)}")
        return format
    by_suffix = {known.suffix: name for name, known in FORMATS.items()}
    suffix = Path(path).suffix.lower()
    if suffix not in by_suffix:
        endings = ", ".join(f"{ending} ({name})" for ending, name in by_suffix.items())
        raise WeakAudioError(f"{path}: the name says no format; it must end in {endings}")
    return by_suffix[suffix]


def check_names(names: Iterable[str], path: str | Path, format: str | None = None) -> None:
    """Find out before the work whether files and labels can be written, not after it.

    Only CSV quotes: a name with a tab or a line break is refused by the formats of other programs, which know no way
    to write it.

    Raises
    ------
    WeakAudioError
        A name that the format cannot hold, that is empty or not UTF-8, or no known format.
    """
    chosen = find_format(path, format)
    for name in names:
        try:
            _name(name, "a name")
        except ValueError as error:
            raise WeakAudioError(f"{path}: cannot be written: {error}") from error
        for character in FORMATS[chosen].refused:
            if character in name:
                raise WeakAudioError(
                    f"{path}: {name!r} cannot be written, since format {chosen} holds no {character!r} in a name; "
                    "choose jsonl or parquet"
                )


def check_output(
    files: Sequence[str],
    labels: Sequence[str],
    path: Path,
    format: str | None = None,
    folder: str | Path | None = None,
) -> None:
    """Find out before the work whether a table of events of these files and classes can be written.

    Raises
    ------
    WeakAudioError
        As `write_events`.
    """
    check_names([*files, *labels], path, format)
    chosen = find_format(path, format)
    if chosen == "audacity":
        check_label_folder(path)
        for file in files:
            label_place(path, file)
    if chosen == "raven" and folder is not None:
        check_names([str(Path(folder).absolute())], path, format)


def check_events(events: pd.DataFrame, source: str) -> pd.DataFrame:
    """The columns of an event table, sorted by file, then by start; without scores, all are 1.

    Parameters
    ----------
    source
        Where it came from, for messages.

    Raises
    ------
    WeakAudioError
        A column is missing, a name is empty or not text, a time is negative or infinite, an end lies before its
        start, or a score outside [0, 1].
    """
    missing = [column for column in COLUMNS[:-1] if column not in events]
    if missing:
        raise WeakAudioError(f"{source}: column {', '.join(missing)} missing; has {', '.join(map(str, events))}")
    columns = [column for column in COLUMNS if column in events]
    if _is_right(events):
        table = events[columns].sort_values(["file", "start"], kind="stable", ignore_index=True)
        return table if "score" in table else table.assign(score=1.0)
    cells = zip(*[events[column] for column in columns], strict=True)
    return _events([dict(zip(columns, row, strict=True)) for row in cells], source)


def _is_right(events: pd.DataFrame) -> bool:
    """Whether a table is as it must be, found by columns: what is wrong in which row is found row by row."""
    numbers = [column for column in ("start", "end", "score") if column in events]
    if not all(events[column].dtype == np.float64 for column in numbers):
        return False
    start, end = events["start"], events["end"]
    score = events.get("score", pd.Series(1.0, events.index))
    try:
        for column in ("file", "label"):
            for name in events[column].unique():
                _name(name, column)
    except ValueError:
        return False
    return bool(((start >= 0) & (start <= end) & (end < math.inf) & (score >= 0) & (score <= 1)).all())


def _events(rows: list[Row], source: str) -> pd.DataFrame:
    checked = []
    for n, row in enumerate(rows, 1):
        try:
            checked.append(_checked(row))
        except (ValueError, TypeError, OverflowError) as error:
            raise WeakAudioError(f"{source}: event {n}: {error}") from error
    checked.sort(key=lambda event: event[:2])
    columns = zip(*checked, strict=True) if checked else [()] * len(COLUMNS)
    types = {column: str if column in ("file", "label") else float for column in COLUMNS}
    return pd.DataFrame(
        {name: pd.Series(list(values), dtype=types[name]) for name, values in zip(COLUMNS, columns, strict=True)}
    )


def _checked(row: Row) -> tuple[str, float, float, str, float]:
    """A row of an event table, or a `ValueError` that says what is wrong with it."""
    file, label = (_name(row[column], column) for column in ("file", "label"))
    start, end = (number(row[column], column) for column in ("start", "end"))
    score = number(row.get("score", 1.0), "score")
    if not 0 <= start <= end < math.inf:
        raise ValueError(f"from {start} to {end} s; expected 0 <= start <= end")
    if not 0 <= score <= 1:
        raise ValueError(f"score {score}; expected 0 to 1")
    return file, start, end, label, score


def _name(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{column} is {value!r}; expected a name")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{column} {value!r} is not UTF-8") from None
    return value
