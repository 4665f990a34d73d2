"""UrbanSound8K (J. Salamon, C. Jacoby, J. P. Bello, 2014): up to 8,732 slices of at most 4 s, 10 classes, ten folds.

Slices of one recording share its Freesound id (`fsID`) and are in one fold. ESC-50 is from Freesound as well: 94
slices of folds 1 and 2 are of recordings that it also uses.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd

from weakaudio.errors import DataPrepError
from weakaudio_data_prep import listings
from weakaudio_data_prep.summary import Summary, finish

_COLUMNS = ["slice_file_name", "fsID", "salience", "fold", "class"]
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
        Folder with `UrbanSound8K.csv` (or `metadata/UrbanSound8K.csv`) and `audio/foldN/`, audio in any format. Folds
        without a folder are left out with a warning: results on fewer than ten folds are not those of the official
        protocol.
    out
        Folder of the corpus.
    without
        Manifest (or its folder) of another data set with a column `source` of Freesound ids, e.g. from `prepare
        esc50`: slices of its recordings are left out, so that one data set can test what the other trained.
    foreground_only
        Leave out slices whose class is in the background of the recording.
    sample_rate
        Hz; if given, also pack the slices into a store at that rate.
    workers
        Processes that decode.

    Raises
    ------
    DataPrepError
        No such table or folds; columns, cells or slices that are missing or repeated; or no slice is left.
    """
    folder, base = Path(root), Path(out)
    table = _read(folder)
    if foreground_only:
        table = table[table["salience"] == _FOREGROUND]
    if without is not None:
        table = table[~table["fsID"].isin(listings.read_sources(without))]
    if table.empty:
        raise DataPrepError(f"{folder}: no slice is left")
    folds = sorted(set(table["fold"]))
    if len(folds) < _FOLDS:
        warnings.warn(
            f"{folder}: only folds {', '.join(map(str, folds))} of UrbanSound8K's ten; results are not those of the "
            "official ten-fold protocol",
            stacklevel=2,
        )
    rows = pd.DataFrame(
        {
            "path": listings.relative_paths(table["file"], base),
            "labels": [[name] for name in table["class"]],
            "fold": table["fold"].tolist(),
            "source": table["fsID"].tolist(),
        }
    )
    return finish("UrbanSound8K", rows, base, sample_rate, workers)


def _read(folder: Path) -> pd.DataFrame:
    """Slices of the folds that are present, with a column `file`."""
    listing = listings.find_listing(folder, "UrbanSound8K.csv", "metadata/UrbanSound8K.csv")
    if listing is None:
        raise DataPrepError(f"{folder}: no UrbanSound8K.csv in it, nor in metadata/")
    table = listings.read_listing(listing, dtype={"fsID": str}).rename(columns={"class_name": "class"})
    missing = [column for column in sorted(_COLUMNS) if column not in table]
    if missing:
        raise DataPrepError(f"{listing}: column {' and '.join(missing)} missing")
    listings.refuse_empty_cells(table[_COLUMNS], listing)
    listings.refuse_repeated(table["slice_file_name"], listing)
    present = table[[(folder / "audio" / f"fold{fold}").is_dir() for fold in table["fold"]]]
    if present.empty:
        raise DataPrepError(f"{folder / 'audio'}: no folder fold1, fold2, ... in it")
    files = pd.Series(index=present.index, dtype=object)
    for fold, slices in present.groupby("fold")["slice_file_name"]:
        files[slices.index] = listings.locate_clips(slices.tolist(), folder / "audio" / f"fold{fold}", listing.name)
    return present.assign(file=files)
