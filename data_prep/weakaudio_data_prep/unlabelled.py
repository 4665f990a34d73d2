"""Recordings without labels, for networks that learn from another network."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

import pandas as pd

from weakaudio.audio.io import find_audio
from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.errors import DataPrepError
from weakaudio_data_prep.summary import Summary, finish

LABEL = "unlabelled"  # of all clips


def prepare(
    root: str, out: str, sample_rate: int, without: str | None = None, held_out: float = 0.05, workers: int = 1
) -> Summary:
    """Pack all audio below a folder, split by file into train and val.

    Parameters
    ----------
    root
        A folder of audio, nested as you like.
    out
        Folder of the corpus.
    sample_rate
        Hz, of the store.
    without
        Manifest CSV (or its folder) with a column `source` of Freesound ids, as `prepare esc50` writes it: files
        that have one of them as a number in their path are left out, so that it can test what these train.
    held_out
        Part of the files that is `val`, by a checksum of their path below `root`.
    workers
        Processes that decode while packing.

    Raises
    ------
    AudioError
        No such folder, or no audio in it.
    DataPrepError
        `without` names no recordings; no file is left; `held_out` is not a part.
    """
    if not 0 <= held_out < 1:
        raise DataPrepError(f"held_out: {held_out}, expected a part of the files, from 0 to below 1")
    folder, base = Path(root), Path(out)
    paths, name = find_audio(folder), folder.name
    if without is not None:
        known, n_files = _sources(Path(without)), len(paths)
        paths = [path for path in paths if not known & _numbers(path.relative_to(folder))]
        name = f"{name} without {n_files - len(paths)} files that {without} has"
    if not paths:
        raise DataPrepError(f"{folder}: no file is left")
    base.mkdir(parents=True, exist_ok=True)
    places = [zlib.crc32(path.relative_to(folder).as_posix().encode()) / 2**32 for path in paths]
    rows = pd.DataFrame(
        {
            "path": [os.path.relpath(path, base) for path in paths],
            "labels": [[LABEL]] * len(paths),
            "split": ["val" if place < held_out else "train" for place in places],
        }
    )
    return finish(name, Manifest(rows, base), base, sample_rate, workers)


def _sources(other: Path) -> set[str]:
    table = read_manifest(other / MANIFEST if other.is_dir() else other, check_files=False).table
    if "source" not in table:
        raise DataPrepError(f"{other}: no column `source` that says which recordings to leave out")
    known = set(table["source"].dropna().astype(str).str.lstrip("0"))
    if not known:
        raise DataPrepError(f"{other}: its column `source` is empty, so it names nothing to leave out")
    return known


def _numbers(path: Path) -> set[str]:
    """All numbers in a path, as Freesound's ids are numbers."""
    return {number.lstrip("0") for number in re.findall(r"\d+", path.as_posix())}
