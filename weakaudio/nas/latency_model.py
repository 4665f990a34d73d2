"""The latency of a network as the sum of its pieces, and how far that is from the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weakaudio.audio.frontend import FrontEnd
from weakaudio.deploy.benchmark import use_threads
from weakaudio.errors import WeakAudioError
from weakaudio.nas.components import PIECES, logmel_shape, pieces
from weakaudio.nas.int8_profile import measure_int8_network
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.profile import device_of, measure_network
from weakaudio.nas.search_space import SearchSpace
from weakaudio.networks.operators import OPERATORS
from weakaudio.progress import progress

N_CLASSES = 527  # AudioSet's


@dataclass(frozen=True)
class Prediction:
    """Seconds for a batch, from waveforms to clip probabilities."""

    parts: dict[str, float]
    """of `PIECES`, each with all that the network has of its kind"""

    @property
    def front_end(self) -> float:
        return self.parts["front end"]

    @property
    def network(self) -> float:
        return self.total - self.front_end

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def predict(
    config: Mapping[str, Any],
    table: LatencyTable,
    front_end: FrontEnd | str,
    seconds: float,
    batch: int,
    dtype: str = "float32",
) -> Prediction:
    """How long a network takes, as the sum of its pieces; arguments as for `pieces`.

    Raises
    ------
    WeakAudioError
        As `pieces`; a piece is not in the table, or the device cannot run it.
    """
    parts = dict.fromkeys(PIECES, 0.0)
    for key, count in pieces(config, front_end, seconds, batch, dtype).items():
        if key in table.errors:
            raise WeakAudioError(f"{key}: {table.device} cannot run it ({table.errors[key]})")
        if key not in table.times:
            raise WeakAudioError(f"{key}: is not in the latency table; complete it first")
        parts[key.piece] += count * table.times[key]
    return Prediction(parts)


@dataclass(frozen=True, eq=False)
class Validation:
    """Networks as a whole against the sum of their pieces."""

    configs: list[dict[str, Any]]
    predicted: NDArray[np.float64]
    """(n,) seconds of the network, without the front end"""
    measured: NDArray[np.float64]
    """(n,) seconds"""

    @property
    def errors(self) -> NDArray[np.float64]:
        """(n,) predicted / measured - 1"""
        return self.predicted / self.measured - 1

    @property
    def median(self) -> float:
        """of the errors' absolute values"""
        return float(np.median(np.abs(self.errors)))

    @property
    def percentile_90(self) -> float:
        """of the errors' absolute values"""
        return float(np.quantile(np.abs(self.errors), 0.9))

    @property
    def factor(self) -> float:
        """The median of predicted / measured: what all networks have in common, as when a device becomes slower"""
        return float(np.median(self.predicted / self.measured))

    @property
    def median_beside_factor(self) -> float:
        """As `median`, of predictions that are divided by `factor`: what is left for comparing networks"""
        return float(np.median(np.abs((1 + self.errors) / self.factor - 1)))

    def __str__(self) -> str:
        return (
            f"{len(self.configs)} networks: relative error of the predicted latency {self.median:.1%} (median), "
            f"{self.percentile_90:.1%} (90th percentile); {self.median_beside_factor:.1%} (median) beside a common "
            f"factor of {self.factor:.2f}"
        )


def validate(
    table: LatencyTable,
    configs: Sequence[Mapping[str, Any]],
    front_end: FrontEnd | str,
    seconds: float,
    batch: int,
    dtype: str = "float32",
    measure: Callable[[Mapping[str, Any]], float] | None = None,
) -> Validation:
    """Measure whole networks, such as those of `random_configs`, and compare; arguments as for `pieces`.

    The front end is left out: it is one piece, and measured as a whole.

    Parameters
    ----------
    measure
        Seconds of a network; instead of running it.

    Raises
    ------
    WeakAudioError
        No networks; as `predict`; the table is of another device.
    """
    if not configs:
        raise WeakAudioError("validation: no networks to measure")
    predicted = [predict(config, table, front_end, seconds, batch, dtype).network for config in configs]
    shape = logmel_shape(front_end, seconds, batch)
    if measure is None:
        measure = _measure(table, front_end, seconds, batch, dtype)
    whole = [{**config, "n_mels": shape[2]} for config in configs]
    with use_threads(table.device.threads):
        measured = [measure(config) for config in progress(whole, len(whole), "validating")]
    return Validation([dict(config) for config in configs], np.array(predicted), np.array(measured))


def _measure(
    table: LatencyTable, front_end: FrontEnd | str, seconds: float, batch: int, dtype: str
) -> Callable[[Mapping[str, Any]], float]:
    """How whole networks are measured on a table's device."""
    device, threads = device_of(table), table.device.threads
    if table.device.onnxruntime is not None:
        return lambda config: measure_int8_network(config, front_end, seconds, batch, threads)
    shape = logmel_shape(front_end, seconds, batch)
    return partial(measure_network, shape=shape, dtype=dtype, device=device, graphs=table.device.graphs)


def random_configs(
    n: int = 30,
    seed: int = 0,
    n_classes: int = N_CLASSES,
    n_mels: int = 128,
    space: SearchSpace | None = None,
    runs: Callable[[Mapping[str, Any]], bool] = lambda config: True,
) -> list[dict[str, Any]]:
    """Different networks, drawn evenly from a space; None: all that a search may visit.

    Parameters
    ----------
    runs
        Whether the device can run a network; others are drawn in the place of those it cannot.

    Raises
    ------
    WeakAudioError
        The space does not have as many.
    """
    space = space or SearchSpace().with_operators(set(OPERATORS))
    return [
        {**genome, "n_classes": n_classes, "n_mels": n_mels}
        for genome in _different(space, n, np.random.default_rng(seed), runs)
    ]


def _different(
    space: SearchSpace, n: int, rng: np.random.Generator, runs: Callable[[Mapping[str, Any]], bool]
) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for _ in range(100 * n):
        genome = space.random(rng)
        if len(seen) < n and genome.key not in seen and runs(genome.to_config()):
            seen.add(genome.key)
            yield genome.to_config()
    if len(seen) < n:
        raise WeakAudioError(f"{n} different networks: the space has no more than about {len(seen)}")
