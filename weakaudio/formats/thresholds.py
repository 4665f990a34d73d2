"""Thresholds of classes, as a table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from weakaudio.errors import WeakAudioError

# `weakaudio evaluate` writes the last two: those of best F1 of events and of segments, on the clips that choose them.
_COLUMNS = ("threshold", "event_threshold", "segment_threshold")


def read_thresholds(path: str | Path) -> dict[str, float]:
    """The threshold of each class of a CSV with a column class (or label) and a column threshold; or of the table
    per_class.csv that `weakaudio evaluate` writes, which has those of the best event-based F1.

    Classes without a number are left out.

    Raises
    ------
    WeakAudioError
        No such file, no such columns, no number, or a class twice.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"class": str, "label": str})
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors, too
        raise WeakAudioError(f"{path}: cannot be read as a table of thresholds ({error})") from error
    names = [name for name in ("class", "label") if name in table.columns]
    values = [name for name in _COLUMNS if name in table.columns]
    if not names or not values:
        raise WeakAudioError(f"{path}: expected the columns class and threshold, found {', '.join(table.columns)}")
    table = table[[names[0], values[0]]].dropna()
    labels, numbers = table[names[0]], pd.to_numeric(table[values[0]], errors="coerce")
    if numbers.isna().any() or table.empty:
        raise WeakAudioError(f"{path}: column {values[0]}: expected numbers from 0 to 1")
    if labels.duplicated().any():
        raise WeakAudioError(f"{path}: class {labels[labels.duplicated()].iloc[0]!r} stands there twice")
    return dict(zip(labels, numbers.astype(float), strict=True))
