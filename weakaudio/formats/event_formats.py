"""Formats of event tables: a writer, a reader and the forbidden characters of each (`FORMATS`).

To add a format, write two functions and add them to `FORMATS` at the end of this file: names, suffixes and the
round-trip tests follow from it. Then mention it in the help of `weakaudio detect` and in `write_events`.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from weakaudio.errors import WeakAudioError
from weakaudio.files import atomic_write, write_table

COLUMNS = ("file", "start", "end", "label", "score")
"""of an event table"""

_TIME_DECIMALS = 6  # in formats of other programs; CSV, Parquet and JSON lines keep times as they are
_PARQUET = pa.schema([(c, pa.string() if c in ("file", "label") else pa.float64()) for c in COLUMNS])

_SELECTION = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)")
_RAVEN = (*_SELECTION, "Begin Path", "Begin File", "File Offset (s)", "File", "Annotation", "Score")
_RAVEN_BAND = "0\t8000"  # Hz; where a box is drawn: events have no frequencies
_RAVEN_LABELS = ("Annotation", "Species", "Common Name", "Label")
_DESED = {"filename": "file", "onset": "start", "offset": "end", "event_label": "label", "score": "score"}

Row = Mapping[str, Any]  # cells of a row as they were read, by column of an event table


# ---- the table itself: CSV, Parquet, JSON lines -----------------------------------------------------------


def _write_csv(table: pd.DataFrame, path: Path, folder: Path | None) -> None:
    write_table(table, path)


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _by_column(csv.reader(file, strict=True), COLUMNS)


def _write_parquet(table: pd.DataFrame, path: Path, folder: Path | None) -> None:
    with atomic_write(path) as beside:
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
            raise ValueError(f"line {n} is not an object")
        _check_columns(row, COLUMNS)
        yield row


# ---- formats of other programs ----------------------------------------------------------------------------


def _write_raven(table: pd.DataFrame, path: Path, folder: Path | None) -> None:
    root = None if folder is None else folder.absolute()
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
        begin, end = (number(row[name], name) for name in ("Begin Time (s)", "End Time (s)"))
        offset = number(row.get("File Offset (s)") or begin, "File Offset (s)")
        if offset != begin:  # Begin Time counts from the first of many recordings
            end = max(offset, round(offset + end - begin, _TIME_DECIMALS))
        key = (row.get("Selection"), file, offset, end, label)
        if key in seen:  # a selection has a row for each view
            continue
        seen.add(key)
        score = row.get("Score") or row.get("Confidence") or 1.0
        yield {"file": file, "start": offset, "end": end, "label": label, "score": score}


def _first(row: Row, columns: tuple[str, ...], hint: str) -> str:
    """The first of these columns that exists and is not empty; it is an error if none exists."""
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
    """Write a folder of labels, and replace an older one when it is complete."""
    beside, before = (path.with_name(f".{path.name}.{state}") for state in ("part", "before"))
    try:
        for old in (beside, before):
            shutil.rmtree(old, ignore_errors=True)
        beside.mkdir(parents=True)
        for file, rows in table.groupby("file"):
            place = label_place(path, str(file))
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


def check_label_folder(path: Path) -> None:
    """Refuse to replace anything but a folder of labels.

    Raises
    ------
    WeakAudioError
    """
    if path.exists() and not (path.is_dir() and all(_is_label_file(p) for p in path.rglob("*") if not p.is_dir())):
        raise WeakAudioError(f"{path}: exists and is not a folder of labels only; remove it or choose another name")


def label_place(path: Path, file: str) -> PurePosixPath:
    """Path of the labels of a recording, below the folder `path`.

    Raises
    ------
    WeakAudioError
        It is no path below a folder.
    """
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


def number(value: Any, column: str) -> float:
    """Parse a cell as a number; a `ValueError` names the cell."""
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (ValueError, TypeError):
        raise ValueError(f"{column} is {value!r}; expected a number") from None


def _seconds(value: float) -> str:
    return f"{value:.{_TIME_DECIMALS}f}"


def _write_lines(lines: list[str], path: Path) -> None:
    with atomic_write(path) as beside:
        beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank; lines end at line feeds only."""
    for n, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            yield n, line


def _fields(path: Path) -> Iterator[list[str]]:
    """Rows of a tab-separated table without quoting."""
    for _, line in _lines(path):
        yield line.split("\t")


def _by_column(rows: Iterator[list[str]], needed: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Rows as dictionaries, with the first row as the keys."""
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
    """How a format is recognised, written and read."""

    suffix: str
    write: Callable[[pd.DataFrame, Path, Path | None], None]
    """table, path, folder that was searched"""
    read: Callable[[Path], Iterable[Row]]
    refused: str = ""
    """characters that its names cannot contain"""


FORMATS = {
    "csv": EventFormat(".csv", _write_csv, _read_csv, "\r\0"),
    "parquet": EventFormat(".parquet", _write_parquet, _read_parquet),
    "jsonl": EventFormat(".jsonl", _write_jsonl, _read_jsonl),
    "raven": EventFormat(".txt", _write_raven, _read_raven, "\t\n\r\0"),
    "audacity": EventFormat(".labels", _write_audacity, _read_audacity, "\t\n\r\0"),
    "desed": EventFormat(".tsv", _write_desed, _read_desed, "\t\n\r\0"),
}
