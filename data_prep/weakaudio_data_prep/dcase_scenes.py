"""Acoustic scenes of DCASE as published: TUT Acoustic Scenes 2016, TAU Urban Acoustic Scenes 2019 and 2020 Mobile.

TUT Acoustic Scenes 2016 (DCASE 2016, task 1; 2017 has the same layout): 15 scenes in four folds. `meta.txt` has no
header: file, scene and, in 2017, recording; in 2016 the file name starts with the recording (a001_0_30.wav). Folds
are in `evaluation_setup/foldN_train.txt`, `foldN_test.txt` and `foldN_evaluate.txt` (the test part with its scenes).

TAU Urban Acoustic Scenes: ten scenes, one split. `meta.csv` has columns filename, scene_label, identifier (city and
location, e.g. lisbon-1000) and source_label (the device); the split is in `evaluation_setup/fold1_train.csv` etc.
Clips in neither part (in 2019 some from Milan) are left out.

All tables are tab-separated. By A. Mesaros, T. Heittola, T. Virtanen, Tampere University; not for commercial use.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pandas as pd

from weakaudio.errors import DataPrepError
from weakaudio_data_prep import listings
from weakaudio_data_prep.summary import NOTES, Summary, finish, write_report

FOLDS = (1, 2, 3, 4)  # of TUT
_SETUP = "evaluation_setup"
_TUT_COLUMNS = ["file", "scene", "location"]
_TAU_COLUMNS = {"filename": "file", "scene_label": "scene", "identifier": "location", "source_label": "device"}


def prepare(root: str, out: str, sample_rate: int | None = None, workers: int = 1) -> Summary:
    """Check a data set of acoustic scenes and write its manifest with the official folds or split.

    The manifest has path, labels (the scene), source (the location, which folds or splits never share), and fold
    (TUT: the fold in whose test part the clip is) or split (TAU: train or test) with the device.

    Parameters
    ----------
    root
        Folder of the development set with `meta.txt` or `meta.csv`, `evaluation_setup/` and `audio/`, audio in any
        format.
    out
        Folder of the corpus. Clips in neither part of the split are listed in its notes.csv.
    sample_rate
        Hz; if given, also pack the clips into a store at that rate.
    workers
        Processes that decode.

    Raises
    ------
    DataPrepError
        A list is missing or malformed, lists contradict each other or the metadata, clips are missing, or two folds
        or both parts of the split share a location.
    """
    folder, base = Path(root), Path(out)
    left_out: list[str] = []
    if (folder / "meta.txt").is_file():
        name, side, meta = "TUT Acoustic Scenes", "fold", "meta.txt"
        table = _read_tut(folder)
    elif (folder / "meta.csv").is_file():
        name, side, meta = "TAU Urban Acoustic Scenes", "split", "meta.csv"
        table, left_out = _read_tau(folder)
    else:
        raise DataPrepError(f"{folder}: neither meta.txt (TUT Acoustic Scenes) nor meta.csv (TAU) in it")
    _refuse_shared_locations(table, side, folder)
    paths = listings.relative_paths(listings.locate_clips(table["file"].tolist(), folder / "audio", meta), base)
    rows = {"path": paths, "labels": [[scene] for scene in table["scene"]], side: table[side]}
    rows |= {"source": table["location"]} | ({"device": table["device"]} if "device" in table else {})
    summary = finish(name, pd.DataFrame(rows), base, sample_rate, workers)
    notes = [(file, "left out: in neither part of the official split") for file in left_out]
    write_report(notes, ("path", "note"), base / NOTES)
    return summary


def _read_tut(folder: Path) -> pd.DataFrame:
    """Table of file, scene, location and fold."""
    meta = _read_meta(folder / "meta.txt")
    if "location" not in meta:
        meta["location"] = [Path(file).stem.partition("_")[0] for file in meta["file"]]
    scenes = dict(zip(meta["file"], meta["scene"], strict=True))
    fold_of: dict[str, int] = {}
    for fold in FOLDS:
        train, test = _parts(folder / _SETUP, fold, ".txt", scenes)
        tested = sorted(test & fold_of.keys())
        if tested:
            raise DataPrepError(
                f"{folder / _SETUP}: {tested[0]} is in the test parts of folds {fold_of[tested[0]]} and {fold}; "
                "expected exactly one"
            )
        rest = sorted(scenes.keys() - test - train)
        if rest:
            raise DataPrepError(
                f"{folder / _SETUP}: {len(rest)} clips are in no part of fold {fold}, the first: {rest[0]}"
            )
        fold_of |= dict.fromkeys(test, fold)
    never = [file for file in scenes if file not in fold_of]
    if never:
        raise DataPrepError(f"{folder / _SETUP}: {len(never)} clips are in no test part, the first: {never[0]}")
    return meta.assign(fold=[fold_of[file] for file in meta["file"]])


def _read_tau(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Table of file, scene, location, split and optionally device; and the files in neither part."""
    meta = _read_meta(folder / "meta.csv")
    train, test = _parts(folder / _SETUP, 1, ".csv", dict(zip(meta["file"], meta["scene"], strict=True)))
    split = meta["file"].map({**dict.fromkeys(train, "train"), **dict.fromkeys(test, "test")})
    unused = split.isna()
    used = meta[~unused].assign(split=split[~unused]).reset_index(drop=True)
    return used, meta.loc[unused, "file"].tolist()


def _read_meta(path: Path) -> pd.DataFrame:
    meta = _read_table(path)
    required = {"file", "scene"} | ({"location"} if path.suffix == ".csv" else set())
    missing = required - set(meta.columns)
    if missing:
        names = {ours: theirs for theirs, ours in _TAU_COLUMNS.items()} if path.suffix == ".csv" else {}
        listed = " and ".join(sorted(names.get(column, column) for column in missing))
        raise DataPrepError(f"{path}: column {listed} missing; expected a tab-separated table")
    return meta


def _parts(setup: Path, fold: int, suffix: str, scenes: dict[str, str]) -> tuple[set[str], set[str]]:
    """Files in the train part and in the test part of a fold."""
    train = _read_list(setup / f"fold{fold}_train{suffix}", scenes)
    paths = [setup / f"fold{fold}_{part}{suffix}" for part in ("evaluate", "test")]
    tests = [_read_list(path, scenes) for path in paths if path.is_file()]
    if not tests:
        raise DataPrepError(f"{setup}: neither {paths[0].name} nor {paths[1].name} in it; one is needed")
    if len(tests) == 2 and (odd := sorted(tests[0] ^ tests[1])):
        raise DataPrepError(f"{setup}: {odd[0]} is in only one of {paths[0].name} and {paths[1].name}")
    if both := sorted(train & tests[0]):
        raise DataPrepError(f"{setup}: {both[0]} is in both the train and the test part of fold {fold}")
    return train, tests[0]


def _read_list(path: Path, scenes: dict[str, str]) -> set[str]:
    if not path.is_file():
        raise DataPrepError(f"{path}: no such list; it is published with the metadata")
    table = _read_table(path)
    if "file" not in table:
        raise DataPrepError(f"{path}: column filename missing; expected a tab-separated table")
    for file in table["file"]:
        if file not in scenes:
            raise DataPrepError(f"{path}: clip {file} is not in the metadata")
    if "scene" in table:
        for file, scene in zip(table["file"], table["scene"], strict=True):
            if scene != scenes[file]:
                raise DataPrepError(f"{path}: clip {file} is {scene!r} here and {scenes[file]!r} in the metadata")
    return set(table["file"])


def _read_table(path: Path) -> pd.DataFrame:
    """Read a list or the metadata with renamed columns; .csv has a header, .txt has none."""
    header = path.suffix == ".csv"
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_values": [""], "quoting": csv.QUOTE_NONE}
    table = listings.read_listing(path, sep="\t", header=0 if header else None, **options)
    if header:
        table = table.rename(columns=_TAU_COLUMNS)
        table = table[[column for column in table if column in _TAU_COLUMNS.values()]]
    elif len(table.columns) > len(_TUT_COLUMNS):
        raise DataPrepError(f"{path}: {len(table.columns)} columns; expected file, scene and, optionally, recording")
    else:
        table.columns = pd.Index(_TUT_COLUMNS[: len(table.columns)])
    listings.refuse_empty_cells(table, path, 1 + header)
    if "file" in table:
        listings.refuse_repeated(table["file"], path)
    return table


def _refuse_shared_locations(table: pd.DataFrame, side: str, folder: Path) -> None:
    sides = table.groupby("location")[side].unique()
    shared = sides[sides.map(len) > 1]
    if len(shared):
        where = " and ".join(str(name) for name in shared.iloc[0])
        raise DataPrepError(
            f"{folder / _SETUP}: {len(shared)} locations are shared, the first: {shared.index[0]} in {side} {where}; "
            "use the lists as published"
        )
