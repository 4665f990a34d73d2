"""A family of networks, the default one made deeper and wider, and the table of what they reach."""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from weakaudio.data.manifest import read_table
from weakaudio.errors import StoreError, WeakAudioError
from weakaudio.files import FolderLock, write_table
from weakaudio.networks.flash import FlashCNN
from weakaudio.progress import progress

_DEFAULTS = {name: p.default for name, p in inspect.signature(FlashCNN.__init__).parameters.items()}
_MULTIPLE = 8  # of all channel counts: what vector units take at once
_COLUMNS = ("depth", "width", "loss", "parameters", "seconds", "settings")


def network_config(depth: float, width: float) -> dict[str, Any]:
    """Arguments of a `FlashCNN`: the default one `depth` times as deep and `width` times as wide.

    Depth multiplies the number of blocks of each stage, which is rounded (halves up) and at least 1. Width multiplies
    the channels of each stage, which are rounded to multiples of 8 (halves up) and at least 8. The embedding stays as
    wide as it is: it is what the network is for, and costs little.

    Raises
    ------
    WeakAudioError
        A depth or width that is not above 0.
    """
    if not all(math.isfinite(factor) and factor > 0 for factor in (depth, width)):
        raise WeakAudioError(f"network of depth {depth} and width {width}: expected numbers above 0")
    stages = [
        [operator, max(_round(depth * count), 1), max(_round(width * channels / _MULTIPLE), 1) * _MULTIPLE]
        for operator, count, channels in _DEFAULTS["stages"]
    ]
    return {"stages": stages, "n_features": _DEFAULTS["n_features"]}


def parameter_count(config: Mapping[str, Any]) -> int:
    """Parameters of a network, without the classifier, which hangs on the classes alone."""
    with torch.device("meta"):
        network = FlashCNN(n_classes=1, **config)
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("classifier."))


def measure_grid(
    points: Iterable[tuple[float, float]],
    train: Callable[[dict[str, Any]], float],
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Train a network at each depth and width, and keep what it reaches in a table.

    Points that the table has are not trained again. A run that was killed loses the point at hand.

    Parameters
    ----------
    points
        Depths and widths, as `network_config` takes them.
    train
        The loss of a network, of its arguments.
    out
        CSV: `depth`, `width`, `loss`, `parameters` (without the classifier), `seconds` of the training, `settings`.
        No other run writes into its folder meanwhile.
    settings
        All that decides losses beside the network, as JSON.

    Returns
    -------
    The rows of the points, in their order, each once; without `settings`.

    Raises
    ------
    WeakAudioError
        No points, a depth or width that cannot be, or a loss that is no number.
    StoreError
        The table is damaged, of other settings, or another run writes into its folder.
    WriteError
        It cannot be written.
    """
    path = Path(out)
    configs = {(float(depth), float(width)): network_config(depth, width) for depth, width in points}
    if not configs:
        raise WeakAudioError("grid: no depths and widths to train")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(path.parent)
    except OSError as error:
        raise WeakAudioError(f"{path.parent}: cannot be written ({error.strerror or error})") from error
    try:
        about = json.dumps(dict(settings or {}), sort_keys=True)
        rows = _read(path, about)
        missing = [point for point in configs if point not in rows]
        for point in progress(missing, len(missing), "training"):
            rows[point] = _row(point, configs[point], train, about)
            write_table(pd.DataFrame(list(rows.values()), columns=list(_COLUMNS)), path)
    finally:
        lock.release()
    return pd.DataFrame([rows[point] for point in configs], columns=list(_COLUMNS)).drop(columns="settings")


def _row(
    point: tuple[float, float], config: dict[str, Any], train: Callable[[dict[str, Any]], float], about: str
) -> dict[str, Any]:
    start = time.perf_counter()
    loss = float(train(config))
    if not math.isfinite(loss):
        raise WeakAudioError(
            f"grid: depth {point[0]:g}, width {point[1]:g}: the loss is {loss}; train all with a lower learning rate"
        )
    return {
        "depth": point[0],
        "width": point[1],
        "loss": loss,
        "parameters": parameter_count(config),
        "seconds": round(time.perf_counter() - start, 3),
        "settings": about,
    }


def _read(path: Path, about: str) -> dict[tuple[float, float], dict[str, Any]]:
    """Rows by depth and width; none if there is no such table yet."""
    if not path.exists():
        return {}
    table = read_table(path, {"settings": str})
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise StoreError(f"{path}: no table of a grid (no column {missing[0]!r}); give another file")
    try:
        numbers = table[list(_COLUMNS[:-1])].astype(float)
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}); delete it to begin anew") from error
    wrong = ~np.isfinite(numbers.to_numpy()).all(axis=1) | numbers.duplicated(["depth", "width"]).to_numpy()
    if wrong.any():
        line = int(wrong.argmax()) + 2
        raise StoreError(f"{path}, line {line}: a number is missing, or the point is there twice; delete the line")
    other = table["settings"][table["settings"] != about]
    if len(other):
        raise StoreError(
            f"{path}: trained with other settings ({other.iloc[0]}, now {about}); give another file, or those "
            "settings"
        )
    rows = table[list(_COLUMNS)].to_dict("records")
    return {(float(row["depth"]), float(row["width"])): {str(k): v for k, v in row.items()} for row in rows}


def _round(x: float) -> int:
    return math.floor(x + 0.5)
