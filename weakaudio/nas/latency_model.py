"""Predicted latency: the sum of a network's components, what a search makes of it, and how far it is off."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weakaudio.audio.frontend import FrontEnd
from weakaudio.deploy.benchmark import use_threads
from weakaudio.errors import WeakAudioError
from weakaudio.nas.components import KINDS, Component, count_components, logmel_shape
from weakaudio.nas.int8_profile import measure_int8_network
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.profile import complete, device_of, measure_network
from weakaudio.nas.search_space import SearchSpace
from weakaudio.networks.operators import OPERATORS
from weakaudio.progress import progress

N_CLASSES = 527  # AudioSet's


@dataclass(frozen=True)
class Prediction:
    """Seconds for a batch, from waveforms to clip probabilities."""

    parts: dict[str, float]
    """by `KINDS`, each with all components of that kind"""

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
    """Predict the latency of a network as the sum of its components; arguments as for `count_components`.

    Raises
    ------
    WeakAudioError
        As `count_components`; a component is not in the table, or the device cannot run it.
    """
    parts = dict.fromkeys(KINDS, 0.0)
    for component, count in count_components(config, front_end, seconds, batch, dtype).items():
        if component in table.errors:
            raise WeakAudioError(f"{component}: {table.device} cannot run it ({table.errors[component]})")
        if component not in table.times:
            raise WeakAudioError(f"{component}: is not in the latency table; complete it first")
        parts[component.kind] += count * table.times[component]
    return Prediction(parts)


@dataclass(frozen=True, eq=False)
class ClipLatency:
    """Predicted seconds per clip, from waveform to class probabilities, in a batch of clips of one length.

    The number of classes is AudioSet's 527, whatever a network is trained for: it makes hardly any difference.
    """

    table: LatencyTable
    front_end: FrontEnd | str
    """a preset, decimated or not, or its name"""
    seconds: float
    """length of a clip"""
    batch: int
    """clips at once"""

    def __call__(self, config: Mapping[str, Any]) -> float:
        """Predict the latency of a `FlashCNN` from its arguments.

        Raises
        ------
        WeakAudioError
            As `predict`.
        """
        config = _with_classes(config)
        return predict(config, self.table, self.front_end, self.seconds, self.batch).total / self.batch

    def runs(self, config: Mapping[str, Any]) -> bool:
        """Whether the device can run all components of a network."""
        return not self._components(config).keys() & self.table.errors.keys()

    def components(self, space: SearchSpace) -> list[Component]:
        """All components of a space's networks, each once."""
        found = (self._components(config.to_config()) for config in space.covering())
        return list(dict.fromkeys(component for components in found for component in components))

    def complete(self, configs: list[dict[str, Any]], path: str | Path | None = None) -> int:
        """Measure the components that the table lacks, and save them; see `weakaudio.nas.profile.complete`."""
        configs = [_with_classes(config) for config in configs]
        return complete(self.table, configs, self.front_end, self.seconds, self.batch, path=path)

    def runnable(self, space: SearchSpace) -> SearchSpace:
        """The space without the operators of which the device can run no block.

        Raises
        ------
        WeakAudioError
            The table lacks components of the space, or a stage is left without an operator.
        """
        components = self.components(space)
        missing = [c for c in components if c not in self.table.times and c not in self.table.errors]
        if missing:
            raise WeakAudioError(
                f"latency table: lacks {len(missing)} of the {len(components)} components of the search space, the "
                f"first: {missing[0]}; complete it on its device: `{self._profile_command()}`"
            )
        failed = self.failed(space)
        try:
            return space.with_operators({name for names in space.operators for name in names} - failed.keys())
        except WeakAudioError as error:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
            raise WeakAudioError(f"{error}, as {self.table.device} cannot run {reasons}") from error

    def failed(self, space: SearchSpace) -> dict[str, str]:
        """The operators of which the device can run no block, and why."""
        blocks = [component for component in self.components(space) if component.kind == "block"]
        run = {block.operator for block in blocks if block in self.table.times}
        errors = self.table.errors
        return {b.operator: errors[b] for b in blocks if b in errors and b.operator not in run}

    def settings(self, space: SearchSpace) -> dict[str, Any]:
        """All that decides the latency of a space's networks, as JSON; the times as a digest."""
        times = [f"{component}: {self.table.times.get(component)}" for component in sorted(self.components(space))]
        return {
            "device": str(self.table.device),
            "front_end": self._front_end_name,
            "seconds": self.seconds,
            "batch": self.batch,
            "times": hashlib.sha256("\n".join(times).encode()).hexdigest()[:12],
        }

    def _components(self, config: Mapping[str, Any]) -> dict[Component, int]:
        return count_components(_with_classes(config), self.front_end, self.seconds, self.batch)

    def _profile_command(self) -> str:
        """The command that completes the table."""
        device = self.table.device
        words = ["weakaudio search profile -o TABLE", f"--front-end {self._front_end_name}"]
        words += [f"--seconds {self.seconds!r}", f"--batch {self.batch}", f"--device {device.kind}"]
        words += [f"--threads {device.threads}"] if device.threads else []
        words += ["--graphs"] if device.graphs else []
        words += ["--int8"] if device.onnxruntime else []
        return " ".join(words)

    @property
    def _front_end_name(self) -> str:
        return self.front_end if isinstance(self.front_end, str) else self.front_end.name


def _with_classes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "n_classes": N_CLASSES}


# --- validation on whole networks


@dataclass(frozen=True, eq=False)
class Validation:
    """Predicted and measured latency of whole networks."""

    configs: list[dict[str, Any]]
    predicted: NDArray[np.float64]
    """(n,) seconds of the network, without the front end"""
    measured: NDArray[np.float64]
    """(n,) seconds"""

    @property
    def errors(self) -> NDArray[np.float64]:
        """(n,) relative errors, predicted / measured - 1"""
        return self.predicted / self.measured - 1

    @property
    def median(self) -> float:
        """Median absolute relative error"""
        return float(np.median(np.abs(self.errors)))

    @property
    def percentile_90(self) -> float:
        """90th percentile of the absolute relative error"""
        return float(np.quantile(np.abs(self.errors), 0.9))

    @property
    def factor(self) -> float:
        """Median of predicted / measured: the error that all networks share, as when a device becomes slower"""
        return float(np.median(self.predicted / self.measured))

    @property
    def median_beside_factor(self) -> float:
        """Median absolute relative error of predictions divided by `factor`: what disturbs a comparison"""
        return float(np.median(np.abs((1 + self.errors) / self.factor - 1)))

    def __str__(self) -> str:
        return (
            f"{len(self.configs)} networks: relative error of the predicted latency {self.median:.1%} (median), "
            f"{self.percentile_90:.1%} (90th percentile); {self.median_beside_factor:.1%} (median) after a common "
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
    """Measure whole networks, such as those of `random_configs`, and compare them with their predicted latency.

    The front end is left out: it is a single component, and is measured as a whole. Arguments as for
    `count_components`.

    Parameters
    ----------
    measure
        Gives the seconds of a network; None: run it on the table's device.

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
        device, threads, graphs = device_of(table), table.device.threads, table.device.graphs
        measure = (
            partial(measure_network, shape=shape, dtype=dtype, device=device, graphs=graphs)
            if table.device.onnxruntime is None
            else lambda config: measure_int8_network(config, front_end, seconds, batch, threads)
        )
    whole = [{**config, "n_mels": shape[2]} for config in configs]
    with use_threads(table.device.threads):
        measured = [measure(config) for config in progress(whole, len(whole), "validating")]
    return Validation([dict(config) for config in configs], np.array(predicted), np.array(measured))


def random_configs(
    n: int = 30,
    seed: int = 0,
    n_classes: int = N_CLASSES,
    n_mels: int = 128,
    space: SearchSpace | None = None,
    runs: Callable[[Mapping[str, Any]], bool] = lambda config: True,
) -> list[dict[str, Any]]:
    """Draw distinct networks uniformly from a space; None: the default space.

    Parameters
    ----------
    runs
        Whether the device can run a network; one that it cannot is replaced by another.

    Raises
    ------
    WeakAudioError
        The space does not have that many.
    """
    space = space or SearchSpace().with_operators(set(OPERATORS))
    drawn = _distinct(space, n, np.random.default_rng(seed), runs)
    return [{**config, "n_classes": n_classes, "n_mels": n_mels} for config in drawn]


def _distinct(
    space: SearchSpace, n: int, rng: np.random.Generator, runs: Callable[[Mapping[str, Any]], bool]
) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for _ in range(100 * n):
        drawn = space.random(rng)
        if len(seen) < n and drawn.key not in seen and runs(drawn.to_config()):
            seen.add(drawn.key)
            yield drawn.to_config()
    if len(seen) < n:
        raise WeakAudioError(f"{n} distinct networks: the space has no more than about {len(seen)}")
