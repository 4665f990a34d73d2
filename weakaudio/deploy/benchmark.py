"""A model on this machine: how long each stage of its path takes, and which way to run it is the fastest."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from torch import Tensor

from weakaudio.audio.io import read_audio, resample
from weakaudio.deploy.timing import Clock, Job, time_rounds
from weakaudio.errors import WeakAudioError
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import fused_copy

FILE_RATE = 44100
"""Hz, of the recordings that are decoded: 16-bit WAV"""
TOLERANCE = 1e-4
"""between the probabilities of two ways to run a model"""

Run = Callable[[Tensor], Tensor]
"""Clip probabilities (B, C) of waveforms (B, N), all of one length, at the model's rate."""


@dataclass(frozen=True)
class PathTimes:
    """Seconds a clip, for each stage from the file to the scores."""

    batch: int
    seconds: float
    """length of a clip"""
    decode: float
    """a 16-bit WAV of 44.1 kHz"""
    resample: float
    """from 44.1 kHz to the model's rate"""
    logmel: float
    network: float
    """fused, from log-mel to clip probabilities"""
    whole: float
    """from waveform at the model's rate to clip probabilities, in one go"""
    peak_memory: int | None
    """bytes on the GPU, weights included; None on a processor"""

    @property
    def times_real_time(self) -> float:
        """seconds of audio a second, from waveform to clip probabilities"""
        return self.seconds / self.whole


def time_path(
    model: Model,
    seconds: float = 10.0,
    batch: int = 1,
    device: torch.device | str = "cpu",
    budget: float = 3.0,
    clock: Clock = time.perf_counter,
) -> PathTimes:
    """Medians over several runs on noise, with the network fused as for embedding.

    On a GPU waveforms come from main memory and scores are waited for. Files are decoded one by one.

    Parameters
    ----------
    model
        Is copied.
    budget
        Seconds to spend on it.

    Raises
    ------
    WeakAudioError
        No clips, or clips without a sample.
    """
    device = torch.device(device)
    waveform = _noise(model.sample_rate, seconds, batch)
    model = fused_copy(model, device)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder, "noise.wav")
        recording = _noise(FILE_RATE, seconds, 1)[0].numpy()
        sf.write(file, recording, FILE_RATE, subtype="PCM_16")
        logmel, lengths = model.logmel(waveform.to(device))
        jobs: list[Job] = [
            lambda: read_audio(file),
            lambda: resample(recording, FILE_RATE, model.sample_rate),
            lambda: model.logmel(waveform.to(device)),
            lambda: model.network(logmel, lengths).clip_probs,
            lambda: model(waveform.to(device)).clip_probs,
        ]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        rounds = time_rounds(jobs, device, budget, clock=clock)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    decoding, resampling, front_end, network, whole = (float(value) for value in np.median(rounds, axis=0))
    return PathTimes(
        batch=batch,
        seconds=seconds,
        decode=decoding,
        resample=resampling,
        logmel=front_end / batch,
        network=network / batch,
        whole=whole / batch,
        peak_memory=peak,
    )


@dataclass(frozen=True, eq=False)
class Choice:
    """The fastest way to run a model."""

    name: str
    run: Run
    seconds: dict[str, float]
    """for a batch, of all ways that were measured; fastest first"""
    left_out: dict[str, str]
    """ways that cannot be gone here, and why"""


def fastest(
    model: Model,
    seconds: float = 10.0,
    batch: int = 1,
    compiled: bool = False,
    others: Mapping[str, Callable[[Model], Run]] | None = None,
    budget: float = 3.0,
    clock: Clock = time.perf_counter,
) -> Choice:
    """Run a model on this processor in each way there is, and choose the fastest.

    The ways: "fused" (normalisation folded into convolutions, channels-last), "compiled" (that by `torch.compile`),
    and those of ONNX Runtime.

    Parameters
    ----------
    seconds, batch
        Of the clips it is to be fastest for.
    compiled
        Try `torch.compile`: takes a C++ compiler, and up to a minute.
    others
        More ways, by name, as functions that make one of a model; None: `onnx_ways`.
    budget
        Seconds to spend on runs.

    Raises
    ------
    WeakAudioError
        No clips, or clips without a sample.
    """
    waveform = _noise(model.sample_rate, seconds, batch)
    fused = _fused(model)
    makers: dict[str, Callable[[Model], Run]] = {"fused": lambda _: fused}
    if compiled:
        makers["compiled"] = _compiled
    makers.update(onnx_ways() if others is None else others)
    ways: dict[str, Run] = {}
    left_out: dict[str, str] = {}
    expected = fused(waveform)
    for name, make in makers.items():
        try:
            run = make(model)
            difference = float((run(waveform) - expected).abs().max())
        except (WeakAudioError, RuntimeError, ImportError) as error:
            left_out[name] = (str(error) or type(error).__name__).splitlines()[0]
            continue
        if difference <= TOLERANCE:
            ways[name] = run
        else:
            left_out[name] = f"its probabilities are up to {difference:.2g} from the model's"
    jobs: list[Job] = [lambda run=run: run(waveform) for run in ways.values()]  # type: ignore[misc]
    medians = np.median(time_rounds(jobs, torch.device("cpu"), budget, clock=clock), axis=0)
    taken = dict(sorted(zip(ways, medians.tolist(), strict=True), key=lambda item: item[1]))
    name = next(iter(taken))
    return Choice(name, ways[name], taken, left_out)


def onnx_ways() -> dict[str, Callable[[Model], Run]]:
    """A model on ONNX Runtime with as many threads as torch has, its front end there, too, or in torch."""
    return {"onnx": lambda model: _onnx(model, "inside"), "log-mel, onnx": lambda model: _onnx(model, "outside")}


def _fused(model: Model) -> Run:
    model = fused_copy(model, torch.device("cpu"))

    @torch.inference_mode()
    def run(waveform: Tensor) -> Tensor:
        probs: Tensor = model(waveform).clip_probs
        return probs

    return run


def _compiled(model: Model) -> Run:
    model = fused_copy(model, torch.device("cpu"))
    network = torch.compile(model.network)

    @torch.inference_mode()
    def run(waveform: Tensor) -> Tensor:
        probs: Tensor = network(*model.logmel(waveform)).clip_probs
        return probs

    return run


def _onnx(model: Model, front_end: str) -> Run:
    from weakaudio.deploy.export import export_onnx
    from weakaudio.deploy.onnx_tagger import OnnxTagger

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_onnx(model, path, front_end)  # type: ignore[arg-type]
        tagger = OnnxTagger(path, torch.get_num_threads())  # reads all of it
    logmel = fused_copy(model, torch.device("cpu")).logmel

    @torch.inference_mode()
    def run(waveform: Tensor) -> Tensor:
        batch = waveform if front_end == "inside" else logmel(waveform)[0]
        return torch.from_numpy(tagger.scores(batch.numpy()).clip_probs)

    return run


def _noise(sample_rate: int, seconds: float, batch: int) -> Tensor:
    """(batch, N) at a tenth of full scale."""
    samples = round(seconds * sample_rate) if isfinite(seconds) else 0
    if samples < 1:
        raise WeakAudioError(f"clips of {seconds} s: expected more than 0, and a sample at least")
    if batch < 1:
        raise WeakAudioError(f"a batch of {batch} clips: expected 1 or more")
    return (0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))).clamp_(-1.0, 1.0)
