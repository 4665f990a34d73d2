"""Padding in batches: clips of like length put together, against clips in the order they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from weakaudio_data_prep.soundscapes import clip_seconds

from recipes.results import Row
from weakaudio.data.sampling import bucket

WHAT = "padding"
BUDGETS = (80, 160)  # seconds of a batch
_CLIPS = 20_000  # of the made-up lengths, as many as AudioSet's balanced list has
_RATE = 16_000  # Hz


def measure(segments: Path | None = None) -> list[Row]:
    """Rows for `recipes.results` but for the command: the part of all samples that is padding, in per cent.

    Parameters
    ----------
    segments
        One of AudioSet's segment lists, whose lengths are batched as well.
    """
    rng = np.random.default_rng(0)
    seconds = np.array([clip_seconds(rng) for _ in range(_CLIPS)])
    rows = _rows(seconds, f"{_CLIPS:,} clips, 70 % of 10 s, others log-uniform from 2 to 30 s")
    if segments:
        seconds = segment_seconds(segments)
        rows += _rows(seconds, f"{len(seconds):,} segments of {segments.name}")
    return rows


def segment_seconds(path: Path) -> NDArray[np.float64]:
    """Length of each segment of an AudioSet list."""
    table = pd.read_csv(path, comment="#", header=None, usecols=[1, 2], names=["start", "end"], skipinitialspace=True)
    return (table["end"] - table["start"]).to_numpy(np.float64)


def draw_batches(n_samples: NDArray[np.int64], batch_samples: int, rng: np.random.Generator) -> list[list[int]]:
    """Clips in random order; a batch is closed when one more clip would make it, padded, exceed `batch_samples`."""
    batches: list[list[int]] = []
    longest = 0
    for n in rng.permutation(len(n_samples)):
        longest = max(longest, int(n_samples[n]))
        if batches and longest * (len(batches[-1]) + 1) <= batch_samples:
            batches[-1].append(int(n))
        else:
            batches.append([int(n)])
            longest = int(n_samples[n])
    return batches


def padding(n_samples: NDArray[np.int64], batches: list[list[int]]) -> float:
    """The part of all samples of all batches that is padding."""
    padded = sum(len(batch) * int(n_samples[batch].max()) for batch in batches)
    return 1 - int(n_samples.sum()) / padded


def _rows(seconds: NDArray[np.float64], data: str) -> list[Row]:
    n_samples = np.round(seconds * _RATE).astype(np.int64)
    ways = {"random batches (reference)": draw_batches, "bucket": bucket}
    return [
        {
            "what": WHAT,
            "system": system,
            "metric": f"padding, batches of {budget} s, %",
            "value": 100 * padding(n_samples, way(n_samples, budget * _RATE, np.random.default_rng(0))),
            "data": data,
        }
        for system, way in ways.items()
        for budget in BUDGETS
    ]
