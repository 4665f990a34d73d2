"""Measurement of a `FlashCNN`'s components in 8 bits on ONNX Runtime.

The runtime chooses layouts, fuses nodes and converts between types by context, so that a component cannot be measured
alone. Whole networks run under the runtime's profiler, and each node's time counts for a component: by the node's
name, or, for nodes that the runtime inserted, for the component that ran before. Profiling costs each node some
microseconds, whatever it computes: a recurrence has hundreds of small nodes, a convolution a few. So the difference
between all nodes together and the network without the profiler is spread evenly over the nodes. The front end runs on
torch, as in `weakaudio.nas.profile`.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weakaudio.audio.frontend import FrontEnd, get_front_end
from weakaudio.deploy.benchmark import WARM_UP, Job, time_rounds
from weakaudio.deploy.export import export_onnx
from weakaudio.deploy.onnx_file import package, runtime_errors
from weakaudio.deploy.onnx_tagger import INPUTS, OUTPUTS, OnnxTagger, session_options
from weakaudio.deploy.quantize import quantize
from weakaudio.errors import WeakAudioError
from weakaudio.memory import keep_memory
from weakaudio.nas.components import Component, count_components, logmel_shape, named_components
from weakaudio.networks.flash import FlashCNN
from weakaudio.networks.model import Model

_CLIPS, _CLIP_SECONDS = 2, 2.0  # of noise, to calibrate ranges
_RUNS = (15, 500)  # at least, at most
_SECONDS = 1.0  # of runs: the median of shorter ones varies by as much as components differ
_MODULE = re.compile(r"[/.](entries\.\d+|stages\.\d+\.\d+|last|classifier)(?=[/._])")  # in names of nodes

ProfilerEvent = Mapping[str, Any]
"""An entry of the file that ONNX Runtime's profiler writes."""


class NodeTimes(NamedTuple):
    """The nodes of one module in one run."""

    number: int
    seconds: float


class Int8Profiler:
    """Measures networks that contain a component; a call gives the component's seconds, the mean over these.

    Where all of them fail, perhaps because of another component, variants of the first with its channels are tried.

    Parameters
    ----------
    configs
        Networks that contain, together, all components that will be asked for.
    front_end, seconds, batch
        As for `count_components`.
    threads
        Of ONNX Runtime.
    measure
        Gives the seconds of a network's components in 8 bits; None: `measure_int8_components`.

    Raises
    ------
    WeakAudioError
        onnx or onnxruntime are missing.
    """

    def __init__(
        self,
        configs: Sequence[Mapping[str, Any]],
        front_end: FrontEnd | str,
        seconds: float,
        batch: int,
        threads: int | None,
        measure: Callable[[Mapping[str, Any]], dict[Component, float]] | None = None,
    ) -> None:
        for name in ("onnx", "onnxruntime"):  # otherwise every component would be recorded as one that cannot run
            package(name)
        self._measure = measure or (
            lambda config: measure_int8_components(config, front_end, seconds, batch, threads)
        )
        self._clips = front_end, seconds, batch
        self._networks = [(config, count_components(config, *self._clips).keys()) for config in configs]
        self._found: dict[str, dict[Component, float] | Exception] = {}  # by the network, as JSON

    def __call__(self, component: Component) -> float:
        """
        Raises
        ------
        WeakAudioError
            No network contains the component, or none that does can run in 8 bits.
        """
        containing = [config for config, components in self._networks if component in components]
        if not containing or component.kind == "front end":
            raise WeakAudioError(f"in 8 bits: {component}: no network of those given has it")
        times = [found[component] for found in map(self._times, containing) if not isinstance(found, Exception)]
        if times:
            return float(np.mean(times))
        reason: Exception | None = None
        first = containing[0]
        for config in (*self._with_one_operator(first, component), self._without_blocks(first, component)):
            found = self._times(config)
            if not isinstance(found, Exception):
                return found[component]
            reason = found
        raise WeakAudioError(f"in 8 bits: {reason}") from reason  # of the last variant, which has no other block

    def _times(self, config: Mapping[str, Any]) -> dict[Component, float] | Exception:
        """Seconds of a network's components, or why it fails."""
        name = json.dumps(config, sort_keys=True)
        if name not in self._found:
            try:
                self._found[name] = self._measure(config)
            except (WeakAudioError, RuntimeError, ValueError) as error:
                self._found[name] = error
        return self._found[name]

    def _with_one_operator(self, config: Mapping[str, Any], component: Component) -> list[Mapping[str, Any]]:
        """The network with a single operator throughout: a block's own, or each of the network's in turn."""
        operators = [component.operator] if component.kind == "block" else _operators(config)
        return [
            {**config, "stages": [[operator, count, width] for _, count, width in config["stages"]]}
            for operator in operators
        ]

    def _without_blocks(self, config: Mapping[str, Any], component: Component) -> Mapping[str, Any]:
        """The network without blocks, except for the component if it is one."""
        stages = [[_operators(config)[0], 0, width] for _, _, width in config["stages"]]
        if component.kind == "block":
            names = {found: name for name, found in named_components(config, *self._clips).items()}
            stages[int(names[component].split(".")[1])][:2] = [component.operator, 1]
        return {**config, "stages": stages}


def _operators(config: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for names, _, _ in config["stages"] for name in names.split("+")))


def measure_int8_components(
    config: Mapping[str, Any], front_end: FrontEnd | str, seconds: float, batch: int, threads: int | None
) -> dict[Component, float]:
    """Measure each component of a network of random weights in 8 bits, without the front end: medians over runs.

    They add up to the network's time without the profiler, unless one of them would be negative.

    Raises
    ------
    WeakAudioError
        The network cannot be exported or run, ONNX Runtime's profile does not name all of its components, or onnx or
        onnxruntime are missing.
    """
    keep_memory()  # as `weakaudio.nas.profile` does
    with tempfile.TemporaryDirectory() as folder:
        path, logmel = _int8_file(config, front_end, Path(folder)), _logmel(front_end, seconds, batch)
        whole = _time_file(path, logmel, threads)
        runs = _profile(path, logmel, threads)
    components = named_components(config, front_end, seconds, batch)
    del components["logmel"]
    unnamed = [name for name in components if not runs or any(name not in run for run in runs)]
    if unnamed:  # it would be free
        version = package("onnxruntime").__version__
        raise WeakAudioError(f"ONNX Runtime {version} profiles no node of {', '.join(unnamed)}")
    profiled = {name: float(np.median([run[name].seconds for run in runs])) for name in components}
    numbers = {name: runs[0][name].number for name in components}
    overhead = (sum(profiled.values()) - whole) / sum(numbers.values())  # seconds per node
    found: dict[Component, list[float]] = {}
    for name, component in components.items():
        found.setdefault(component, []).append(profiled[name] - numbers[name] * overhead)
    return {component: max(float(np.mean(times)), 0.0) for component, times in found.items()}


def measure_int8_network(
    config: Mapping[str, Any], front_end: FrontEnd | str, seconds: float, batch: int, threads: int | None
) -> float:
    """Measure the seconds of a whole network of random weights in 8 bits, from log-mels to probabilities.

    Raises
    ------
    WeakAudioError
        As `measure_int8_components`.
    """
    keep_memory()  # as `weakaudio.nas.profile` does
    with tempfile.TemporaryDirectory() as folder:
        path = _int8_file(config, front_end, Path(folder))
        return _time_file(path, _logmel(front_end, seconds, batch), threads)


def _time_file(path: Path, logmel: NDArray[np.float32], threads: int | None) -> float:
    """Median seconds of a file on log-mels."""
    tagger = OnnxTagger(path, threads)
    return float(np.median(_time_runs(lambda: tagger.scores(logmel))))


def _time_runs(job: Job) -> NDArray[np.float64]:
    return time_rounds([job], torch.device("cpu"), _SECONDS, rounds=_RUNS)[:, 0]


def _profile(path: Path, logmel: NDArray[np.float32], threads: int | None) -> list[dict[str, NodeTimes]]:
    """The nodes of each module, by the names of `named_components`, in each of several runs after warm-up."""
    options = session_options(threads)
    options.enable_profiling, options.profile_file_prefix = True, str(path.with_name("profile"))
    with runtime_errors(path.name):
        session = package("onnxruntime").InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        _time_runs(lambda: session.run(list(OUTPUTS), {INPUTS["outside"]: logmel}))
    return split_runs(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))[WARM_UP:]


def split_runs(events: Sequence[ProfilerEvent]) -> list[dict[str, NodeTimes]]:
    """Sum the profiler's events by module, for each run of the network."""
    runs: list[dict[str, NodeTimes]] = []
    module = ""
    for event in sorted(events, key=lambda event: (event["ts"], event["name"] != "model_run")):
        if event["name"] == "model_run":
            runs.append({})
            module = "entries.0"
        elif event.get("cat") == "Node" and runs:
            named = _MODULE.search(event["name"])
            if named:
                module = named[1]
            elif module == "last" and not event["name"].startswith("/Relu"):
                module = "classifier"  # after `last` and its ReLU, which the network itself calls, comes the head
            number, total = runs[-1].get(module, NodeTimes(0, 0.0))
            runs[-1][module] = NodeTimes(number + 1, total + event["dur"] / 1e6)
    return runs


def _int8_file(config: Mapping[str, Any], front_end: FrontEnd | str, folder: Path) -> Path:
    fe = get_front_end(front_end) if isinstance(front_end, str) else front_end
    with torch.random.fork_rng(devices=[]):  # random weights leave the caller's seed untouched
        torch.manual_seed(0)
        network = FlashCNN(**{**config, "n_mels": fe.n_mels}).eval()
        for layer in network.modules():
            # Equal tensors become one in a file, and a bias that two layers share has no scale in 8 bits.
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.bias, std=0.1)
    labels = [str(n) for n in range(network.config["n_classes"])]
    noise = np.random.default_rng(0).normal(0.0, 0.1, (_CLIPS, round(_CLIP_SECONDS * fe.sample_rate)))
    float32, int8 = folder / "float32.onnx", folder / "int8.onnx"
    try:
        export_onnx(Model(network, fe, labels), float32, "outside")
        quantize(float32, int8, list(noise.astype(np.float32)))
    except WeakAudioError as error:  # without the name of a scratch folder
        raise WeakAudioError(str(error).replace(f"{folder}/", "")) from error
    return int8


def _logmel(front_end: FrontEnd | str, seconds: float, batch: int) -> NDArray[np.float32]:
    shape = logmel_shape(front_end, seconds, batch)
    return np.random.default_rng(0).standard_normal(shape, np.float32)
