"""Recordings without labels, for distillation."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pandas as pd

from weakaudio.audio.io import find_audio
from weakaudio.errors import DataPrepError
from weakaudio_data_prep import listings
from weakaudio_data_prep.summary import Summary, finish

LABEL = "unlabelled"  # of all clips


def prepare(
    root: str, out: str, sample_rate: int, without: str | None = None, held_out: float = 0.05, workers: int = 1
) -> Summary:
    """Pack all audio below a folder, split by file into train and val.

    Parameters
    ----------
    root
        A folder, searched recursively.
    out
        Folder of the corpus.
    sample_rate
        Hz, of the store.
    without
        Manifest (or its folder) of another data set with a column `source` of Freesound ids, e.g. from `prepare
        esc50`: files whose path contains one of the ids as a number are left out, so that it can test what these
        train.
    held_out
        Fraction of files in split val, by a checksum of their path below `root`.
    workers
        Processes that decode.

    Raises
    ------
    AudioError
        No such folder, or no audio in it.
    DataPrepError
        `without` names no recordings, no file is left, or `held_out` is not in [0, 1).
    """
    if not 0 <= held_out < 1:
        raise DataPrepError(f"held_out: {held_out}, must be in [0, 1)")
    folder, base = Path(root), Path(out)
    paths, name = find_audio(folder), folder.name
    if without is not None:
        known, n_files = {source.lstrip("0") for source in listings.read_sources(without)}, len(paths)
        paths = [path for path in paths if not known & _numbers(path.relative_to(folder))]
        name = f"{name} without {n_files - len(paths)} files that {without} has"
    if not paths:
        raise DataPrepError(f"{folder}: no file is left")
    positions = [zlib.crc32(path.relative_to(folder).as_posix().encode()) / 2**32 for path in paths]
    rows = pd.DataFrame(
        {
            "path": listings.relative_paths(paths, base),
            "labels": [[LABEL]] * len(paths),
            "split": ["val" if position < held_out else "train" for position in positions],
        }
    )
    return finish(name, rows, base, sample_rate, workers)


def _numbers(path: Path) -> set[str]:
    """All numbers in a path, any of which may be a Freesound id."""
    return {number.lstrip("0") for number in re.findall(r"\d+", path.as_posix())}
