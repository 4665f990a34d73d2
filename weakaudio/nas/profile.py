"""How long the pieces of a `FlashCNN` take on a device.

A search asks for the latency of thousands of networks and cannot run them all; but they are made of a few hundred
pieces, each of which is measured once and then added up. A piece by itself, run again and again on the same input,
takes another time than inside of a network, so it is not measured like that:

- *Its input* was written just before. So each run begins with a pass that writes it.
- *What every call costs* (Python, inference mode, waiting for a GPU) is there once in a network, but would be counted
  with each piece. So a piece takes what it adds to that pass: a block a third of what a chain of three adds. The
  costs of a call are in the piece "head", which is a whole network whose convolutions are replaced by what they give.
- *Its weights* were not used since the last clip, and in between went the weights of the others. The blocks of a
  chain have weights of their own, and before each run as much memory is gone through as those of a network take.
- *Memory* that is given back and asked for anew costs more than some layers, by what was freed before
  (`weakaudio.memory.keep_memory`).
- *The machine* slows down at times. What is subtracted runs in turns, and the median of the differences counts.

What is left is told by `weakaudio.nas.latency_model.validate`, on whole random networks.
"""

from __future__ import annotations

from collections import Counter
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
from weakaudio.inference.embedder import find_device
from weakaudio.memory import keep_memory
from weakaudio.nas.components import Key, pieces, sample_count
from weakaudio.nas.int8_profile import Int8Pieces
from weakaudio.nas.latency_table import LatencyTable, at_hand
from weakaudio.networks.flash import FlashCNN
from weakaudio.networks.layers import clear
from weakaudio.progress import progress

_CHAIN = 3  # blocks
# Bytes gone through before each run: 6 million weights, where random networks have 4.7 million on average (1 to 14).
# It is chosen by outcome. With 16 MB sums of single clips of 10 s came out 10 % too low, with 24 MB 2 %, with 48 MB
# 16 % too high: medians of tables that were measured in turns, on a processor with 32 MB of cache.
_SWEEP = 24 << 20
_NARROW = ("dense", 0, 1)  # a stage that costs nothing to build
_SHRINK = 32  # frames and mels for a row of the last map

Measure = Callable[[Key], float]
"""Seconds of a piece; raises where the device cannot run it."""


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
    """Measure the pieces of networks that a table lacks; says how many. Arguments as for `pieces`.

    What the device cannot run is recorded with its error and not tried again.

    Parameters
    ----------
    path
        The table is saved there after each piece, so that a killed run need not begin anew.
    measure
        Instead of `measure_piece`, or, in 8 bits, `Int8Pieces`.

    Raises
    ------
    WeakAudioError
        As `pieces`; the table is of another device; one in 8 bits of another dtype than float32, in which the rest
        of a network is.
    """
    if table.device.onnxruntime is not None and dtype != "float32":
        raise WeakAudioError(f"latency table in 8 bits: dtype {dtype}, expected float32")
    wanted = Counter(key for config in configs for key in pieces(config, front_end, seconds, batch, dtype))
    missing = [key for key in wanted if key not in table.times and key not in table.errors]
    if not missing:
        return 0
    measure = measure or _measure(table, configs, front_end, seconds, batch)
    with use_threads(table.device.threads):
        for key in progress(missing, len(missing), "measuring"):
            try:
                table.times[key] = measure(key)
            except (WeakAudioError, RuntimeError, ValueError) as error:
                table.errors[key] = (str(error) or type(error).__name__).splitlines()[0]
            if path is not None:
                table.save(path)
    return len(missing)


def _measure(
    table: LatencyTable, configs: Sequence[Mapping[str, Any]], front_end: FrontEnd | str, seconds: float, batch: int
) -> Measure:
    """How pieces are measured on a table's device."""
    alone = partial(measure_piece, device=device_of(table), graphs=table.device.graphs)
    if table.device.onnxruntime is None:
        return alone
    in_networks = Int8Pieces(configs, front_end, seconds, batch, table.device.threads)
    return lambda key: alone(key) if key.piece == "front end" else in_networks(key)


def device_of(table: LatencyTable) -> torch.device:
    """Where a table's times are measured.

    Raises
    ------
    WeakAudioError
        That is not here.
    """
    try:
        here = at_hand(table.device)
    except WeakAudioError as error:
        raise WeakAudioError(f"latency table of {table.device}: cannot be completed here: {error}") from error
    if here != table.device:
        raise WeakAudioError(f"latency table of {table.device}: cannot be completed on {here}")
    return find_device(table.device.kind)


def measure_piece(key: Key, device: torch.device, graphs: bool = False, budget: float = 0.5) -> float:
    """Seconds of a piece, fused and channels-last, as inside of a network; see above.

    Parameters
    ----------
    graphs
        Replay it from CUDA graphs.
    budget
        Seconds to spend, of runs; seven are made even if they take longer.

    Raises
    ------
    WeakAudioError, RuntimeError, ValueError
        The piece cannot be built, or the device cannot run it.
    """
    keep_memory()
    sweep = torch.zeros(_SWEEP // 4, device=device)
    with torch.inference_mode():
        jobs, count = _jobs(key, device, graphs)
        jobs = [capture(job, device) if graphs else job for job in jobs]
        rounds = time_rounds(jobs, device, budget, before=lambda: sweep.add_(1.0))
    return piece_seconds(rounds, count)


def piece_seconds(rounds: NDArray[np.float64], count: int) -> float:
    """Seconds of a piece, of times (rounds, 1) of it alone, or (rounds, 2) without and with `count` of it."""
    more = rounds[:, -1] - rounds[:, 0] if rounds.shape[1] == 2 else rounds[:, 0]
    return max(float(np.median(more)) / count, 0.0)


def _jobs(key: Key, device: torch.device, graphs: bool) -> tuple[list[Job], int]:
    """What is to be run: a piece alone, or a pass without and with pieces after it; and how many pieces that are."""
    if key.piece == "front end":
        logmel = LogMel(get_front_end(key.operator)).to(device)
        noise = 0.1 * _random(device, key.batch, sample_count(logmel.front_end, key.seconds))
        return [lambda: logmel(noise)], 1

    half = torch.autocast(device.type, torch.bfloat16, enabled=key.dtype == "bfloat16", cache_enabled=not graphs)
    if key.piece == "head":
        network = _hollow(key, device)
        frames = _random(device, key.batch, _SHRINK * key.rows, _SHRINK)

        def head() -> None:
            with half:
                network(frames)

        return [head], 1

    chain = _chain(key, device, graphs)
    x = _random(device, key.batch, key.inputs, key.rows, key.mels).to(memory_format=torch.channels_last)
    if key.piece != "stem" and key.dtype == "bfloat16":
        x = x.bfloat16()

    def without() -> None:
        with half:
            x.clamp_min(0.0)

    def with_pieces() -> None:
        with half:
            y = x.clamp_min(0.0)
            for step in chain:
                y = step(y)

    return [without, with_pieces], len(chain)


def _chain(key: Key, device: torch.device, graphs: bool) -> list[Callable[[Tensor], Tensor]]:
    """A piece as `FlashCNN` calls it, of a network of its own; of blocks several, each of which takes the last one's
    output."""
    # A graph serves clips that fill their rows and others, so it always clears.
    lengths = torch.full((key.batch,), key.rows, device=device) if graphs else None

    def entry(layer: nn.Module, stride: int) -> list[Callable[[Tensor], Tensor]]:
        after = None if lengths is None else -(-lengths // stride)
        return [lambda x: clear(layer(x).relu_(), after)]

    if key.piece == "stem":
        return entry(_build(device, [("dense", 0, key.outputs), *[_NARROW] * 3]).entries[0], 4)
    if key.piece == "entry":
        stages = [("dense", 0, key.inputs), ("dense", 0, key.outputs), _NARROW, _NARROW]
        return entry(_build(device, stages).entries[1], 2)
    if key.piece == "last":
        network = _build(device, [*[_NARROW] * 3, ("dense", 0, key.inputs)], key.mels, key.outputs)
        return [lambda x: network.last(x).relu_()]
    blocks = _build(device, [*[_NARROW] * 3, (key.operator, _CHAIN, key.inputs)], key.mels).stages[3]
    assert isinstance(blocks, nn.ModuleList)
    return [partial(block, lengths=lengths) for block in blocks]


def _build(
    device: torch.device, stages: Sequence[tuple[str, int, int]], mels: int = 1, features: int = 1, classes: int = 1
) -> FlashCNN:
    """A fused network whose last stage has `mels` mels."""
    with torch.random.fork_rng(devices=[]):  # weights are drawn, the caller's seed stays
        network = FlashCNN(classes, _SHRINK * mels, stages, features).eval()
    network.fuse()
    return network.to(device)


def _random(device: torch.device, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)


class _Given(nn.Module):
    """In place of a layer: what it would give."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        return self.output


def _hollow(key: Key, device: torch.device) -> FlashCNN:
    """A network that does all but its convolutions."""
    network = _build(device, [_NARROW] * 4, features=key.inputs, classes=key.outputs)
    given = [_Given(_random(device, key.batch, 1, key.rows, 1)) for _ in network.entries]
    network.entries = nn.ModuleList(given)
    embeddings = _random(device, key.batch, key.inputs, key.rows, 1)
    network.last = _Given(embeddings.to(getattr(torch, key.dtype)))  # type: ignore[assignment]
    return network


def measure_network(
    config: Mapping[str, Any],
    shape: tuple[int, int, int],
    dtype: str,
    device: torch.device,
    graphs: bool = False,
    budget: float = 1.0,
) -> float:
    """Seconds of a whole `FlashCNN`, fused, for log-mels of shape (B, T, F)."""
    keep_memory()
    with torch.random.fork_rng(devices=[]):  # weights are drawn, the caller's seed stays
        network = FlashCNN(**config).eval()
    network.fuse()
    network.to(device)
    logmel = _random(device, *shape)
    half = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16", cache_enabled=not graphs)

    def run() -> None:
        with half:
            network(logmel)

    with torch.inference_mode():
        rounds = time_rounds([capture(run, device) if graphs else run], device, budget)
    return float(np.median(rounds))
