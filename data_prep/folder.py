"""Own recordings: a folder for each class, or a CSV of paths and labels."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from data_prep.summary import Summary, finish
from weakaudio.audio.io import find_audio
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.errors import DataPrepError


def prepare(root: str, out: str, sample_rate: int | None = None, workers: int = 1) -> Summary:
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

    Raises
    ------
    DataPrepError
        Neither such a folder nor a CSV; audio that lies in no class folder.
    ManifestError
        The CSV is malformed, or names clips twice or clips that do not exist.
    """
    source, base = Path(root), Path(out)
    if source.is_file():
        manifest = read_manifest(source)
        table = manifest.table.assign(path=[str(path) for path in manifest.paths])
    elif source.is_dir():
        table = _read_class_folders(source)
    else:
        raise DataPrepError(f"{source}: neither a folder of class folders nor a CSV")
    base.mkdir(parents=True, exist_ok=True)
    table["path"] = [os.path.relpath(path, base) for path in table["path"]]
    return finish(source.stem, Manifest(table, base), base, sample_rate, workers)


def _read_class_folders(folder: Path) -> pd.DataFrame:
    paths = find_audio(folder)
    loose = [path for path in paths if path.parent == folder]
    if loose:
        raise DataPrepError(f"{folder}: {loose[0].name} lies in no class folder; expected {folder.name}/CLASS/...")
    return pd.DataFrame({"path": paths, "labels": [[path.relative_to(folder).parts[0]] for path in paths]})
