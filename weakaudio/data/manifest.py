"""The manifest: a CSV beside the audio with one row per clip, validated when read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from weakaudio.audio.io import find_audio
from weakaudio.data.labels import LabelSet
from weakaudio.errors import DataPrepError, LabelError, ManifestError
from weakaudio.files import write_table

MANIFEST = "manifest.csv"  # its name in a corpus
SEPARATOR = ";"  # between the labels of a clip


@dataclass
class Manifest:
    """Clips and their weak labels.

    `table` has columns `path` (relative to `root`, unique) and `labels` (list of class names), and optionally `fold`
    (int), `split` (str) and `source` (the recording that a clip was cut from).
    """

    table: pd.DataFrame
    root: Path

    def __len__(self) -> int:
        return len(self.table)

    @property
    def paths(self) -> list[Path]:
        """Path of each clip on disk."""
        return [self.root / path for path in self.table["path"]]

    @property
    def label_set(self) -> LabelSet:
        """All class names that occur, sorted."""
        return LabelSet(sorted({label for labels in self.table["labels"] for label in labels}))

    def where(self, **values: object) -> Manifest:
        """Select clips by column values, e.g. `where(split="train")` or `where(fold=[1, 2])`.

        Raises
        ------
        ManifestError
            No such column, or no such clip.
        """
        keep = pd.Series(True, index=self.table.index)
        for column, value in values.items():
            if column not in self.table:
                raise ManifestError(f"{self.root}: its manifest has no column {column!r}")
            keep &= self.table[column].isin(value if isinstance(value, list) else [value])
        if not keep.any():
            raise ManifestError(f"{self.root}: no clip with {values}")
        return Manifest(self.table[keep].reset_index(drop=True), self.root)


def read_manifest(path: str | Path, labels: LabelSet | None = None, check_files: bool = True) -> Manifest:
    """Read and validate a manifest CSV; paths are relative to its folder.

    Parameters
    ----------
    path
        CSV with columns `path` and `labels` (class names separated by ";"), or a folder with such a `manifest.csv`.
    labels
        If given, the only labels allowed.
    check_files
        Require that all clips exist as files; not needed where a clip store holds them.

    Raises
    ------
    ManifestError
        Unreadable, missing columns, empty or repeated paths, or files that do not exist.
    LabelError
        A label that is not in `labels`.
    """
    path = Path(path) / MANIFEST if Path(path).is_dir() else Path(path)
    table = read_table(path, {"path": str, "labels": str, "split": str, "source": str})
    missing = {"path", "labels"} - set(table.columns)
    if missing:
        raise ManifestError(f"{path}: column {' and '.join(sorted(missing))} missing; has {', '.join(table.columns)}")
    table["labels"] = [
        [label for label in cell.split(SEPARATOR) if label] if isinstance(cell, str) else []
        for cell in table["labels"]
    ]
    manifest = Manifest(table, path.parent)
    _validate(manifest, path, labels, check_files)
    return manifest


def read_table(path: str | Path, dtype: dict[str, type] | None = None) -> pd.DataFrame:
    """Read a CSV in which only empty cells are missing values: "None" and "NA" are ordinary names.

    Raises
    ------
    ManifestError
        No such file, a folder, or not a CSV table.
    """
    try:
        table = pd.read_csv(path, dtype=dtype, keep_default_na=False, na_values=[""], float_precision="round_trip")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ManifestError(f"{path}: is a folder; expected a CSV table") from None
    except (ValueError, OverflowError) as error:  # pandas' parser errors are ValueErrors
        raise ManifestError(f"{path}: not a CSV table ({error})") from error
    if len(table) and not isinstance(table.index, pd.RangeIndex):  # pandas used the first cell as index
        raise ManifestError(f"{path}: not a CSV table (rows have more cells than its header)")
    return table


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest CSV atomically; equal content gives equal bytes."""
    table = manifest.table.copy()
    table["labels"] = [SEPARATOR.join(labels) for labels in table["labels"]]
    write_table(table, path)


def read_class_folders(folder: str | Path) -> pd.DataFrame:
    """List clips in a folder with one subfolder per class, each searched recursively.

    Returns
    -------
    Table with columns `path` (sorted) and `labels` (list with the name of the subfolder).

    Raises
    ------
    AudioError
        The folder does not exist or contains no audio.
    DataPrepError
        An audio file is in no subfolder.
    """
    folder = Path(folder)
    paths = find_audio(folder)
    loose = [path for path in paths if path.parent == folder]
    if loose:
        raise DataPrepError(f"{folder}: {loose[0].name} is in no class folder; expected {folder.name}/CLASS/...")
    return pd.DataFrame({"path": paths, "labels": [[path.relative_to(folder).parts[0]] for path in paths]})


def _validate(manifest: Manifest, path: Path, labels: LabelSet | None, check_files: bool) -> None:
    table = manifest.table
    if table.empty:
        raise ManifestError(f"{path}: no rows")
    if table["path"].isna().any():
        row = int(table["path"].isna().to_numpy().argmax()) + 2
        raise ManifestError(f"{path}: line {row} has no path")
    doubled = table["path"][table["path"].duplicated()]
    if len(doubled):
        raise ManifestError(f"{path}: {doubled.iloc[0]!r} is repeated ({len(doubled)} repeated rows)")
    absent = [str(clip) for clip in manifest.paths if not _is_file(clip)] if check_files else []
    if absent:
        raise ManifestError(f"{path}: {len(absent)} of {len(table)} clips do not exist, the first: {absent[0]}")
    if labels is not None:
        for clip, names in zip(table["path"], table["labels"], strict=True):
            try:
                labels.indices(names)
            except LabelError as error:
                raise LabelError(f"{path}: clip {clip!r}: {error}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # e.g. the name is too long
        return False
