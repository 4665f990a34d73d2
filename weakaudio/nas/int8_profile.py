"""How long the pieces of a `FlashCNN` take in 8 bits on ONNX Runtime.

There a piece alone is another thing than inside of a network: the runtime lays out, joins and converts by what is
around it. So whole networks run under the runtime's own profiler, and each node's time goes to its piece: by the
node's name, or, for nodes that the runtime put in, to the piece that ran before. Profiling costs each node some
microseconds, whatever it computes: the hundreds of small ones of a recurrence as much as a convolution's few. So what
nodes take more, together, than the network does without the profiler, is taken off all of them alike. The front end
is torch's, as in `weakaudio.nas.profile`.
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
from weakaudio.nas.components import Key, logmel_shape, named_pieces, pieces
from weakaudio.networks.flash import FlashCNN
from weakaudio.networks.model import Model

_CLIPS, _CLIP_SECONDS = 2, 2.0  # of noise, to find ranges by
_RUNS = (15, 500)  # at least, at most
_SECONDS = 1.0  # of runs: the median of shorter ones differs by as much as pieces do
_MODULE = re.compile(r"[/.](entries\.\d+|stages\.\d+\.\d+|last|classifier)(?=[/._])")  # in names of nodes

Event = Mapping[str, Any]
"""What ONNX Runtime's profiler writes of one thing that happened."""


class Nodes(NamedTuple):
    """Those of one module in one run."""

    number: int
    seconds: float


class _Network(NamedTuple):
    config: Mapping[str, Any]
    keys: set[Key]


class Int8Pieces:
    """Measures networks that have a piece; a call gives its seconds, their mean.

    Where all of them fail, which may be by another piece, others of the first one's channels are tried.

    Parameters
    ----------
    configs
        Of networks that have, together, all pieces that will be asked for.
    front_end, seconds, batch
        As for `pieces`.
    threads
        Of ONNX Runtime.
    measure
        Seconds of a network's pieces in 8 bits; instead of `measure_network_pieces`.

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
        measure: Callable[[Mapping[str, Any]], dict[Key, float]] | None = None,
    ) -> None:
        for name in ("onnx", "onnxruntime"):  # else each piece would seem to be one that cannot run
            package(name)
        self._measure = measure or (lambda config: measure_network_pieces(config, front_end, seconds, batch, threads))
        self._clips = front_end, seconds, batch
        self._networks = [_Network(config, self._keys(config)) for config in configs]
        self._found: dict[str, dict[Key, float] | Exception] = {}  # by the network, as JSON

    def __call__(self, key: Key) -> float:
        """
        Raises
        ------
        WeakAudioError
            No network has the piece, or none that has it can run in 8 bits.
        """
        having = [network.config for network in self._networks if key in network.keys]
        if not having:
            raise WeakAudioError(f"in 8 bits: {key}: no network of those given has it")
        times = [found[key] for found in map(self._pieces, having) if not isinstance(found, Exception)]
        if times:
            return float(np.mean(times))
        reason: Exception | None = None
        for config in (*self._of_one_operator(having[0], key), self._bare(having[0], key)):
            found = self._pieces(config)
            if not isinstance(found, Exception):
                return found[key]
            reason = found
        raise WeakAudioError(f"in 8 bits: {reason}") from reason  # of the bare one, which has no other block

    def _pieces(self, config: Mapping[str, Any]) -> dict[Key, float] | Exception:
        """Seconds of a network's pieces, or why it fails."""
        name = _as_json(config)
        if name not in self._found:
            try:
                self._found[name] = self._measure(config)
            except (WeakAudioError, RuntimeError, ValueError) as error:
                self._found[name] = error
        return self._found[name]

    def _of_one_operator(self, config: Mapping[str, Any], key: Key) -> list[Mapping[str, Any]]:
        """As a network, but with one operator, which is that of the piece if it has one."""
        operators = [key.operator] if key.piece == "block" else _operators(config)
        return [
            {**config, "stages": [[operator, count, width] for _, count, width in config["stages"]]}
            for operator in operators
        ]

    def _bare(self, config: Mapping[str, Any], key: Key) -> Mapping[str, Any]:
        """As a network, but without blocks: with the piece alone, if it is one."""
        stages = [[_operators(config)[0], 0, width] for _, _, width in config["stages"]]
        if key.piece == "block":
            parts = {piece: part for part, piece in named_pieces(config, *self._clips).items()}
            stages[int(parts[key].split(".")[1])][:2] = [key.operator, 1]
        return {**config, "stages": stages}

    def _keys(self, config: Mapping[str, Any]) -> set[Key]:
        return {key for key in pieces(config, *self._clips) if key.piece != "front end"}


def _operators(config: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for names, _, _ in config["stages"] for name in names.split("+")))


def measure_network_pieces(
    config: Mapping[str, Any], front_end: FrontEnd | str, seconds: float, batch: int, threads: int | None
) -> dict[Key, float]:
    """Seconds of each piece of a network of random weights in 8 bits, but for the front end: medians over runs.

    They add up to what the network takes without the profiler, unless a piece would take less than nothing.

    Raises
    ------
    WeakAudioError
        The network cannot be exported or run, ONNX Runtime's profile does not name all of its pieces, or onnx or
        onnxruntime are missing.
    """
    keep_memory()  # as `weakaudio.nas.profile` does
    with tempfile.TemporaryDirectory() as folder:
        path, logmel = _int8_file(config, front_end, Path(folder)), _logmel(front_end, seconds, batch)
        whole = _timed(path, logmel, threads)
        runs = _profiled(path, logmel, threads)
    parts = named_pieces(config, front_end, seconds, batch)
    del parts["logmel"]
    unnamed = [part for part in parts if not runs or any(part not in run for run in runs)]
    if unnamed:  # it would be free
        raise WeakAudioError(f"ONNX Runtime {_version()} profiles no node of {', '.join(unnamed)}")
    profiled = {part: float(np.median([run[part].seconds for run in runs])) for part in parts}
    numbers = {part: runs[0][part].number for part in parts}
    profiling = (sum(profiled.values()) - whole) / sum(numbers.values())  # seconds a node
    found: dict[Key, list[float]] = {}
    for part, key in parts.items():
        found.setdefault(key, []).append(profiled[part] - numbers[part] * profiling)
    return {key: max(float(np.mean(times)), 0.0) for key, times in found.items()}


def _profiled(path: Path, logmel: NDArray[np.float32], threads: int | None) -> list[dict[str, Nodes]]:
    """The nodes of each module, by the names of `named_pieces`, in each of several runs."""
    options = session_options(threads)
    options.enable_profiling, options.profile_file_prefix = True, str(path.with_name("profile"))
    with runtime_errors(path.name):
        session = package("onnxruntime").InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        _time_runs(lambda: session.run(list(OUTPUTS), {INPUTS["outside"]: logmel}))
    return split_runs(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))[WARM_UP:]


def _time_runs(job: Job) -> NDArray[np.float64]:
    """Seconds of each of several runs, after some to warm up."""
    return time_rounds([job], torch.device("cpu"), _SECONDS, rounds=_RUNS)[:, 0]


def split_runs(events: Sequence[Event]) -> list[dict[str, Nodes]]:
    """What ONNX Runtime's profiler wrote, as the nodes of modules in each run."""
    runs: list[dict[str, Nodes]] = []
    part = ""
    for event in sorted(events, key=lambda event: (event["ts"], event["name"] != "model_run")):
        if event["name"] == "model_run":
            runs.append({})
            part = "entries.0"
        elif event.get("cat") == "Node" and runs:
            named = _MODULE.search(event["name"])
            if named:
                part = named[1]
            elif part == "last" and not event["name"].startswith("/Relu"):
                part = "classifier"  # behind `last` and its ReLU, which the network itself calls, comes the head
            number, total = runs[-1].get(part, Nodes(0, 0.0))
            runs[-1][part] = Nodes(number + 1, total + event["dur"] / 1e6)
    return runs


def measure_int8_network(
    config: Mapping[str, Any], front_end: FrontEnd | str, seconds: float, batch: int, threads: int | None
) -> float:
    """Seconds of a whole network of random weights in 8 bits, from log-mels to probabilities.

    Raises
    ------
    WeakAudioError
        As `measure_network_pieces`.
    """
    keep_memory()  # as `weakaudio.nas.profile` does
    with tempfile.TemporaryDirectory() as folder:
        path = _int8_file(config, front_end, Path(folder))
        return _timed(path, _logmel(front_end, seconds, batch), threads)


def _timed(path: Path, logmel: NDArray[np.float32], threads: int | None) -> float:
    """Seconds of a file on log-mels, the median of several runs."""
    tagger = OnnxTagger(path, threads)
    return float(np.median(_time_runs(lambda: tagger.scores(logmel))))


def _int8_file(config: Mapping[str, Any], front_end: FrontEnd | str, folder: Path) -> Path:
    fe = get_front_end(front_end) if isinstance(front_end, str) else front_end
    with torch.random.fork_rng(devices=[]):  # weights are drawn, the caller's seed stays
        torch.manual_seed(0)
        network = FlashCNN(**{**config, "n_mels": fe.n_mels}).eval()
        for layer in network.modules():
            # Equal tensors become one in a file, and a bias that two layers share has no scale in 8 bits.
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.bias, std=0.1)
    labels = [str(n) for n in range(network.config["n_classes"])]
    noise = np.random.default_rng(0).normal(0.0, 0.1, (_CLIPS, round(_CLIP_SECONDS * fe.sample_rate)))
    whole, small = folder / "float32.onnx", folder / "int8.onnx"
    try:
        export_onnx(Model(network, fe, labels), whole, "outside")
        quantize(whole, small, list(noise.astype(np.float32)))
    except WeakAudioError as error:  # of files that nobody will see
        raise WeakAudioError(str(error).replace(f"{folder}/", "")) from error
    return small


def _version() -> str:
    return str(package("onnxruntime").__version__)


def _as_json(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def _logmel(front_end: FrontEnd | str, seconds: float, batch: int) -> NDArray[np.float32]:
    shape = logmel_shape(front_end, seconds, batch)
    return np.random.default_rng(0).standard_normal(shape, np.float32)
