"""ESC-50 (K. J. Piczak, 2015): 2,000 clips of 5 s, 50 classes, five folds; and its subset ESC-10 in folders.

As published, four of its recordings (131943, 134049, 209698, 234879) are in two folds each, under different classes.
The official folds are kept; protocols that must not share recordings between folds use the column `source`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from weakaudio.errors import DataPrepError
from weakaudio_data_prep import listings
from weakaudio_data_prep.summary import Summary, finish

_CLASS_FOLDER = re.compile(r"\d{3} - (.+)")  # ESC-10: "001 - Dog bark"


def prepare(root: str, out: str, sample_rate: int | None = None, workers: int = 1) -> Summary:
    """Check ESC-50 or ESC-10 and write its manifest (path, labels, fold, source) with the official folds.

    Parameters
    ----------
    root
        ESC-50 as published (`esc50.csv` beside `audio/`, or in `meta/`; audio in any format), or ESC-10 as published:
        a folder "NNN - Class name" for each class, with file names that start with the fold.
    out
        Folder of the corpus.
    sample_rate
        Hz; if given, also pack the clips into a store at that rate.
    workers
        Processes that decode.

    Raises
    ------
    DataPrepError
        Clips, classes or folds are not those of the data set.
    """
    folder, base = Path(root), Path(out)
    listing = listings.find_listing(folder, "esc50.csv", "meta/esc50.csv")
    table, n_classes = (_read_esc50(folder, listing), 50) if listing else (_read_esc10(folder), 10)
    _check_counts(table, folder, n_classes)
    table["path"] = listings.relative_paths(table["path"], base)
    return finish(f"ESC-{n_classes}", table, base, sample_rate, workers)


def _read_esc50(folder: Path, listing: Path) -> pd.DataFrame:
    rows = listings.read_listing(listing, ("filename", "fold", "category", "src_file"), dtype={"src_file": str})
    listings.refuse_repeated(rows["filename"].map(lambda name: Path(name).stem), listing)
    return pd.DataFrame(
        {
            "path": listings.locate_clips(rows["filename"].tolist(), folder / "audio", listing.name),
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
        label = match[1].lower().replace(" ", "_")
        for path in listings.audio_files(class_folder):
            parts = path.stem.split("-")
            if len(parts) >= 2 and parts[0].isdigit():
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
