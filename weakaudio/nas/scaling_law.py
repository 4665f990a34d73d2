"""A scaling law: the loss that depth and width buy, from a grid of networks, and the best of both for a budget.

The law is L(D, W) = L0 + a * D^-alpha + b * W^-beta (Fu et al., arXiv 2511.18890, for language models). D and W are
multiples of the default network's depth and width.
"""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares, nnls

from weakaudio.data.manifest import read_table
from weakaudio.errors import StoreError, WeakAudioError
from weakaudio.files import write_table
from weakaudio.nas.stores import lock_folder
from weakaudio.networks.flash import FlashCNN
from weakaudio.progress import progress

Floats = NDArray[np.float64]

_DEFAULTS = {name: p.default for name, p in inspect.signature(FlashCNN.__init__).parameters.items()}
_MULTIPLE = 8  # of all channel counts: what vector units take at once
_COLUMNS = ("depth", "width", "loss", "parameters", "seconds", "settings")

_EXPONENTS = (0.02, 8.0)  # least and greatest
_STARTS = np.geomspace(0.05, 4.0, 8)  # exponents from which fits start, each with each
_BEST_STARTS = 5  # of these are refined
_OUTLIER = 0.01  # relative error from which a point counts by its absolute value rather than by its square


# --- the grid


def network_config(depth: float, width: float) -> dict[str, Any]:
    """Arguments of a `FlashCNN` `depth` times as deep and `width` times as wide as the default one.

    Depth multiplies the number of blocks of each stage, rounded (halves up) and at least 1. Width multiplies the
    channels of each stage, rounded to multiples of 8 (halves up) and at least 8. The width of the embedding is fixed:
    it is the purpose of the network, and costs little.

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


def _round(x: float) -> int:
    return math.floor(x + 0.5)


def parameter_count(config: Mapping[str, Any]) -> int:
    """Count a network's parameters without the classifier, which depends on the classes alone."""
    with torch.device("meta"):
        network = FlashCNN(n_classes=1, **config)
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("classifier."))


def measure_grid(
    points: Iterable[tuple[float, float]],
    train: Callable[[dict[str, Any]], float],
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Train a network at each depth and width, and keep the losses in a table, from which a killed run resumes.

    Parameters
    ----------
    points
        Depths and widths, as for `network_config`.
    train
        Gives the loss of a network, from its arguments.
    out
        CSV: `depth`, `width`, `loss`, `parameters` (without the classifier), `seconds` of the training, `settings`.
        Its folder is locked meanwhile.
    settings
        All that decides the losses besides the network, as JSON.

    Returns
    -------
    The rows of the points, in their order, each once; without `settings`.

    Raises
    ------
    WeakAudioError
        No points, an invalid depth or width, or a loss that is not finite.
    StoreError
        The table is damaged or was made with other settings, or another run writes into its folder.
    WriteError
        It cannot be written.
    """
    path = Path(out)
    configs = {(float(depth), float(width)): network_config(depth, width) for depth, width in points}
    if not configs:
        raise WeakAudioError("grid: no depths and widths to train")
    with lock_folder(path.parent):
        written = json.dumps(dict(settings or {}), sort_keys=True)
        rows = _read_grid(path, written)
        missing = [point for point in configs if point not in rows]
        for depth, width in progress(missing, len(missing), "training"):
            config, start = configs[depth, width], time.perf_counter()
            loss = float(train(config))
            if not math.isfinite(loss):
                raise WeakAudioError(
                    f"grid: depth {depth:g}, width {width:g}: the loss is {loss}; lower the learning rate of all"
                )
            seconds = round(time.perf_counter() - start, 3)
            values = (depth, width, loss, parameter_count(config), seconds, written)
            rows[depth, width] = dict(zip(_COLUMNS, values, strict=True))
            write_table(pd.DataFrame(list(rows.values()), columns=list(_COLUMNS)), path)
    return pd.DataFrame([rows[point] for point in configs], columns=list(_COLUMNS)).drop(columns="settings")


def _read_grid(path: Path, settings: str) -> dict[tuple[float, float], dict[str, Any]]:
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
        raise StoreError(f"{path}: damaged ({error}); delete it to start from scratch") from error
    wrong = ~np.isfinite(numbers.to_numpy()).all(axis=1) | numbers.duplicated(["depth", "width"]).to_numpy()
    if wrong.any():
        line = int(wrong.argmax()) + 2
        raise StoreError(f"{path}, line {line}: a number is missing, or the point is listed twice; delete the line")
    other = table["settings"][table["settings"] != settings]
    if len(other):
        raise StoreError(
            f"{path}: was made with other settings ({other.iloc[0]}, now {settings}); give another file, or those "
            "settings"
        )
    rows = table[list(_COLUMNS)].to_dict("records")
    return {(float(row["depth"]), float(row["width"])): {str(k): v for k, v in row.items()} for row in rows}


# --- the law


@dataclass(frozen=True)
class Law:
    """L(D, W) = floor + a * D^-alpha + b * W^-beta; no parameter is negative.

    Where depth or width makes no difference, a or b is 0, and its exponent has no meaning.
    """

    floor: float
    """L0, the loss at infinite depth and width"""
    a: float
    alpha: float
    b: float
    beta: float

    def predict(self, depth: ArrayLike, width: ArrayLike) -> Floats:
        """Predict the loss at depths and widths above 0; arrays are broadcast."""
        d, w = np.asarray(depth, dtype=float), np.asarray(width, dtype=float)
        loss: Floats = np.asarray(self.floor + self.a * d**-self.alpha + self.b * w**-self.beta)
        return loss


def fit_law(depth: ArrayLike, width: ArrayLike, loss: ArrayLike) -> Law:
    """Fit the law to measured losses; their order does not matter.

    The relative errors are minimised by a soft L1 loss: squared up to about 1 %, absolute beyond, so that a single
    failed run does not bend the law. For each of many pairs of exponents the other parameters follow from a
    non-negative linear problem; from the best of these all five are refined together.

    Parameters
    ----------
    depth, width, loss
        (n,) each, all above 0.

    Raises
    ------
    WeakAudioError
        Arrays of different shapes; a number that is not finite and above 0; or too few points to tell depth from
        width: at least 3 of each, varied independently.
    """
    d, w, y = _points(depth, width, loss)
    typical = [float(np.exp(np.log(x).mean())) for x in (d, w, y)]  # units in which numbers are near 1
    d, w, y = d / typical[0], w / typical[1], y / typical[2]
    _check_identifiable(np.log(d), np.log(w))

    def residuals(p: Floats) -> Floats:
        off: Floats = (p[0] + p[1] * d ** -p[2] + p[3] * w ** -p[4]) / y - 1
        return off

    def slopes(p: Floats) -> Floats:
        of_d, of_w = d ** -p[2], w ** -p[4]
        columns = [np.ones_like(d), of_d, -p[1] * of_d * np.log(d), of_w, -p[3] * of_w * np.log(w)]
        return np.stack(columns, axis=1) / y[:, None]

    least, most = _EXPONENTS
    starts = sorted((_linear(d, w, y, alpha, beta) for alpha in _STARTS for beta in _STARTS), key=lambda s: s[0])
    fits = [
        least_squares(
            residuals,
            np.maximum(start, 1e-6),  # the method begins within the bounds
            slopes,
            ([0, 0, least, 0, least], [np.inf, np.inf, most, np.inf, most]),
            loss="soft_l1",
            f_scale=_OUTLIER,
            x_scale="jac",
            ftol=1e-12,
            xtol=1e-12,
            gtol=1e-12,
        )
        for _, start in starts[:_BEST_STARTS]
    ]
    floor, a, alpha, b, beta = min(fits, key=lambda fit: float(fit.cost)).x
    return Law(
        floor=float(typical[2] * floor),
        a=float(typical[2] * a * typical[0] ** alpha),
        alpha=float(alpha),
        b=float(typical[2] * b * typical[1] ** beta),
        beta=float(beta),
    )


def held_out_error(
    depth: ArrayLike, width: ArrayLike, loss: ArrayLike, held_out: ArrayLike | None = None
) -> pd.DataFrame:
    """Fit the law without some points, and compare its predictions with them.

    Parameters
    ----------
    depth, width, loss
        (n,) each, as for `fit_law`.
    held_out
        (n,) bool, the points left out of the fit; None: the corners, where depth and width are both the least or the
        greatest.

    Returns
    -------
    One row per held-out point: columns `depth`, `width`, `loss`, `predicted` and `error`, the relative error
    (predicted - loss) / loss.

    Raises
    ------
    WeakAudioError
        Nothing is held out, or `fit_law` refuses the rest.
    """
    d, w, y = (np.asarray(x, dtype=float) for x in (depth, width, loss))
    _points(d, w, y)
    if held_out is None:
        left_out = np.isin(d, [d.min(), d.max()]) & np.isin(w, [w.min(), w.max()])
    else:
        left_out = np.asarray(held_out, dtype=bool)
        if left_out.shape != d.shape:
            raise WeakAudioError(f"law: {d.size} points, and held_out of shape {left_out.shape}")
    if not left_out.any():
        raise WeakAudioError("law: no point is held out; the grid has no corner, so name some")
    law = fit_law(d[~left_out], w[~left_out], y[~left_out])
    d, w, y = d[left_out], w[left_out], y[left_out]
    predicted = law.predict(d, w)
    return pd.DataFrame({"depth": d, "width": w, "loss": y, "predicted": predicted, "error": predicted / y - 1})


class BestRatio(NamedTuple):
    """The depth and width chosen for a budget."""

    depth: float
    width: float
    loss: float
    """predicted by the law"""
    latency: float
    """seconds"""


def best_ratio(
    law: Law,
    latency: Callable[[dict[str, Any]], float],
    grid: Iterable[tuple[float, float]],
    budget: float,
) -> BestRatio:
    """Choose the depth and width of the lowest predicted loss within a latency budget; of equals the fastest.

    Parameters
    ----------
    law
        In depths and widths as for `network_config`.
    latency
        Gives the seconds of a network, from its arguments.
    grid
        Depths and widths to choose from; they need not have been trained.
    budget
        Seconds.

    Raises
    ------
    WeakAudioError
        Nothing to choose from, an invalid budget or latency, or a budget that nothing meets.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise WeakAudioError(f"law: a budget of {budget} s, expected more than 0")
    choices = []
    for depth, width in grid:
        seconds = float(latency(network_config(depth, width)))
        if not (math.isfinite(seconds) and seconds >= 0):
            raise WeakAudioError(f"law: depth {depth:g}, width {width:g}: a latency of {seconds} s")
        choices.append(BestRatio(float(depth), float(width), float(law.predict(depth, width)), seconds))
    if not choices:
        raise WeakAudioError("law: no depths and widths to choose from")
    within = [choice for choice in choices if choice.latency <= budget]
    if not within:
        nearest = min(choices, key=lambda choice: choice.latency)
        raise WeakAudioError(
            f"law: nothing meets a budget of {1000 * budget:g} ms; the nearest is depth {nearest.depth:g}, width "
            f"{nearest.width:g} with {1000 * nearest.latency:.3g} ms"
        )
    return min(within, key=lambda choice: (choice.loss, choice.latency))


def _points(depth: ArrayLike, width: ArrayLike, loss: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """The points, sorted, so that sums round alike whatever their order."""
    d, w, y = (np.asarray(x, dtype=float) for x in (depth, width, loss))
    if not (d.ndim == 1 and d.shape == w.shape == y.shape):
        raise WeakAudioError(f"law: depths, widths and losses of shapes {d.shape}, {w.shape} and {y.shape}")
    if not d.size:
        raise WeakAudioError("law: no points")
    for name, values in (("depth", d), ("width", w), ("loss", y)):
        wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(wrong):
            n = wrong[0]
            raise WeakAudioError(
                f"law: {name} {values[n]} of point {n} (depth {d[n]:g}, width {w[n]:g}), expected a number above 0"
            )
    order = np.lexsort((y, w, d))
    return d[order], w[order], y[order]


def _check_identifiable(log_depth: Floats, log_width: Floats) -> None:
    """Five parameters need five effects: a level, and slope and curvature of depth and of width."""
    effects = np.stack([np.ones_like(log_depth), log_depth, log_depth**2, log_width, log_width**2], axis=1)
    effects /= np.maximum(np.abs(effects).max(axis=0), 1e-12)
    if np.linalg.matrix_rank(effects, tol=1e-6) < effects.shape[1]:
        n_depths, n_widths = (len(np.unique(np.round(x, 9))) for x in (log_depth, log_width))
        raise WeakAudioError(
            f"law: {len(log_depth)} points of {n_depths} depths and {n_widths} widths cannot tell depth from width; "
            "train at least 3 depths and 3 widths, each with more than one of the other"
        )


def _linear(d: Floats, w: Floats, y: Floats, alpha: float, beta: float) -> tuple[float, Floats]:
    """Remaining error and all parameters of the best law with these exponents."""
    columns = np.stack([np.ones_like(d), d**-alpha, w**-beta], axis=1) / y[:, None]
    (floor, a, b), error = nnls(columns, np.ones_like(y))
    return float(error), np.array([floor, a, alpha, b, beta])
