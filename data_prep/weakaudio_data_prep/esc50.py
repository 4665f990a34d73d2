"""ESC-50 (K. J. Piczak, 2015): 2,000 clips of 5 s, 50 classes, five folds; and its part ESC-10 in folders.

As published, four of its recordings (131943, 134049, 209698, 234879) are in two folds each, under different
classes. The official folds are kept as they are; what must not share recordings looks at the column `source`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd

from weakaudio.audio.io import EXTENSIONS
from weakaudio.data.manifest import Manifest
from weakaudio.errors import DataPrepError
from weakaudio_data_prep.summary import Summary, finish

_CLASS_FOLDER = re.compile(r"\d{3} - (.+)")  # ESC-10: "001 - Dog bark"


def prepare(root: str, out: str, sample_rate: int | None = None, workers: int = 1) -> Summary:
    """Check ESC-50 or ESC-10 and write its manifest (path, labels, fold, source), with official folds.

    Parameters
    ----------
    root
        ESC-50 as published (`esc50.csv` beside `audio/`, or in `meta/`; audio in any format), or the ESC-10
        layout: a folder "NNN - Class name" for each class, the fold first in each file's name.
    out
        Folder of the corpus.
    sample_rate
        If given, Hz, the clips are also packed into a store at that rate.
    workers
        Processes that decode while packing.

    Raises
    ------
    DataPrepError
        Clips, classes or folds are not those of the data set.
    """
    folder = Path(root)
    listing = next((p for p in (folder / "esc50.csv", folder / "meta" / "esc50.csv") if p.is_file()), None)
    if listing:
        table, n_classes = _read_esc50(folder, listing), 50
    else:
        table, n_classes = _read_esc10(folder), 10
    _check_counts(table, folder, n_classes)
    base = Path(out)
    base.mkdir(parents=True, exist_ok=True)
    table["path"] = [os.path.relpath(path, base) for path in table["path"]]
    name = f"ESC-{n_classes}"
    return finish(name, Manifest(table, base), base, sample_rate, workers)


def _read_esc50(folder: Path, listing: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(listing, dtype={"src_file": str})
    except ValueError as error:  # also what is not UTF-8
        raise DataPrepError(f"{listing}: not a CSV table ({error})") from error
    if not (folder / "audio").is_dir():
        raise DataPrepError(f"{folder}: no folder audio/ in it, where the clips of {listing.name} should be")
    missing = {"filename", "fold", "category", "src_file"} - set(rows.columns)
    if missing:
        raise DataPrepError(f"{listing}: column {' and '.join(sorted(missing))} missing")
    by_stem = {path.stem: path for path in sorted((folder / "audio").iterdir()) if path.suffix.lower() in EXTENSIONS}
    stems = [Path(name).stem for name in rows["filename"]]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise DataPrepError(f"{listing}: clip {twice[0]} is listed more than once")
    absent = [stem for stem in stems if stem not in by_stem]
    if absent:
        raise DataPrepError(
            f"{folder / 'audio'}: {len(absent)} clips of {listing.name} missing, the first: {absent[0]}"
        )
    return pd.DataFrame(
        {
            "path": [by_stem[stem] for stem in stems],
            "labels": [[name] for name in rows["category"]],
            "fold": rows["fold"],
            "source": rows["src_file"],
        }
    )


def _read_esc10(folder: Path) -> pd.DataFrame:
    rows = []
    for class_folder in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _CLASS_FOLDER.fullmatch(class_folder.name)
        if not match or not class_folder.is_dir():
            continue
        for path in sorted(class_folder.iterdir()):
            parts = path.stem.split("-")
            if path.suffix.lower() in EXTENSIONS and len(parts) >= 2 and parts[0].isdigit():
                label = match[1].lower().replace(" ", "_")
                rows.append({"path": path, "labels": [label], "fold": int(parts[0]), "source": parts[1]})
    if not rows:
        raise DataPrepError(f"{folder}: neither esc50.csv nor folders '001 - Dog bark', ... in it")
    return pd.DataFrame(rows)


def _check_counts(table: pd.DataFrame, folder: Path, n_classes: int) -> None:
    classes = pd.Series([labels[0] for labels in table["labels"]])
    counts = classes.value_counts()
    if len(counts) != n_classes or (counts != 40).any():
        odd = counts[counts != 40]
        detail = f"{odd.index[0]!r} has {odd.iloc[0]} clips" if len(odd) else f"{len(counts)} classes"
        raise DataPrepError(f"{folder}: expected {n_classes} classes of 40 clips, found {len(table)} clips: {detail}")
    per_fold = pd.crosstab(classes, table["fold"])
    if list(per_fold.columns) != [1, 2, 3, 4, 5] or (per_fold != 8).any(axis=None):
        raise DataPrepError(f"{folder}: expected folds 1 to 5 with 8 clips of each class")
