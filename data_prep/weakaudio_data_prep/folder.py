"""Own recordings: a folder for each class, or a CSV of paths and labels; with folds, if you like."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from weakaudio.data.manifest import Manifest, read_class_folders, read_manifest
from weakaudio.errors import DataPrepError
from weakaudio_data_prep.grouping import grouped_folds, refuse_copies, refuse_rare_classes
from weakaudio_data_prep.summary import Summary, finish


def prepare(
    root: str,
    out: str,
    sample_rate: int | None = None,
    workers: int = 1,
    folds: int | None = None,
    group: str | None = None,
) -> Summary:
    """Make a corpus of own recordings.

    Parameters
    ----------
    root
        A folder with one folder of audio (nested as you like) for each class; or a CSV with columns `path`
        (relative to the CSV) and `labels` (";" between several), and, if you like, `fold`, `split`, `source`.
    out
        Folder of the corpus.
    sample_rate
        If given, Hz, the clips are also packed into a store at that rate.
    workers
        Processes that decode while packing.
    folds
        If given, so many folds are made, 1, 2, ..., with classes spread evenly and all clips of a recording in one.
        Which recording a clip is of says the CSV's column `source`, else `group`; else each file is its own.
    group
        Regular expression whose first group names the recording, searched in each path below `root` (or as the CSV
        writes it): "([^/]+)_[0-9]+[.]" takes rain/monday_01.wav and rain/monday_02.wav for one recording, monday.

    Raises
    ------
    DataPrepError
        Neither such a folder nor a CSV; audio that lies in no class folder; folds or recordings that are asked for
        and in the CSV already; a class with fewer recordings than folds, or copies of a file in two recordings; a
        path that `group` does not find.
    ManifestError
        The CSV is malformed, or names clips twice or clips that do not exist.
    """
    source, base = Path(root), Path(out)
    if source.is_file():
        manifest = read_manifest(source)
        names = manifest.table["path"].tolist()
        table = manifest.table.assign(path=[str(path) for path in manifest.paths])
    elif source.is_dir():
        table = read_class_folders(source)
        names = [Path(path).relative_to(source).as_posix() for path in table["path"]]
    else:
        raise DataPrepError(f"{source}: neither a folder of class folders nor a CSV")
    if group is not None:
        if "source" in table:
            raise DataPrepError(f"{source}: its column `source` names the recordings; leave out --group, or it")
        table["source"] = _recordings(names, group)
    if folds is not None:
        table["fold"] = _folds(table, folds, source)
    base.mkdir(parents=True, exist_ok=True)
    table["path"] = [os.path.relpath(path, base) for path in table["path"]]
    return finish(source.stem, Manifest(table, base), base, sample_rate, workers)


def _recordings(names: Sequence[str], group: str) -> list[str]:
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise DataPrepError(f"--group {group!r}: not a regular expression ({error})") from error
    if not pattern.groups:
        raise DataPrepError(f"--group {group!r}: has no group; put what names the recording in ( )")
    found = [match[1] if (match := pattern.search(name)) else None for name in names]
    missed = [name for name, recording in zip(names, found, strict=True) if not recording]
    if missed:
        raise DataPrepError(f"--group {group!r}: names no recording in {len(missed)} paths, the first: {missed[0]}")
    return [str(recording) for recording in found]


def _folds(table: pd.DataFrame, n_folds: int, source: Path) -> list[int]:
    """A clip without a source is a recording of its own."""
    for column in ("fold", "split"):
        if column in table:
            raise DataPrepError(f"{source}: has a column `{column}` already; leave out --folds, or the column")
    paths = [str(path) for path in table["path"]]
    sources = table["source"].tolist() if "source" in table else [None] * len(paths)
    recordings = [
        ("file", path) if pd.isna(recording) else ("source", str(recording))
        for path, recording in zip(paths, sources, strict=True)
    ]
    refuse_copies([Path(path) for path in paths], recordings, str(source))
    refuse_rare_classes(table["labels"].tolist(), recordings, n_folds, str(source))
    return grouped_folds(table["labels"].tolist(), recordings, n_folds, str(source))
