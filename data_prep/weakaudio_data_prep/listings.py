"""Published tables of data sets, and the audio files they list."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from weakaudio.audio.io import EXTENSIONS
from weakaudio.data.manifest import read_manifest
from weakaudio.errors import DataPrepError


def find_listing(folder: Path, *names: str) -> Path | None:
    """The first of these files that the folder has."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_listing(path: Path, columns: Iterable[str] = (), **options: Any) -> pd.DataFrame:
    """Read a table; `options` are those of `pandas.read_csv`.

    Raises
    ------
    DataPrepError
        Not a CSV table, or without one of the columns.
    """
    try:
        table = pd.read_csv(path, **options)
    except ValueError as error:  # includes text that is not UTF-8
        raise DataPrepError(f"{path}: not a CSV table ({error})") from error
    missing = sorted(set(columns) - set(table.columns))
    if missing:
        raise DataPrepError(f"{path}: column {' and '.join(missing)} missing")
    return table


def refuse_empty_cells(table: pd.DataFrame, path: Path, first_line: int = 2) -> None:
    """Refuse a table with an empty cell; its first row is line `first_line` of the file.

    Raises
    ------
    DataPrepError
    """
    gaps = table.isna().any(axis=1).to_numpy()
    if gaps.any():
        raise DataPrepError(f"{path}: line {int(gaps.argmax()) + first_line} has an empty cell")


def refuse_repeated(clips: pd.Series, path: Path) -> None:
    """Refuse a table that lists a clip twice.

    Raises
    ------
    DataPrepError
    """
    repeated = clips[clips.duplicated()]
    if len(repeated):
        raise DataPrepError(f"{path}: clip {repeated.iloc[0]} is listed more than once")


def audio_files(folder: Path) -> list[Path]:
    """Audio files directly in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)


def locate_clips(names: Sequence[str], folder: Path, listing: str) -> list[Path]:
    """Find each clip of a listing in a folder; its format, and so its extension, may differ from the listed one.

    Raises
    ------
    DataPrepError
        The folder or a clip is missing.
    """
    if not folder.is_dir():
        raise DataPrepError(f"{folder.parent}: no folder {folder.name}/ with the clips of {listing}")
    by_stem = {path.stem: path for path in audio_files(folder)}
    missing = [name for name in names if Path(name).stem not in by_stem]
    if missing:
        raise DataPrepError(
            f"{folder}: {len(missing)} of {len(names)} clips of {listing} missing, the first: {missing[0]}; unpack "
            "all parts of the audio into this folder"
        )
    return [by_stem[Path(name).stem] for name in names]


def relative_paths(paths: Iterable[Path | str], out: Path) -> list[str]:
    """Paths relative to the folder of a corpus, as its manifest has them."""
    return [os.path.relpath(path, out) for path in paths]


def read_sources(manifest: str) -> set[str]:
    """Read the recordings (column `source`) of another prepared data set, given by its folder or manifest.

    Raises
    ------
    DataPrepError
        The manifest does not name its recordings.
    """
    table = read_manifest(manifest, check_files=False).table
    if "source" not in table:
        raise DataPrepError(f"{manifest}: no column `source`, which names the recordings to leave out")
    sources = set(table["source"].dropna().astype(str))
    if not sources:
        raise DataPrepError(f"{manifest}: its column `source` is empty, so it names no recordings to leave out")
    return sources
