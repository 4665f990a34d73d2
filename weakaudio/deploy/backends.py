"""Ways to run a model on this CPU, and which of them is the fastest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weakaudio.deploy.benchmark import noise, time_rounds
from weakaudio.deploy.export import TOLERANCE, FrontEndPlace, export_onnx
from weakaudio.deploy.onnx_file import first_line
from weakaudio.deploy.onnx_tagger import OnnxTagger
from weakaudio.errors import WeakAudioError
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import fused_copy

Tag = Callable[[Tensor], Tensor]
"""Clip probabilities (B, C) of waveforms (B, N), all of one length, at the model's rate."""


@dataclass(frozen=True, eq=False)
class Fastest:
    """The fastest backend for a model."""

    name: str
    run: Tag
    seconds: dict[str, float]
    """per batch, of all backends that were measured; fastest first"""
    left_out: dict[str, str]
    """backends that do not work here, and why"""


def fastest(model: Model, seconds: float = 10.0, batch: int = 1, compiled: bool = False) -> Fastest:
    """Run a model on this CPU by each backend, and choose the fastest.

    The backends: "fused" (normalisation folded into convolutions, channels-last), "compiled" (the same by
    `torch.compile`), and those of ONNX Runtime. One whose probabilities differ from the model's is left out.

    Parameters
    ----------
    seconds, batch
        Length and number of the clips to be fastest for.
    compiled
        Try `torch.compile`: takes a C++ compiler, and up to a minute.

    Raises
    ------
    WeakAudioError
        No clips, or clips without a sample.
    """
    waveform = noise(model.sample_rate, seconds, batch)
    fused = _on_torch(model)
    expected = fused(waveform)
    backends = {"fused": fused}
    left_out: dict[str, str] = {}
    makers = onnx_backends()
    if compiled:
        makers = {"compiled": lambda model: _on_torch(model, compiled=True), **makers}
    for name, make in makers.items():
        try:
            run = make(model)
            difference = float((run(waveform) - expected).abs().max())
        except (WeakAudioError, RuntimeError, ImportError) as error:
            left_out[name] = first_line(error)
            continue
        if difference <= TOLERANCE:
            backends[name] = run
        else:
            left_out[name] = f"its probabilities differ from the model's by up to {difference:.2g}"
    jobs = [partial(run, waveform) for run in backends.values()]
    medians = np.median(time_rounds(jobs, torch.device("cpu"), budget=3.0), axis=0)
    taken = dict(sorted(zip(backends, medians.tolist(), strict=True), key=lambda item: item[1]))
    name = next(iter(taken))
    return Fastest(name, backends[name], taken, left_out)


def onnx_backends() -> dict[str, Callable[[Model], Tag]]:
    """ONNX Runtime with as many threads as torch, with the front end in the ONNX file or in torch."""
    return {"onnx": lambda model: _onnx(model, "inside"), "log-mel, onnx": lambda model: _onnx(model, "outside")}


def _on_torch(model: Model, compiled: bool = False) -> Tag:
    model = fused_copy(model, torch.device("cpu"))
    network = torch.compile(model.network) if compiled else model.network

    @torch.inference_mode()
    def run(waveform: Tensor) -> Tensor:
        probs: Tensor = network(*model.logmel(waveform)).clip_probs
        return probs

    return run


def _onnx(model: Model, front_end: FrontEndPlace) -> Tag:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_onnx(model, path, front_end)
        tagger = OnnxTagger(path, torch.get_num_threads())  # reads all of it
    logmel = fused_copy(model, torch.device("cpu")).logmel

    @torch.inference_mode()
    def run(waveform: Tensor) -> Tensor:
        batch = waveform if front_end == "inside" else logmel(waveform)[0]
        return torch.from_numpy(tagger.scores(batch.numpy()).clip_probs)

    return run
