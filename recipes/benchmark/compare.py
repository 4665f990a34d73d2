"""Timing against a reference in the same run, in rounds of one turn each, so that a slow minute slows all alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from recipes.results import Row
from weakaudio.deploy.benchmark import Job, time_rounds


def compare(
    jobs: Mapping[str, Job], rounds: int, before: Job | None = None
) -> Iterator[tuple[str, float, Row | None]]:
    """Time jobs that do the same work; the first one is the reference. `before` runs, untimed, before each turn.

    Yields the name of each job, its seconds (median over rounds), and how many times as fast it is as the reference:
    the median over the ratios of each round, half their interquartile range, and the rounds, as `value`, `spread` and
    `n` of a row (None for the reference).
    """
    seconds = time_rounds(list(jobs.values()), torch.device("cpu"), before=before, rounds=(rounds, rounds))
    for n, (name, median) in enumerate(zip(jobs, np.median(seconds, axis=0).tolist(), strict=True)):
        low, middle, high = np.percentile(seconds[:, 0] / seconds[:, n], [25, 50, 75]).tolist()
        yield name, median, {"value": middle, "spread": (high - low) / 2, "n": len(seconds)} if n else None
