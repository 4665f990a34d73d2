"""Event tables on disk: CSV, Parquet, JSON lines, Raven selection tables, Audacity labels and DESED TSV.

An event table has the columns file (path relative to the folder searched), start, end (seconds), label and score
(in [0, 1]); one row an event, sorted by file, then by start.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from weakaudio.data.manifest import whole_file, write_table
from weakaudio.errors import WeakAudioError

COLUMNS = ("file", "start", "end", "label", "score")

_SCORE_DECIMALS = 6
_TIME_DECIMALS = 6  # in formats of other programs; CSV, Parquet and JSON lines keep times as they are
_PARQUET = pa.schema([(c, pa.string() if c in ("file", "label") else pa.float64()) for c in COLUMNS])

_SELECTION = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)")
_RAVEN = (*_SELECTION, "Begin Path", "Begin File", "File Offset (s)", "File", "Annotation", "Score")
_RAVEN_BAND = "0\t8000"  # Hz; where a box is drawn: events have no frequencies
_RAVEN_LABELS = ("Annotation", "Species", "Common Name", "Label")
_DESED = {"filename": "file", "onset": "start", "offset": "end", "event_label": "label", "score": "score"}

Row = Mapping[str, Any]  # cells of a row as they were read, by column of an event table


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
    check_names([*table["file"].unique(), *table["label"].unique()], path, format)
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
        _check_label_folder(path)
        for file in files:
            _label_place(path, file)
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
    start, end = (_number(row[column], column) for column in ("start", "end"))
    score = _number(row.get("score", 1.0), "score")
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


def _number(value: Any, column: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (ValueError, TypeError):
        raise ValueError(f"{column} is {value!r}; expected a number") from None


# ---- the table itself: CSV, Parquet, JSON lines -----------------------------------------------------------


def _write_csv(table: pd.DataFrame, path: Path, folder: Path | None) -> None:
    write_table(table, path)


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _by_column(csv.reader(file, strict=True), COLUMNS)


def _write_parquet(table: pd.DataFrame, path: Path, folder: Path | None) -> None:
    with whole_file(path) as beside:
        pq.write_table(pa.Table.from_pandas(table, _PARQUET, preserve_index=False), beside)


def _read_parquet(path: Path) -> list[Row]:
    table = pq.ParquetFile(path).read()
    _check_columns(table.column_names, COLUMNS)
    rows: list[Row] = table.select([name for name in COLUMNS if name in table.column_names]).to_pylist()
    return rows


def _write_jsonl(table: pd.DataFrame, path: Path, folder: Path | None) -> None:
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table.itertuples(index=False)]
    _write_lines([json.dumps(row, ensure_ascii=False) for row in rows], path)


def _read_jsonl(path: Path) -> Iterator[Row]:
    for n, line in _lines(path):
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"line {n} is no object")
        _check_columns(row, COLUMNS)
        yield row


# ---- formats of other programs ----------------------------------------------------------------------------


def _write_raven(table: pd.DataFrame, path: Path, folder: Path | None) -> None:
    root = None if folder is None else folder.absolute()
    if root is not None:
        check_names([str(root)], path, "raven")
    lines = ["\t".join(_RAVEN)]
    for n, (file, start, end, label, score) in enumerate(table.itertuples(index=False), 1):
        selection = f"{n}\tSpectrogram 1\t1\t{_seconds(start)}\t{_seconds(end)}\t{_RAVEN_BAND}"
        place = f"{file if root is None else root / file}\t{PurePosixPath(file).name}\t{_seconds(start)}"
        lines.append(f"{selection}\t{place}\t{file}\t{label}\t{score}")
    _write_lines(lines, path)


def _read_raven(path: Path) -> Iterator[Row]:
    seen = set()
    for row in _by_column(_fields(path), ("Begin Time (s)", "End Time (s)")):
        file = _first(row, ("File", "Begin File", "Begin Path"), "is chosen in Raven among the measurements")
        label = _first(row, _RAVEN_LABELS, "is Raven's name for a label")
        begin, end = (_number(row[name], name) for name in ("Begin Time (s)", "End Time (s)"))
        offset = _number(row.get("File Offset (s)") or begin, "File Offset (s)")
        if offset != begin:  # Begin Time counts from the first of many recordings
            end = max(offset, round(offset + end - begin, _TIME_DECIMALS))
        key = (row.get("Selection"), file, offset, end, label)
        if key in seen:  # a selection has a row for each view
            continue
        seen.add(key)
        score = row.get("Score") or row.get("Confidence") or 1.0
        yield {"file": file, "start": offset, "end": end, "label": label, "score": score}


def _first(row: Row, columns: tuple[str, ...], hint: str) -> str:
    """The first of these columns that is there and not empty; none of them there is an error."""
    if not any(column in row for column in columns):
        raise ValueError(f"no column {' or '.join(columns)}, which {hint}")
    return next((row[column] for column in columns if row.get(column)), "")


def _write_desed(table: pd.DataFrame, path: Path, folder: Path | None) -> None:
    lines = ["\t".join(_DESED)]
    for file, start, end, label, score in table.itertuples(index=False):
        lines.append(f"{file}\t{_seconds(start)}\t{_seconds(end)}\t{label}\t{score}")
    _write_lines(lines, path)


def _read_desed(path: Path) -> Iterator[Row]:
    for row in _by_column(_fields(path), tuple(_DESED)):
        if row["onset"] or row["offset"] or row["event_label"]:
            yield {ours: row[theirs] for theirs, ours in _DESED.items() if theirs in row}


def _write_audacity(table: pd.DataFrame, path: Path, folder: Path | None) -> None:
    """A folder of labels, made beside and then renamed; what is there before must be such a folder, too."""
    _check_label_folder(path)
    beside, before = (path.with_name(f".{path.name}.{state}") for state in ("part", "before"))
    try:
        for old in (beside, before):
            shutil.rmtree(old, ignore_errors=True)
        beside.mkdir(parents=True)
        for file, rows in table.groupby("file"):
            place = _label_place(path, str(file))
            labels = beside.joinpath(*place.parent.parts, f"{place.name}.txt")
            labels.parent.mkdir(parents=True, exist_ok=True)
            times = zip(rows["start"], rows["end"], rows["label"], strict=True)
            lines = [f"{_seconds(start)}\t{_seconds(end)}\t{label}\n" for start, end, label in times]
            labels.write_text("".join(lines), encoding="utf-8", newline="\n")
        if path.exists():
            os.replace(path, before)
        os.replace(beside, path)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        raise WeakAudioError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(beside, ignore_errors=True)


def _check_label_folder(path: Path) -> None:
    if path.exists() and not (path.is_dir() and all(_is_label_file(p) for p in path.rglob("*") if not p.is_dir())):
        raise WeakAudioError(f"{path}: is there and not a folder of labels only; remove it or choose another name")


def _label_place(path: Path, file: str) -> PurePosixPath:
    place = PurePosixPath(file)
    if place.is_absolute() or ".." in place.parts or place.as_posix() != file:
        raise WeakAudioError(f"{path}: {file!r} is no path below a folder, where its labels would go")
    return place


def _is_label_file(path: Path) -> bool:
    return path.suffix == ".txt" and not path.name.startswith(".")


def _read_audacity(path: Path) -> Iterator[Row]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.txt") if _is_label_file(p) and p.is_file())
    if not files and any(path.iterdir()):
        raise ValueError("no label files *.txt in it")
    root = path.parent if path.is_file() else path
    for labels in files:
        file = labels.relative_to(root).as_posix().removesuffix(".txt")
        for n, line in _lines(labels):
            if line.startswith("\\"):  # frequencies of the label before
                continue
            fields = line.split("\t")
            if len(fields) != 3:
                raise ValueError(f"{labels.name}: line {n} has {len(fields)} fields; expected start, end and label")
            yield {"file": file, "start": fields[0], "end": fields[1], "label": fields[2]}


# ---- what they share --------------------------------------------------------------------------------------


def _seconds(value: float) -> str:
    return f"{value:.{_TIME_DECIMALS}f}"


def _write_lines(lines: list[str], path: Path) -> None:
    with whole_file(path) as beside:
        beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank; only line breaks end one."""
    for n, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            yield n, line


def _fields(path: Path) -> Iterator[list[str]]:
    """Rows of a table with tabs, in which quotes are characters like any other."""
    for _, line in _lines(path):
        yield line.split("\t")


def _by_column(rows: Iterator[list[str]], needed: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Rows of cells, by the names in the first."""
    header = next(rows, [])
    _check_columns(header, needed)
    for n, row in enumerate(rows, 2):
        if not row:  # a blank line
            continue
        if len(row) != len(header):
            raise ValueError(f"row {n} has {len(row)} fields; expected {len(header)}")
        yield dict(zip(header, row, strict=True))


def _check_columns(found: Iterable[str], needed: tuple[str, ...]) -> None:
    found = list(found)
    missing = [name for name in needed if name not in found and name != "score"]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing; has {', '.join(found) or 'nothing'}")


class EventFormat(NamedTuple):
    """How a format is told and done."""

    suffix: str
    write: Callable[[pd.DataFrame, Path, Path | None], None]
    """table, path, folder that was searched"""
    read: Callable[[Path], Iterable[Row]]
    refused: str = ""
    """characters that names in it cannot have"""


FORMATS = {
    "csv": EventFormat(".csv", _write_csv, _read_csv, "\r\0"),
    "parquet": EventFormat(".parquet", _write_parquet, _read_parquet),
    "jsonl": EventFormat(".jsonl", _write_jsonl, _read_jsonl),
    "raven": EventFormat(".txt", _write_raven, _read_raven, "\t\n\r\0"),
    "audacity": EventFormat(".labels", _write_audacity, _read_audacity, "\t\n\r\0"),
    "desed": EventFormat(".tsv", _write_desed, _read_desed, "\t\n\r\0"),
}
