"""The corpora of the comparison: events of ESC-50 and UrbanSound8K over recorded ambiences."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from weakaudio_data_prep import esc50, soundscapes, urbansound8k

from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import Manifest, read_manifest, write_manifest

LARGE = {"train": 3000, "val": 400, "test": 600}  # clips
SMALL = {"train": 1000, "val": 200, "test": 400}

ESC10 = {"chainsaw", "clock_tick", "crackling_fire", "crying_baby", "dog"}
ESC10 |= {"helicopter", "rain", "rooster", "sea_waves", "sneezing"}

# UrbanSound8K's classes under the names of ESC-50 where both have them. A jackhammer is a drill: of the two folds
# available, one has a single recording of it.
_SAME = {"dog_bark": "dog", "engine_idling": "engine", "jackhammer": "drilling"}


def prepare(data: Path, folder: Path, sizes: dict[str, int] = LARGE) -> Path:
    """Folder of the corpus, below `folder`, mixed unless it exists.

    Parameters
    ----------
    data
        Has `esc50-16k/`, `urbansound8k/` (folds 1 and 2) and `backgrounds/`.
    sizes
        Clips of each split.
    """
    return _mix(data, folder / "corpus", sizes, lambda: _events(data, folder))


def prepare_small(data: Path, folder: Path, sizes: dict[str, int] = SMALL) -> Path:
    """A smaller and easier corpus, of the ten classes of ESC-10."""
    return _mix(data, folder / "corpus-small", sizes, lambda: _ten_classes(data, folder))


def _mix(data: Path, corpus: Path, sizes: dict[str, int], events: Callable[[], Path]) -> Path:
    if not (corpus / MANIFEST).is_file():  # written last
        train, val, test = (sizes[split] for split in ("train", "val", "test"))
        soundscapes.prepare(str(events()), str(corpus), str(data / "backgrounds"), train, val, test)
    return corpus


def _ten_classes(data: Path, folder: Path) -> Path:
    """Manifest of ESC-50's clips of the classes of ESC-10."""
    esc, events = folder / "esc50", folder / "events-small"
    esc50.prepare(str(data / "esc50-16k"), str(esc))
    manifest = read_manifest(esc / MANIFEST)
    table = manifest.table.assign(path=[os.path.relpath(path, events) for path in manifest.paths])
    return _write(table[[labels[0] in ESC10 for labels in table["labels"]]], events)


def _events(data: Path, folder: Path) -> Path:
    """Manifest of all event clips: folds 1 to 3 train, 4 validates, 5 tests."""
    esc, urban, events = folder / "esc50", folder / "urbansound8k", folder / "events"
    esc50.prepare(str(data / "esc50-16k"), str(esc))
    urbansound8k.prepare(str(data / "urbansound8k"), str(urban), without=str(esc), foreground_only=True)
    tables = []
    for manifest in (read_manifest(esc / MANIFEST), read_manifest(urban / MANIFEST)):
        table = manifest.table
        paths = [os.path.relpath(path, events) for path in manifest.paths]
        labels = [[_SAME.get(name, name) for name in labels] for labels in table["labels"]]
        folds = table["fold"] if manifest.root == esc else _share_out(table)
        tables.append(pd.DataFrame({"path": paths, "labels": labels, "fold": folds, "source": table["source"]}))
    return _write(pd.concat(tables), events)


def _write(table: pd.DataFrame, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(Manifest(table.reset_index(drop=True), folder), folder / MANIFEST)
    return folder


def _share_out(urban: pd.DataFrame) -> pd.Series:
    """Fold 1 trains; the recordings of each class in fold 2 go in turn to validation and test."""
    folds = pd.Series(1, index=urban.index)
    second = urban[urban["fold"].astype(int) == 2]
    for _, rows in second.groupby(second["labels"].map(tuple)):
        for n, source in enumerate(sorted(rows["source"].unique())):
            folds[rows.index[rows["source"] == source]] = 4 + n % 2
    return folds
