"""Timing against a reference in the same run, in rounds of one turn each, so that a slow minute slows all alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from weakaudio_data_prep.synthetic import background

from recipes.results import Row
from weakaudio.deploy.benchmark import Job, time_rounds


@dataclass(frozen=True)
class Scale:
    """Size of a benchmark."""

    clips: int = 8
    seconds: float = 10.0
    """of a clip"""
    rounds: int = 7
    width: float = 1.0
    """of N_S"""
    threads: int = 2
    """of torch, ONNX Runtime and TFLite"""

    @property
    def audio_seconds(self) -> float:
        """of all clips together"""
        return self.clips * self.seconds


QUICK = Scale(clips=2, seconds=1.5, rounds=1, width=1 / 8, threads=1)


def compare(
    what: str,
    scale: Scale,
    jobs: Mapping[str, Job],
    audio_seconds: float | None = None,
    data: str | None = None,
    speed: str = "audio s/s",
    ratio: str = "times the reference",
    latency: bool = False,
    notes: Mapping[str, str | None] | None = None,
    before: Job | None = None,
) -> Iterator[Row]:
    """Time jobs that do the same work; the first one is the reference.

    Parameters
    ----------
    audio_seconds
        Audio that one run of any job takes in; None: all clips of the scale.
    data
        Description for the table; None: clips of noise.
    speed, ratio
        Names of the metrics: seconds of audio per second (median over rounds), and the reference's time divided by
        the system's (median over the ratios of each round, half their interquartile range).
    latency
        State milliseconds per run in place of a speed.
    before
        As for `time_rounds`.
    """
    noise = f"clips of {scale.seconds:g} s of noise, batch {scale.clips}, {scale.threads} threads"
    rounds = (scale.rounds, scale.rounds)
    seconds = time_rounds(list(jobs.values()), torch.device("cpu"), before=before, rounds=rounds)
    for n, (system, median) in enumerate(zip(jobs, np.median(seconds, axis=0).tolist(), strict=True)):
        row = {"what": what, "system": system, "data": data or noise, "note": (notes or {}).get(system)}
        value = 1000 * median if latency else (audio_seconds or scale.audio_seconds) / median
        yield {**row, "metric": speed, "value": value}
        if n:
            low, middle, high = np.percentile(seconds[:, 0] / seconds[:, n], [25, 50, 75]).tolist()
            yield {**row, "metric": ratio, "value": middle, "spread": (high - low) / 2, "n": len(seconds)}


def waveforms(scale: Scale, sample_rate: int) -> torch.Tensor:
    """Coloured noise (clips, N) float32 at `sample_rate` Hz, the same every time."""
    return torch.from_numpy(np.stack([noise(n, scale, sample_rate) for n in range(scale.clips)]))


def noise(n: int, scale: Scale, sample_rate: int) -> NDArray[np.float32]:
    """Clip n of `waveforms`, (N,) float32."""
    return background(np.random.default_rng(n), round(scale.seconds * sample_rate), sample_rate)
