"""UrbanSound8K (J. Salamon, C. Jacoby, J. P. Bello, 2014): up to 8,732 slices of at most 4 s, 10 classes, ten folds.

Slices of one recording share its Freesound id (`fsID`) and lie in one fold. ESC-50 comes from Freesound as well: 94
slices of folds 1 and 2 are of recordings that are in it, too.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pandas as pd

from weakaudio.audio.io import EXTENSIONS
from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.errors import DataPrepError
from weakaudio_data_prep.summary import Summary, finish

_COLUMNS = {"slice_file_name", "fsID", "salience", "fold"}
_FOREGROUND = 1  # `salience`; 2 is background
_FOLDS = 10  # of the official protocol


def prepare(
    root: str,
    out: str,
    without: str | None = None,
    foreground_only: bool = False,
    sample_rate: int | None = None,
    workers: int = 1,
) -> Summary:
    """Check UrbanSound8K, or some of its folds, and write its manifest (path, labels, fold, source).

    Parameters
    ----------
    root
        Folder with `UrbanSound8K.csv` (or `metadata/UrbanSound8K.csv`) and `audio/foldN/`, audio in any format.
        Folds whose folder is not there are left out as a whole, with a warning: figures over fewer than ten folds are
        not those of the official protocol.
    out
        Folder of the corpus.
    without
        Manifest CSV (or its folder) with a column `source` of Freesound ids, as `prepare esc50` writes it: slices
        of its recordings are left out, so that one data set can test what the other trained.
    foreground_only
        Leave out slices whose class is in the background of the recording.
    sample_rate
        If given, Hz, the slices are also packed into a store at that rate.
    workers
        Processes that decode while packing.

    Raises
    ------
    DataPrepError
        No such table or folds; columns, cells or slices missing or there twice; or nothing left.
    """
    folder, base = Path(root), Path(out)
    table = _read(folder)
    if foreground_only:
        table = table[table["salience"] == _FOREGROUND]
    if without is not None:
        other = Path(without)
        known = read_manifest(other / MANIFEST if other.is_dir() else other, check_files=False).table
        if "source" not in known:
            raise DataPrepError(f"{other}: no column `source` that says which recordings to leave out")
        table = table[~table["fsID"].isin(set(known["source"].astype(str)))]
    if table.empty:
        raise DataPrepError(f"{folder}: no slice is left")
    folds = sorted(set(table["fold"]))
    if len(folds) < _FOLDS:
        warnings.warn(
            f"{folder}: only folds {', '.join(map(str, folds))} of UrbanSound8K's ten; a figure over them is not one "
            "of the official ten-fold protocol",
            stacklevel=2,
        )
    base.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame(
        {
            "path": [os.path.relpath(path, base) for path in table["file"]],
            "labels": [[name] for name in table["class"]],
            "fold": table["fold"],
            "source": table["fsID"],
        }
    ).reset_index(drop=True)
    return finish("UrbanSound8K", Manifest(rows, base), base, sample_rate, workers)


def _read(folder: Path) -> pd.DataFrame:
    """The table of slices, with columns `file` and `class` beside its own, of the folds that are there."""
    places = (folder / "UrbanSound8K.csv", folder / "metadata" / "UrbanSound8K.csv")
    listing = next((path for path in places if path.is_file()), None)
    if listing is None:
        raise DataPrepError(f"{folder}: no UrbanSound8K.csv in it, nor in metadata/")
    try:
        table = pd.read_csv(listing, dtype={"fsID": str})
    except ValueError as error:  # also what is not UTF-8
        raise DataPrepError(f"{listing}: not a CSV table ({error})") from error
    name = next((column for column in ("class", "class_name") if column in table), None)
    missing = sorted(_COLUMNS - set(table.columns)) + ([] if name else ["class"])
    if missing:
        raise DataPrepError(f"{listing}: column {' and '.join(missing)} missing")
    table = table.rename(columns={name: "class"})
    _refuse_bad_rows(table, listing)
    folds = [fold for fold in sorted(set(table["fold"])) if (folder / "audio" / f"fold{fold}").is_dir()]
    if not folds:
        raise DataPrepError(f"{folder / 'audio'}: no folder fold1, fold2, ... in it")
    found = {
        (fold, path.stem): path
        for fold in folds
        for path in sorted((folder / "audio" / f"fold{fold}").iterdir())
        if path.suffix.lower() in EXTENSIONS
    }
    table = table[table["fold"].isin(folds)]
    keys = [(fold, Path(file).stem) for fold, file in zip(table["fold"], table["slice_file_name"], strict=True)]
    absent = [key for key in keys if key not in found]
    if absent:
        raise DataPrepError(
            f"{folder / 'audio'}: {len(absent)} slices of {listing.name} missing, the first: {absent[0][1]} "
            f"of fold {absent[0][0]}"
        )
    return table.assign(file=[str(found[key]) for key in keys])


def _refuse_bad_rows(table: pd.DataFrame, listing: Path) -> None:
    used = table[sorted({*_COLUMNS, "class"})]
    gaps = used.isna().any(axis=1)
    if gaps.any():
        raise DataPrepError(f"{listing}: line {int(gaps.to_numpy().argmax()) + 2} has an empty cell")
    twice = table["slice_file_name"][table["slice_file_name"].duplicated()]
    if len(twice):
        raise DataPrepError(f"{listing}: slice {twice.iloc[0]} is listed more than once")
