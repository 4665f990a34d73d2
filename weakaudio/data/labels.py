"""Class lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from weakaudio.errors import LabelError


class LabelSet:
    """Ordered class names, one for each output of a network.

    Raises
    ------
    LabelError
        No classes, a repeated name, or a name that a manifest cannot hold (empty, or with ";").
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self._index = {name: n for n, name in enumerate(self.names)}
        if not self.names:
            raise LabelError("a label set needs at least one class")
        if len(self._index) < len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise LabelError(f"class names must be unique; repeated: {', '.join(twice)}")
        unfit = [name for name in self.names if ";" in name or name != name.strip() or not name]
        if unfit:
            raise LabelError(f"class names must not be empty, contain ';', or start or end with space: {unfit}")

    def __len__(self) -> int:
        return len(self.names)

    def indices(self, labels: Sequence[str]) -> list[int]:
        """Output indices of class names.

        Raises
        ------
        LabelError
            A name that is not in the set.
        """
        unknown = [label for label in labels if label not in self._index]
        if unknown:
            raise LabelError(f"unknown label {unknown[0]!r}; the classes are {', '.join(self.names[:10])}, ...")
        return [self._index[label] for label in labels]


def read_audioset_labels(path: str | Path) -> LabelSet:
    """Read the display names of AudioSet's `class_labels_indices.csv`, in its order.

    Raises
    ------
    LabelError
        The columns `index` and `display_name` are missing, or the indices are not 0, 1, 2, ...
    """
    table = pd.read_csv(path)
    if not {"index", "display_name"} <= set(table.columns):
        raise LabelError(f"{path}: needs columns index and display_name, has {', '.join(table.columns)}")
    if list(table["index"]) != list(range(len(table))):
        raise LabelError(f"{path}: its indices are not 0 .. {len(table) - 1} in order")
    return LabelSet(table["display_name"])
