"""Measurement of a `FlashCNN`'s components on a device.

A search asks for the latency of thousands of networks and cannot run them all; but they are made of a few hundred
components, each of which is measured once. A component alone, run again and again on the same input, takes another
time than inside a network. Therefore:

- *The input* has just been written: each timed run begins with a pass that writes it.
- *The overhead of a call* (Python, inference mode, waiting for a GPU) occurs once per network, not once per
  component. So a component's time is what it adds to that pass; a block's is a third of what a chain of three adds.
  The overhead itself is part of the component "head", a whole network whose convolutions are replaced by their
  outputs.
- *The weights* have left the cache since the last clip. The blocks of a chain have separate weights, and before each
  run as much memory is read and written as the weights of a network take.
- *Memory* that is returned to the system and requested again costs more than some layers, depending on what was freed
  before (`weakaudio.memory.keep_memory`).
- *The machine* slows down at times: runs that are subtracted from one another are interleaved, and the median of
  their differences counts.

`weakaudio.nas.latency_model.validate` measures the error that is left, on whole random networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weakaudio.audio.frontend import FrontEnd, LogMel, get_front_end
from weakaudio.deploy.benchmark import Job, time_rounds, use_threads
from weakaudio.deploy.cuda_graphs import capture
from weakaudio.errors import WeakAudioError
from weakaudio.memory import keep_memory
from weakaudio.nas.components import Component, count_components, sample_count
from weakaudio.nas.int8_profile import Int8Profiler
from weakaudio.nas.latency_table import LatencyTable, device_here
from weakaudio.networks.flash import FlashCNN
from weakaudio.networks.layers import clear
from weakaudio.networks.runtime import find_device
from weakaudio.progress import progress

_CHAIN = 3  # blocks
# Bytes read and written before each run: 6 million weights, where random networks have 4.7 million on average (1 to
# 14). Chosen by outcome: with 16 MB, sums for single clips of 10 s came out 10 % too low, with 24 MB 2 %, with 48 MB
# 16 % too high: medians of interleaved measurements, on a processor with 32 MB of cache.
_SWEEP = 24 << 20
_NARROW = ("dense", 0, 1)  # a stage that costs nothing to build
_SHRINK = 32  # frames and mels per row and mel of the last map

Measure = Callable[[Component], float]
"""Gives the seconds of a component; raises where the device cannot run it."""


def complete(
    table: LatencyTable,
    configs: Sequence[Mapping[str, Any]],
    front_end: FrontEnd | str,
    seconds: float,
    batch: int,
    dtype: str = "float32",
    path: str | Path | None = None,
    measure: Measure | None = None,
) -> int:
    """Measure the components of networks that a table lacks; returns their number. Arguments as for
    `count_components`.

    A component that the device cannot run is recorded with its error and not tried again.

    Parameters
    ----------
    path
        Where the table is saved after each component, so that a killed run resumes.
    measure
        None: `measure_component`, or `Int8Profiler` for a table in 8 bits.

    Raises
    ------
    WeakAudioError
        As `count_components`; the table is of another device; a table in 8 bits with a dtype other than float32, in
        which the rest of the network computes.
    """
    if table.device.onnxruntime is not None and dtype != "float32":
        raise WeakAudioError(f"latency table in 8 bits: dtype {dtype}, expected float32")
    wanted = [c for config in configs for c in count_components(config, front_end, seconds, batch, dtype)]
    missing = [c for c in dict.fromkeys(wanted) if c not in table.times and c not in table.errors]
    if not missing:
        return 0
    measure = measure or _measure(table, configs, front_end, seconds, batch)
    with use_threads(table.device.threads):
        for component in progress(missing, len(missing), "measuring"):
            try:
                table.times[component] = measure(component)
            except (WeakAudioError, RuntimeError, ValueError) as error:
                table.errors[component] = (str(error) or type(error).__name__).splitlines()[0]
            if path is not None:
                table.save(path)
    return len(missing)


def _measure(
    table: LatencyTable, configs: Sequence[Mapping[str, Any]], front_end: FrontEnd | str, seconds: float, batch: int
) -> Measure:
    on_torch = partial(measure_component, device=device_of(table), graphs=table.device.graphs)
    if table.device.onnxruntime is None:
        return on_torch
    in_8_bits = Int8Profiler(configs, front_end, seconds, batch, table.device.threads)
    return lambda component: on_torch(component) if component.kind == "front end" else in_8_bits(component)


def device_of(table: LatencyTable) -> torch.device:
    """The device on which a table's times are measured.

    Raises
    ------
    WeakAudioError
        This machine does not have it.
    """
    try:
        here = device_here(table.device)
    except WeakAudioError as error:
        raise WeakAudioError(f"latency table of {table.device}: cannot be completed here: {error}") from error
    if here != table.device:
        raise WeakAudioError(f"latency table of {table.device}: cannot be completed on {here}")
    return find_device(table.device.kind)


def measure_component(component: Component, device: torch.device, graphs: bool = False, budget: float = 0.5) -> float:
    """Measure the seconds of a component, fused and channels-last, as if inside a network; see above.

    Parameters
    ----------
    graphs
        Replay it from CUDA graphs.
    budget
        Seconds to spend on timed rounds; seven are made even if they take longer.

    Raises
    ------
    WeakAudioError, RuntimeError, ValueError
        The component cannot be built, or the device cannot run it.
    """
    keep_memory()
    sweep = torch.zeros(_SWEEP // 4, device=device)
    with torch.inference_mode():
        jobs, count = _jobs(component, device, graphs)
        jobs = [capture(job, device) if graphs else job for job in jobs]
        rounds = time_rounds(jobs, device, budget, before=lambda: sweep.add_(1.0))
    return component_seconds(rounds, count)


def component_seconds(rounds: NDArray[np.float64], count: int) -> float:
    """Seconds of a component, from times (rounds, 1) of it alone, or (rounds, 2) without and with `count` of it."""
    more = rounds[:, -1] - rounds[:, 0] if rounds.shape[1] == 2 else rounds[:, 0]
    return max(float(np.median(more)) / count, 0.0)


def _jobs(component: Component, device: torch.device, graphs: bool) -> tuple[list[Job], int]:
    """A component alone, or a pass without it and one with several of it; and how many that are."""
    kind, _, inputs, _, rows, mels, batch, seconds, dtype = component
    if kind == "front end":
        logmel = LogMel(get_front_end(component.operator)).to(device)
        noise = 0.1 * _random(device, batch, sample_count(logmel.front_end, seconds))
        return [lambda: logmel(noise)], 1

    half = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16", cache_enabled=not graphs)
    if kind == "head":
        network = _without_convolutions(component, device)
        frames = _random(device, batch, _SHRINK * rows, _SHRINK)

        def head() -> None:
            with half:
                network(frames)

        return [head], 1

    chain = _chain(component, device, graphs)
    x = _random(device, batch, inputs, rows, mels).to(memory_format=torch.channels_last)
    if kind != "stem" and dtype == "bfloat16":
        x = x.bfloat16()

    def without() -> None:
        with half:
            x.clamp_min(0.0)

    def with_chain() -> None:
        with half:
            y = x.clamp_min(0.0)
            for step in chain:
                y = step(y)

    return [without, with_chain], len(chain)


def _chain(component: Component, device: torch.device, graphs: bool) -> list[Callable[[Tensor], Tensor]]:
    """A component as `FlashCNN` calls it; for a block several with separate weights, each on the last one's
    output."""
    # A graph serves clips that fill their rows and others, so it always clears.
    lengths = torch.full((component.batch,), component.rows, device=device) if graphs else None

    def entry(layer: nn.Module, stride: int) -> list[Callable[[Tensor], Tensor]]:
        after = None if lengths is None else -(-lengths // stride)
        return [lambda x: clear(layer(x).relu_(), after)]

    kind, operator, inputs, outputs, _, mels, *_ = component
    if kind == "stem":
        return entry(_build(device, [("dense", 0, outputs), *[_NARROW] * 3]).entries[0], 4)
    if kind == "entry":
        stages = [("dense", 0, inputs), ("dense", 0, outputs), _NARROW, _NARROW]
        return entry(_build(device, stages).entries[1], 2)
    if kind == "last":
        network = _build(device, [*[_NARROW] * 3, ("dense", 0, inputs)], mels, outputs)
        return [lambda x: network.last(x).relu_()]
    blocks = _build(device, [*[_NARROW] * 3, (operator, _CHAIN, inputs)], mels).stages[3]
    assert isinstance(blocks, nn.ModuleList)
    return [partial(block, lengths=lengths) for block in blocks]


def _build(
    device: torch.device, stages: Sequence[tuple[str, int, int]], mels: int = 1, features: int = 1, classes: int = 1
) -> FlashCNN:
    """A fused network whose last stage has `mels` mels."""
    return _fused({"n_classes": classes, "n_mels": _SHRINK * mels, "stages": stages, "n_features": features}, device)


def _fused(config: Mapping[str, Any], device: torch.device) -> FlashCNN:
    with torch.random.fork_rng(devices=[]):  # random weights leave the caller's seed untouched
        network = FlashCNN(**config).eval()
    network.fuse()
    return network.to(device)


def _random(device: torch.device, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)


class _Constant(nn.Module):
    """Returns what the layer that it replaces would."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        return self.output


def _without_convolutions(head: Component, device: torch.device) -> FlashCNN:
    network = _build(device, [_NARROW] * 4, features=head.inputs, classes=head.outputs)
    maps = [_Constant(_random(device, head.batch, 1, head.rows, 1)) for _ in network.entries]
    network.entries = nn.ModuleList(maps)
    embeddings = _random(device, head.batch, head.inputs, head.rows, 1)
    network.last = _Constant(embeddings.to(getattr(torch, head.dtype)))  # type: ignore[assignment]
    return network


def measure_network(
    config: Mapping[str, Any],
    shape: tuple[int, int, int],
    dtype: str,
    device: torch.device,
    graphs: bool = False,
    budget: float = 1.0,
) -> float:
    """Measure the seconds of a whole fused `FlashCNN` on log-mels of shape (B, T, F)."""
    keep_memory()
    network, logmel = _fused(config, device), _random(device, *shape)
    half = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16", cache_enabled=not graphs)

    def run() -> None:
        with half:
            network(logmel)

    with torch.inference_mode():
        rounds = time_rounds([capture(run, device) if graphs else run], device, budget)
    return float(np.median(rounds))
