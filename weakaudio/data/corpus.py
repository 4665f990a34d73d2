"""A prepared corpus: a folder with manifest, class list, clip store and, where known, the times of events.

labels.txt     class names, one per line, in the order of a network's outputs
manifest.csv   path, labels, and split or fold of each clip
events.csv     path, label, onset, offset (seconds): the strong labels, where known
store/         the clip store, whose keys are the paths of the manifest
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from weakaudio.data.labels import LabelSet
from weakaudio.data.manifest import MANIFEST, Manifest, read_manifest, read_table
from weakaudio.data.store import ClipStore, check_clips
from weakaudio.errors import LabelError, ManifestError, StoreError
from weakaudio.files import atomic_write
from weakaudio.progress import progress

LABELS, EVENTS, STORE, FAILURES = "labels.txt", "events.csv", "store", "failures.csv"


class Corpus:
    """Read-only view of a prepared corpus.

    Raises
    ------
    ManifestError
        The folder is not a prepared corpus, or its manifest is malformed.
    LabelError
        The class list is damaged, or lacks a label of the manifest.
    StoreError
        The clip store is missing or damaged.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.label_set = read_labels(self.root)
        self.manifest: Manifest = read_manifest(self.root / MANIFEST, self.label_set, check_files=False)
        self.store = ClipStore(self.root / STORE)
        self._position = {key: n for n, key in enumerate(self.store.keys)}

    def select(self, where: Mapping[str, object]) -> list[int]:
        """Store positions of the clips with these values in the manifest's columns, in the order of the manifest.

        Clips that could not be read when the corpus was packed (listed in failures.csv) are omitted.

        Raises
        ------
        ManifestError
            No such column, or no such clip.
        StoreError
            None of the clips is in the store.
        """
        paths = self.manifest.where(**where).table["path"]
        positions = [self._position[path] for path in paths if path in self._position]
        if not positions:
            raise StoreError(f"{self.root}: none of the {len(paths)} clips with {dict(where)} is in its store")
        return positions

    def targets(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        """(len(positions), C) weak labels, 0 or 1; as bytes, because AudioSet has 10^9 of them."""
        rows = np.zeros((len(positions), len(self.label_set)), dtype=np.uint8)
        for row, n in zip(rows, positions, strict=True):
            row[self.label_set.indices(self.store.labels[n])] = 1
        return rows

    def events(self) -> pd.DataFrame:
        """Read the strong labels: path, label, onset, offset (seconds).

        Raises
        ------
        ManifestError
            The corpus has none, or they are malformed.
        """
        path = self.root / EVENTS
        if not path.is_file():
            raise ManifestError(f"{self.root}: no {EVENTS}: onset and offset of its events are not known")
        events = read_table(path, {"path": str, "label": str})
        missing = {"path", "label", "onset", "offset"} - set(events.columns)
        if missing:
            raise ManifestError(
                f"{path}: column {' and '.join(sorted(missing))} missing; has {', '.join(events.columns)}"
            )
        times = events[["onset", "offset"]].apply(pd.to_numeric, errors="coerce").astype(float)
        valid = np.isfinite(times).all(axis=1) & (times["onset"] <= times["offset"])
        valid &= events[["path", "label"]].notna().all(axis=1)
        if not valid.all():
            line = int((~valid).to_numpy().argmax()) + 2
            raise ManifestError(
                f"{path}: line {line} is not an event; expected path, label, and onset and offset in seconds, got "
                f"{events.loc[line - 2].to_dict()}"
            )
        return events.assign(onset=times["onset"], offset=times["offset"])


def verify_corpus(root: str | Path) -> pd.DataFrame:
    """Find all clips that were lost or changed since the corpus was prepared.

    Returns
    -------
    Sorted table with columns `path` and `fault`, empty if the corpus is intact: unreadable shards, clips of the
    manifest that the store lacks or has twice, clips with other samples or labels, and clips not in the manifest.

    Raises
    ------
    ManifestError, LabelError
        As `Corpus`.
    StoreError
        The corpus has no clip store.
    """
    root = Path(root)
    table = read_manifest(root / MANIFEST, read_labels(root), check_files=False).table
    lost = dict(zip(table["path"], table["labels"], strict=True))
    seen: set[str] = set()
    faults: list[tuple[str, str]] = []
    for clip in progress(check_clips(root / STORE), len(lost), "verifying"):
        if clip.key in seen:
            faults.append((clip.key, "twice in the store"))
        elif clip.fault:
            faults.append((clip.key, clip.fault))
        elif clip.key not in lost:
            faults.append((clip.key, "in the store, but not in the manifest"))
        elif clip.labels != lost[clip.key]:
            faults.append((clip.key, f"labels {clip.labels} in the store, {lost[clip.key]} in the manifest"))
        seen.add(clip.key)
        lost.pop(clip.key, None)
    faults += [(key, "in the manifest, but not in the store") for key in lost]
    return pd.DataFrame(sorted(faults), columns=["path", "fault"])


def read_labels(root: str | Path) -> LabelSet:
    """Read the class list of a corpus.

    Raises
    ------
    ManifestError
        The folder is not a prepared corpus.
    LabelError
        The list is empty, repeats a name, or is not text.
    """
    path = Path(root) / LABELS
    if not path.is_file():
        raise ManifestError(f"{root}: not a prepared corpus (no {LABELS}); see `weakaudio prepare --help`")
    try:
        return LabelSet(path.read_text(encoding="utf-8").splitlines())
    except (LabelError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: damaged class list ({error}); prepare the corpus again") from error


def write_labels(label_set: LabelSet, root: str | Path) -> None:
    """Write the class list of a corpus, atomically.

    Raises
    ------
    WriteError
        It cannot be written.
    """
    with atomic_write(Path(root) / LABELS) as part:
        part.write_text("".join(f"{name}\n" for name in label_set.names), encoding="utf-8")
