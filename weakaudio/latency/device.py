"""The device at hand: what it is called in tables, and how time is taken on it."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from weakaudio.deploy.onnx_file import package
from weakaudio.errors import WeakAudioError

Job = Callable[[], object]
Clock = Callable[[], float]

_ROUNDS = (7, 40)  # at least, at most
_WARM_UP = 3  # runs: kernels are chosen, memory is had


@dataclass(frozen=True)
class Device:
    """All that decides how long the same work takes; times of one device say nothing of another."""

    kind: str
    """cpu or cuda"""
    name: str
    """processor with its instructions, or GPU"""
    cores: int | None
    """that this process may use; None of a GPU"""
    threads: int | None
    """of torch; None of a GPU"""
    torch: str
    """version"""
    graphs: bool = False
    """work is replayed from CUDA graphs"""
    onnxruntime: str | None = None
    """version, where networks run on ONNX Runtime in 8 bits, behind the front end of torch; None: on torch"""

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} threads on {self.cores} cores"
        networks = "" if self.onnxruntime is None else f", networks in 8 bits on ONNX Runtime {self.onnxruntime}"
        return f"{self.name}{threads}{', CUDA graphs' if self.graphs else ''}, torch {self.torch}{networks}"


def describe(device: torch.device, graphs: bool = False, int8: bool = False) -> Device:
    """What a device is called, with as many threads as torch uses now.

    Raises
    ------
    WeakAudioError
        CUDA graphs of a device that is no GPU; 8 bits of one that is no processor, or without onnxruntime.
    """
    if int8 and device.type != "cpu":
        raise WeakAudioError(f"device {device}: networks in 8 bits run on the processor")
    if device.type == "cuda":
        return Device("cuda", torch.cuda.get_device_name(device), None, None, torch.__version__, graphs)
    if graphs:
        raise WeakAudioError(f"device {device}: CUDA graphs need a GPU")
    name = f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"
    onnxruntime = package("onnxruntime").__version__ if int8 else None
    return Device(device.type, name, _cores(), torch.get_num_threads(), torch.__version__, onnxruntime=onnxruntime)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = re.findall(r"^model name\s*: (.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if names:
            return str(names[0])
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many threads meanwhile; None: as many as it does.

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


def time_rounds(
    jobs: Sequence[Job],
    device: torch.device,
    budget: float = 0.5,
    before: Job | None = None,
    clock: Clock = time.perf_counter,
    rounds: tuple[int, int] | None = None,
) -> NDArray[np.float64]:
    """Seconds that jobs take, in rounds of one run of each, so that a machine that slows down slows all of them.

    Parameters
    ----------
    budget
        Seconds in all; the fewest rounds are made even if they take longer.
    before
        Is run, untimed, before each run.
    rounds
        How many are made, at least and at most; None: 7 and 40. They are preceded by 3 untimed runs of each job, or
        by the fewest rounds if these are fewer.

    Returns
    -------
    Array of shape (rounds, jobs).
    """
    least, most = rounds or _ROUNDS
    for job in jobs:
        for _ in range(min(_WARM_UP, least)):
            job()
    end = clock() + budget
    taken: list[list[float]] = []
    while len(taken) < least or (len(taken) < most and clock() < end):
        taken.append([_time(job, device, before, clock) for job in jobs])
    return np.array(taken)


def _time(job: Job, device: torch.device, before: Job | None, clock: Clock) -> float:
    if before is not None:
        before()
    _finish(device)
    start = clock()
    job()
    _finish(device)
    return clock() - start


def _finish(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
