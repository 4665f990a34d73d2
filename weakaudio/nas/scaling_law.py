"""How much better a network becomes with depth and with width, and which of both a device should pay for.

The law is L(D, W) = L0 + a * D^-alpha + b * W^-beta (Fu et al., arXiv 2511.18890, of language models).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares, nnls

from weakaudio.errors import WeakAudioError
from weakaudio.nas.scaling_grid import network_config

Floats = NDArray[np.float64]

_EXPONENTS = (0.02, 8.0)  # least and greatest
_STARTS = np.geomspace(0.05, 4.0, 8)  # exponents with which fits begin, each with each
_TRIED = 5  # of these, from the best on
_USUAL = 0.01  # relative error up to which a point counts by its square, and beyond which less


@dataclass(frozen=True)
class Law:
    """L(D, W) = floor + a * D^-alpha + b * W^-beta; no parameter is negative.

    Where depth or width makes no difference, a or b is 0, and its exponent means nothing.
    """

    floor: float
    """L0: the loss that no depth and no width gets below"""
    a: float
    alpha: float
    b: float
    beta: float

    def predict(self, depth: ArrayLike, width: ArrayLike) -> Floats:
        """Loss at depths and widths above 0, which may be arrays of any shapes that fit each other."""
        d, w = np.asarray(depth, dtype=float), np.asarray(width, dtype=float)
        loss: Floats = np.asarray(self.floor + self.a * d**-self.alpha + self.b * w**-self.beta)
        return loss


def fit_law(depth: ArrayLike, width: ArrayLike, loss: ArrayLike) -> Law:
    """The law that comes nearest to measured losses; their order does not matter.

    Relative errors are made small: their squares, and beyond 1 % rather their sizes (soft L1), so that a single run
    that went wrong does not bend the law. For each of many pairs of exponents the other parameters are known from a
    non-negative linear problem; from the best of these all are refined together.

    Parameters
    ----------
    depth, width, loss
        (n,) each, all above 0.

    Raises
    ------
    WeakAudioError
        Not one loss for each depth and width; a number that is not finite and above 0; or too few points to tell
        depth from width: at least 3 of each, not all changed together.
    """
    d, w, y = _points(depth, width, loss)
    typical = [float(np.exp(np.log(x).mean())) for x in (d, w, y)]  # in these units numbers are near 1
    d, w, y = d / typical[0], w / typical[1], y / typical[2]
    _check_told_apart(np.log(d), np.log(w))

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
            f_scale=_USUAL,
            x_scale="jac",
            ftol=1e-12,
            xtol=1e-12,
            gtol=1e-12,
        )
        for _, start in starts[:_TRIED]
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
    """Fit the law to a part of the points and compare it with the others.

    Parameters
    ----------
    depth, width, loss
        (n,) each, as for `fit_law`.
    held_out
        (n,) bool, the points that the fit does not see; None: the corners, where both depth and width are the least
        or the greatest there are.

    Returns
    -------
    One row a point held out: columns `depth`, `width`, `loss`, `predicted`, and `error`, which is
    (predicted - loss) / loss.

    Raises
    ------
    WeakAudioError
        Nothing is held out, or what is left is refused by `fit_law`.
    """
    d, w, y = (np.asarray(x, dtype=float) for x in (depth, width, loss))
    _points(d, w, y)
    if held_out is None:
        kept_back = np.isin(d, [d.min(), d.max()]) & np.isin(w, [w.min(), w.max()])
    else:
        kept_back = np.asarray(held_out, dtype=bool)
        if kept_back.shape != d.shape:
            raise WeakAudioError(f"law: {d.size} points, and held_out of shape {kept_back.shape}")
    if not kept_back.any():
        raise WeakAudioError("law: no point is held out; the grid has no corner, so name some")
    law = fit_law(d[~kept_back], w[~kept_back], y[~kept_back])
    d, w, y = d[kept_back], w[kept_back], y[kept_back]
    predicted = law.predict(d, w)
    return pd.DataFrame({"depth": d, "width": w, "loss": y, "predicted": predicted, "error": predicted / y - 1})


class Choice(NamedTuple):
    """A depth and width for a budget."""

    depth: float
    width: float
    loss: float
    """as the law predicts it"""
    latency: float
    """seconds"""


def best_ratio(
    law: Law,
    latency: Callable[[dict[str, Any]], float],
    grid: Iterable[tuple[float, float]],
    budget: float,
) -> Choice:
    """The depth and width with the lowest predicted loss within a latency budget; of equals the fastest.

    Parameters
    ----------
    law
        Of depths and widths as `network_config` takes them.
    latency
        Seconds of a network, of its arguments.
    grid
        Depths and widths to choose from; they need not be those that were trained.
    budget
        Seconds.

    Raises
    ------
    WeakAudioError
        Nothing to choose from, a budget or a latency that is no time, or a budget that nothing meets.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise WeakAudioError(f"law: a budget of {budget} s, expected more than 0")
    choices = []
    for depth, width in grid:
        seconds = float(latency(network_config(depth, width)))
        if not (math.isfinite(seconds) and seconds >= 0):
            raise WeakAudioError(f"law: depth {depth:g}, width {width:g}: a latency of {seconds} s")
        choices.append(Choice(float(depth), float(width), float(law.predict(depth, width)), seconds))
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
    """The points in an order of their own, so that sums round alike however they came."""
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


def _check_told_apart(log_depth: Floats, log_width: Floats) -> None:
    """The five parameters need five effects: a level, and slope and curvature of depth and of width."""
    effects = np.stack([np.ones_like(log_depth), log_depth, log_depth**2, log_width, log_width**2], axis=1)
    effects /= np.maximum(np.abs(effects).max(axis=0), 1e-12)
    if np.linalg.matrix_rank(effects, tol=1e-6) < effects.shape[1]:
        n_depths, n_widths = (len(np.unique(np.round(x, 9))) for x in (log_depth, log_width))
        raise WeakAudioError(
            f"law: {len(log_depth)} points of {n_depths} depths and {n_widths} widths cannot tell depth from width; "
            "train at least 3 depths and 3 widths, each with more than one of the other"
        )


def _linear(d: Floats, w: Floats, y: Floats, alpha: float, beta: float) -> tuple[float, Floats]:
    """Remaining error, and all parameters, of the best law with these exponents."""
    columns = np.stack([np.ones_like(d), d**-alpha, w**-beta], axis=1) / y[:, None]
    (floor, a, b), error = nnls(columns, np.ones_like(y))
    return float(error), np.array([floor, a, alpha, b, beta])
