"""Own recordings: a folder per class, or a CSV of paths and labels; optionally with folds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from weakaudio.data.manifest import read_class_folders, read_manifest
from weakaudio.errors import DataPrepError
from weakaudio_data_prep import listings
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
        A folder with one subfolder of audio per class, each searched recursively; or a CSV with columns `path`
        (relative to the CSV) and `labels` (separated by ";"), and optionally `fold`, `split` and `source`.
    out
        Folder of the corpus.
    sample_rate
        Hz; if given, also pack the clips into a store at that rate.
    workers
        Processes that decode.
    folds
        If given, assign the clips to this number of folds, 1, 2, ..., with classes spread evenly and all clips of a
        recording in one fold. The recording of a clip is given by the CSV's column `source`, or by `group`; otherwise
        each file is a recording.
    group
        Regular expression whose first group names the recording, searched in each path below `root` (or as in the
        CSV): "([^/]+)_[0-9]+[.]" makes rain/monday_01.wav and rain/monday_02.wav one recording, monday.

    Raises
    ------
    DataPrepError
        Neither such a folder nor such a CSV; an audio file outside class folders; folds or recordings requested that
        the CSV already has; a class with fewer recordings than folds, or copies of a file in two recordings; a path
        that `group` does not match.
    ManifestError
        The CSV is malformed, repeats clips, or lists clips that do not exist.
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
            raise DataPrepError(f"{source}: its column `source` names the recordings; remove --group or the column")
        table["source"] = _recordings(names, group)
    if folds is not None:
        table["fold"] = _folds(table, folds, source)
    table["path"] = listings.relative_paths(table["path"], base)
    return finish(source.stem, table, base, sample_rate, workers)


def _recordings(names: Sequence[str], group: str) -> list[str]:
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise DataPrepError(f"--group {group!r}: not a regular expression ({error})") from error
    if not pattern.groups:
        raise DataPrepError(f"--group {group!r}: has no group; put the part that names the recording in ( )")
    found = [match[1] if (match := pattern.search(name)) else None for name in names]
    missed = [name for name, recording in zip(names, found, strict=True) if not recording]
    if missed:
        raise DataPrepError(f"--group {group!r}: names no recording in {len(missed)} paths, the first: {missed[0]}")
    return [str(recording) for recording in found]


def _folds(table: pd.DataFrame, n_folds: int, source: Path) -> list[int]:
    """Fold of each clip; a clip without a source is a recording of its own."""
    for column in ("fold", "split"):
        if column in table:
            raise DataPrepError(f"{source}: already has a column `{column}`; remove --folds or the column")
    paths, labels = [str(path) for path in table["path"]], table["labels"].tolist()
    sources = table["source"].tolist() if "source" in table else [None] * len(paths)
    recordings = [
        ("file", path) if pd.isna(recording) else ("source", str(recording))
        for path, recording in zip(paths, sources, strict=True)
    ]
    refuse_copies([Path(path) for path in paths], recordings, str(source))
    refuse_rare_classes(labels, recordings, n_folds, str(source))
    return grouped_folds(labels, recordings, n_folds, str(source))
