"""The one timer of this package: what the device is called, how time is taken on it, and the speed of a model."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from numpy.typing import NDArray
from torch import Tensor

from weakaudio.audio.io import read_audio, resample
from weakaudio.deploy.onnx_file import package
from weakaudio.errors import WeakAudioError
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import BFLOAT16, cpuinfo, fused_copy

FILE_RATE = 44100
"""Sample rate in Hz of the 16-bit WAV whose decoding is timed."""

Job = Callable[[], object]

WARM_UP = 3
"""Untimed runs of each job: kernels are chosen, memory is allocated."""

_ROUNDS = (7, 40)  # at least, at most
_INSTRUCTIONS = {  # by the flags of `cpuinfo`
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx_vnni", "avx512_vnni"},
    "bf16": BFLOAT16,
}


# --- the device


@dataclass(frozen=True)
class Device:
    """All that decides how long the same work takes; times of one device say nothing about another."""

    kind: str
    """cpu or cuda"""
    name: str
    """processor with its vector instructions, or GPU"""
    cores: int | None
    """available to this process; None for a GPU"""
    threads: int | None
    """used by torch; None for a GPU"""
    torch: str
    """version"""
    graphs: bool = False
    """work is replayed from CUDA graphs"""
    onnxruntime: str | None = None
    """version, if networks run in 8 bits on ONNX Runtime behind torch's front end; None: they run on torch"""

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} threads on {self.cores} cores"
        networks = "" if self.onnxruntime is None else f", networks in 8 bits on ONNX Runtime {self.onnxruntime}"
        return f"{self.name}{threads}{', CUDA graphs' if self.graphs else ''}, torch {self.torch}{networks}"


def describe(device: torch.device, graphs: bool = False, int8: bool = False) -> Device:
    """Describe a device as it is used now, with torch's current number of threads.

    A processor is named with the vector instructions that torch uses, as `AMD EPYC, AVX2`.

    Raises
    ------
    WeakAudioError
        CUDA graphs without a GPU; 8 bits on a GPU, or without onnxruntime.
    """
    if int8 and device.type != "cpu":
        raise WeakAudioError(f"device {device}: networks in 8 bits run on the CPU")
    if device.type == "cuda":
        return Device("cuda", torch.cuda.get_device_name(device), None, None, torch.__version__, graphs)
    if graphs:
        raise WeakAudioError(f"device {device}: CUDA graphs need a GPU")
    onnxruntime = package("onnxruntime").__version__ if int8 else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = cpuinfo().get("model name") or platform.processor() or platform.machine()
    name, threads = f"{name}, {vector_instructions()}", torch.get_num_threads()
    return Device(device.type, name, cores, threads, torch.__version__, onnxruntime=onnxruntime)


def vector_instructions() -> str:
    """AVX2, AVX-512, VNNI and bf16, as far as the processor has them and `ATEN_CPU_CAPABILITY` and
    `ONEDNN_MAX_CPU_ISA` allow them; otherwise what torch calls its CPU capability."""
    capability = torch.backends.cpu.get_cpu_capability()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    limited = capability != "AVX512" or limit in ("SSE41", "AVX", "AVX2")
    flags = set(cpuinfo().get("flags", "").split()) if capability in ("AVX2", "AVX512") else set()
    if limited:
        flags = {flag for flag in flags if not flag.startswith(("avx512", "amx"))}
    if limit == "AVX512_CORE":
        flags -= _INSTRUCTIONS["VNNI"] | _INSTRUCTIONS["bf16"]
    if limit == "AVX512_CORE_VNNI":
        flags -= _INSTRUCTIONS["bf16"]
    return " ".join(name for name, any_of in _INSTRUCTIONS.items() if any_of & flags) or capability


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Let torch use this many threads within the block; None: as many as before.

    Raises
    ------
    WeakAudioError
        Fewer than 1.
    """
    if threads is not None and threads < 1:
        raise WeakAudioError(f"threads {threads}: expected 1 or more")
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- the timer


def time_rounds(
    jobs: Sequence[Job],
    device: torch.device,
    budget: float = 0.5,
    before: Job | None = None,
    clock: Callable[[], float] = time.perf_counter,
    rounds: tuple[int, int] | None = None,
) -> NDArray[np.float64]:
    """Time jobs in interleaved rounds of one run each, so that a machine that slows down slows all of them.

    `WARM_UP` untimed runs of each job come first.

    Parameters
    ----------
    budget
        Seconds for all rounds.
    before
        Runs, untimed, before each run.
    rounds
        Least number, made even if it takes longer than the budget, and greatest; None: 7 and 40.

    Returns
    -------
    Seconds, of shape (rounds, jobs).
    """
    least, most = rounds or _ROUNDS
    for job in jobs:
        for _ in range(WARM_UP):
            job()

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def taken_by(job: Job) -> float:
        if before is not None:
            before()
        wait()
        start = clock()
        job()
        wait()
        return clock() - start

    end = clock() + budget
    taken: list[list[float]] = []
    while len(taken) < least or (len(taken) < most and clock() < end):
        taken.append([taken_by(job) for job in jobs])
    return np.array(taken)


# --- a model


@dataclass(frozen=True)
class PathTimes:
    """Seconds per clip for each stage from the file to the scores."""

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
    """from waveform at the model's rate to clip probabilities, in one call"""
    peak_memory: int | None
    """bytes on the GPU, weights included; None on a CPU"""

    @property
    def times_real_time(self) -> float:
        """Seconds of audio per second, from waveform to clip probabilities"""
        return self.seconds / self.whole


def time_path(
    model: Model,
    seconds: float = 10.0,
    batch: int = 1,
    device: torch.device | str = "cpu",
    budget: float = 3.0,
) -> PathTimes:
    """Time each stage of a model on noise, with the network fused as for embedding: medians over rounds.

    On a GPU, times include the transfer of waveforms from main memory and the wait for the scores. Files are decoded
    one by one.

    Parameters
    ----------
    model
        Is copied.
    seconds
        Length of a clip.
    batch
        Clips at once.
    budget
        Seconds to spend.

    Raises
    ------
    WeakAudioError
        No clips, or clips without a sample.
    """
    device = torch.device(device)
    waveform = noise(model.sample_rate, seconds, batch)
    model = fused_copy(model, device)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder, "noise.wav")
        recording = noise(FILE_RATE, seconds, 1)[0].numpy()
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
        rounds = time_rounds(jobs, device, budget)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    decoding, resampling, front_end, network, whole = (float(value) for value in np.median(rounds, axis=0))
    return PathTimes(
        batch, seconds, decoding, resampling, front_end / batch, network / batch, whole / batch, peak_memory=peak
    )


def noise(sample_rate: int, seconds: float, batch: int) -> Tensor:
    """(batch, N) white noise at a tenth of full scale, the same each time.

    Raises
    ------
    WeakAudioError
        No clips, or clips without a sample.
    """
    samples = round(seconds * sample_rate) if isfinite(seconds) else 0
    if samples < 1:
        raise WeakAudioError(f"clips of {seconds} s: expected more than 0, and a sample at least")
    if batch < 1:
        raise WeakAudioError(f"a batch of {batch} clips: expected 1 or more")
    return (0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))).clamp_(-1.0, 1.0)
