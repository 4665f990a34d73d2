"""Timing against a reference in the same run, turn by turn, so that a machine's moods meet both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from weakaudio_data_prep.synthetic import background

Job = Callable[[], object]


@dataclass(frozen=True)
class Scale:
    """How large a benchmark is."""

    clips: int = 8
    seconds: float = 10.0
    """of each clip"""
    repeats: int = 7
    """rounds"""
    width: float = 1.0
    """of N_S"""
    threads: int = 2
    """of torch and ONNX Runtime"""

    @property
    def audio_seconds(self) -> float:
        """Of all clips together."""
        return self.clips * self.seconds

    @property
    def data(self) -> str:
        """In words, for the table."""
        return f"clips of {self.seconds:g} s of noise, batch {self.clips}, {self.threads} threads"


QUICK = Scale(clips=2, seconds=1.5, repeats=1, width=1 / 8, threads=1)


@dataclass
class Comparison:
    """A reference and what is measured against it."""

    what: str
    audio_seconds: float
    """that one run of any of the jobs takes in"""
    reference: str
    data: str
    reference_times: list[float] = field(default_factory=list)
    """seconds of wall clock of each run"""
    speeds: dict[str, float] = field(default_factory=dict)
    """seconds of audio per second of wall clock, the median over runs, by system"""
    ratios: dict[str, list[float]] = field(default_factory=dict)
    """reference's time over system's time in each round, by system"""

    @property
    def reference_speed(self) -> float:
        return self.audio_seconds / float(np.median(self.reference_times))


def compare(
    what: str,
    scale: Scale,
    reference: tuple[str, Job],
    systems: dict[str, Job],
    audio_seconds: float | None = None,
) -> Comparison:
    """Run every job once to warm up, then rounds of reference, system, reference, next system, and so on.

    Parameters
    ----------
    what
        Name of the table.
    reference, systems
        Names and jobs; each job takes in the same audio.
    audio_seconds
        Audio that one run takes in; None means all clips of the scale.
    """
    name, job = reference
    result = Comparison(what, audio_seconds or scale.audio_seconds, name, scale.data)
    for warm_up in (job, *systems.values()):
        warm_up()
    times: dict[str, list[float]] = {system: [] for system in systems}
    for _ in range(scale.repeats):
        for system, ours in systems.items():
            theirs = _seconds(job)
            times[system].append(_seconds(ours))
            result.reference_times.append(theirs)
            result.ratios.setdefault(system, []).append(theirs / times[system][-1])
    result.speeds = {s: result.audio_seconds / float(np.median(seconds)) for s, seconds in times.items()}
    return result


def waveforms(scale: Scale, sample_rate: int) -> torch.Tensor:
    """(clips, N) float32 coloured noise at `sample_rate` Hz, the same every time."""
    return torch.from_numpy(np.stack([noise(n, scale, sample_rate) for n in range(scale.clips)]))


def noise(n: int, scale: Scale, sample_rate: int) -> NDArray[np.float32]:
    """(N,) float32: clip n of `waveforms`."""
    return background(np.random.default_rng(n), round(scale.seconds * sample_rate), sample_rate)


def _seconds(job: Job) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start
