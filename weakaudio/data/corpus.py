"""A corpus as data_prep writes it: one folder with manifest, class list, clip store and, where known, strong truth.

labels.txt     class names, one a line, in the order of a network's outputs
manifest.csv   path, labels and split or fold of each clip
events.csv     path, label, onset, offset (seconds): the strong truth, where it is known
store/         the clip store; its keys are the manifest's paths
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from weakaudio.data.labels import LabelSet
from weakaudio.data.manifest import Manifest, read_manifest, read_table
from weakaudio.data.store import ClipStore
from weakaudio.errors import LabelError, ManifestError, StoreError
from weakaudio.files import atomic_write

LABELS, MANIFEST, EVENTS, STORE, FAILURES = (
    "labels.txt",
    "manifest.csv",
    "events.csv",
    "store",
    "failures.csv",
)


class Corpus:
    """Read-only view of a prepared corpus.

    Raises
    ------
    ManifestError
        The folder is not a prepared corpus, or its manifest is malformed.
    LabelError
        Its class list is damaged, or the manifest has a label that it has not.
    StoreError
        Its clip store is missing or damaged.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.label_set = read_labels(self.root)
        self.manifest: Manifest = read_manifest(self.root / MANIFEST, self.label_set, check_files=False)
        self.store = ClipStore(self.root / STORE)
        self._position = {key: n for n, key in enumerate(self.store.keys)}

    def select(self, where: Mapping[str, object]) -> list[int]:
        """Positions in the store of the clips whose manifest columns have these values, in the manifest's order.

        Clips that packing could not read (listed in failures.csv) are left out.

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
        """(len(positions), C) weak labels, 0 or 1; in bytes, as AudioSet has a thousand million of them."""
        rows = np.zeros((len(positions), len(self.label_set)), dtype=np.uint8)
        for row, n in zip(rows, positions, strict=True):
            row[self.label_set.indices(self.store.labels[n])] = 1
        return rows

    def events(self) -> pd.DataFrame:
        """The strong truth: path, label, onset, offset (seconds).

        Raises
        ------
        ManifestError
            The corpus has none, or it is malformed.
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
        right = np.isfinite(times).all(axis=1) & (times["onset"] <= times["offset"])
        right &= events[["path", "label"]].notna().all(axis=1)
        if not right.all():
            line = int((~right).to_numpy().argmax()) + 2
            raise ManifestError(
                f"{path}: line {line} is no event; expected path, label, and onset and offset in seconds, got "
                f"{events.loc[line - 2].to_dict()}"
            )
        return events.assign(onset=times["onset"], offset=times["offset"])


def read_labels(root: str | Path) -> LabelSet:
    """A corpus' class list.

    Raises
    ------
    ManifestError
        The folder is not a prepared corpus.
    LabelError
        The list is not text, empty, or has a name twice.
    """
    path = Path(root) / LABELS
    if not path.is_file():
        raise ManifestError(f"{root}: not a prepared corpus (no {LABELS}); see `weakaudio prepare --help`")
    try:
        return LabelSet(path.read_text(encoding="utf-8").splitlines())
    except (LabelError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: damaged class list ({error}); prepare the corpus again") from error


def write_labels(label_set: LabelSet, root: str | Path) -> None:
    """Write a corpus' class list.

    Raises
    ------
    ManifestError
        It cannot be written, as on a full disk.
    """
    with atomic_write(Path(root) / LABELS) as beside:
        beside.write_text("".join(f"{name}\n" for name in label_set.names), encoding="utf-8")
