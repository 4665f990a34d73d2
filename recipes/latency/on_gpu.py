"""Networks on a GPU, from waveform to clip probabilities: one clip with and without CUDA graphs, and many.

    python -m recipes.latency.on_gpu --mn04 MODEL

Clips come from main memory, and scores are waited for. Systems are timed turn by turn, networks fused.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from recipes.benchmark.compare import Scale, waveforms
from recipes.latency.frontier import MN04, SHIPPED
from recipes.results import ROOT, Row, record
from weakaudio.deploy.benchmark import describe, time_rounds
from weakaudio.deploy.cuda_graphs import GraphedModel
from weakaudio.errors import WeakAudioError
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device, fused_copy
from weakaudio.pretrained import load_model

Run = Callable[[Tensor], Tensor]


def plainly(model: Model, device: torch.device) -> Run:
    """Clip probabilities (B, C) on the device, of waveforms (B, N) anywhere."""
    fused = fused_copy(model, device)

    @torch.inference_mode()
    def run(waveform: Tensor) -> Tensor:
        probs: Tensor = fused(waveform.to(device)).clip_probs
        return probs

    return run


def graphed(model: Model, device: torch.device, seconds: float) -> Run:
    """The same of one clip, the network replayed from a CUDA graph."""
    replayed = GraphedModel(model, [seconds], batch=1, device=str(device))
    return lambda waveform: replayed(waveform).clip_probs


def measure(
    models: dict[str, Model], device: torch.device, seconds: float, clips: int, graphs: bool
) -> dict[str, float]:
    """Seconds of a batch by system, medians over rounds."""
    runs = {name: (model, plainly(model, device)) for name, model in models.items()}
    if graphs:
        runs |= {f"{name}, CUDA graph": (model, graphed(model, device, seconds)) for name, model in models.items()}
    jobs = [partial(run, waveforms(Scale(clips, seconds), model.sample_rate)) for model, run in runs.values()]
    medians = np.median(time_rounds(jobs, device, budget=5.0), axis=0)
    return dict(zip(runs, medians.tolist(), strict=True))


def rows(one: dict[str, float], many: dict[str, float], clips: int, seconds: float) -> Iterator[Row]:
    """Rows for `recipes.results`, but for data and command."""
    for system, taken in one.items():
        row = {"what": "frontier on a GPU", "system": system}
        yield {**row, "metric": f"ms for {seconds:g} s", "value": 1000 * taken}
    for system, taken in many.items():
        speed = clips * seconds / taken
        yield {
            "what": "frontier on a GPU",
            "system": system,
            "metric": f"times real time, batch {clips}",
            "value": speed,
        }


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.latency.on_gpu", description="Speed on a GPU.")
    parser.add_argument("--mn04", required=True, help="EfficientAT's mn04, by name or path")
    parser.add_argument("--model", action="append", default=[], help="beside those that come with the package")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a clip")
    parser.add_argument("--clips", type=int, default=256, help="of the large batch")
    parser.add_argument("--device", default="cuda", help="the GPU")
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.latency.on_gpu", *(sys.argv[1:] if args is None else args)])
    device = find_device(given.device)
    models = {name: load_model(name) for name in (*SHIPPED, *given.model)}
    models = {MN04: load_model(given.mn04), **models}
    one = measure(models, device, given.seconds, 1, graphs=True)
    many = measure(models, device, given.seconds, given.clips, graphs=False)
    data = f"clips of {given.seconds:g} s of noise, from waveform; {describe(device)}"
    found = [{**row, "data": data, "command": command} for row in rows(one, many, given.clips, given.seconds)]
    record("latency", found, root)
    for row in found:
        Console().print(f"{row['system']}, {row['metric']}: {row['value']:.2f}")


if __name__ == "__main__":
    try:
        main()
    except WeakAudioError as error:
        sys.exit(f"on_gpu: {error}")
