"""The corpora of the comparison: events of ESC-50 and UrbanSound8K over recorded ambiences."""

from __future__ import annotations

import os
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


def prepare(data: Path, folder: Path, small: bool = False, sizes: dict[str, int] | None = None) -> Path:
    """Folder of the corpus, below `folder`, mixed unless it exists.

    Parameters
    ----------
    data
        Has `esc50-16k/`, `urbansound8k/` (folds 1 and 2; not for the small corpus) and `backgrounds/`.
    small
        A smaller and easier corpus, of the ten classes of ESC-10.
    sizes
        Clips of each split; None: `LARGE` or `SMALL`.
    """
    corpus = folder / ("corpus-small" if small else "corpus")
    if not (corpus / MANIFEST).is_file():  # written last
        sizes = sizes or (SMALL if small else LARGE)
        train, val, test = (sizes[split] for split in ("train", "val", "test"))
        events = _events(data, folder, small)
        soundscapes.prepare(str(events), str(corpus), str(data / "backgrounds"), train, val, test)
    return corpus


def _events(data: Path, folder: Path, small: bool = False) -> Path:
    """Folder of the manifest of all event clips: folds 1 to 3 train, 4 validates, 5 tests."""
    esc, urban, events = folder / "esc50", folder / "urbansound8k", folder / ("events-small" if small else "events")
    esc50.prepare(str(data / "esc50-16k"), str(esc))
    manifests = [read_manifest(esc / MANIFEST)]
    if not small:
        urbansound8k.prepare(str(data / "urbansound8k"), str(urban), without=str(esc), foreground_only=True)
        manifests.append(read_manifest(urban / MANIFEST))
    tables = []
    for manifest in manifests:
        table = manifest.table
        paths = [os.path.relpath(path, events) for path in manifest.paths]
        labels = [[_SAME.get(name, name) for name in labels] for labels in table["labels"]]
        folds = table["fold"] if manifest.root == esc else _share_out(table)
        tables.append(pd.DataFrame({"path": paths, "labels": labels, "fold": folds, "source": table["source"]}))
    clips = pd.concat(tables, ignore_index=True)
    if small:
        clips = clips[[labels[0] in ESC10 for labels in clips["labels"]]].reset_index(drop=True)
    events.mkdir(parents=True, exist_ok=True)
    write_manifest(Manifest(clips, events), events / MANIFEST)
    return events


def _share_out(urban: pd.DataFrame) -> pd.Series:
    """Fold 1 trains; the recordings of each class in fold 2 go in turn to validation and test."""
    folds = pd.Series(1, index=urban.index)
    second = urban[urban["fold"].astype(int) == 2]
    for _, rows in second.groupby(second["labels"].map(tuple)):
        for n, source in enumerate(sorted(rows["source"].unique())):
            folds[rows.index[rows["source"] == source]] = 4 + n % 2
    return folds
