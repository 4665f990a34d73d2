"""How fast a model is on this machine."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch

from weakaudio.networks.model import Model

_SECONDS = 10.0  # of noise in a clip
_CLIPS = 8
_TRIALS = (3, 30)  # at least, at most


@dataclass(frozen=True)
class Speed:
    """From waveform to scores, with the network fused as for embedding."""

    times_real_time: float
    """seconds of audio a second, in batches of 8 clips of 10 s"""
    latency: float
    """seconds for one clip of 10 s"""


def measure(model: Model, budget: float = 1.5) -> Speed:
    """The speed of a model on the processor, by the median of several runs on noise.

    Parameters
    ----------
    model
        Is copied.
    budget
        Seconds for each of the two figures; three runs are made even if they take longer.
    """
    model = copy.deepcopy(model).cpu().eval()
    model.network.fuse()
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(_CLIPS, int(_SECONDS * model.sample_rate), generator=generator)
    return Speed(_CLIPS * _SECONDS / _median(model, noise, budget), _median(model, noise[:1], budget))


def _median(model: Model, audio: torch.Tensor, budget: float) -> float:
    """Seconds that the model takes for a batch."""
    least, most = _TRIALS
    taken: list[float] = []
    with torch.inference_mode():
        model(audio)  # the first run also allocates
        while len(taken) < least or (sum(taken) < budget and len(taken) < most):
            start = time.perf_counter()
            model(audio)
            taken.append(time.perf_counter() - start)
    return float(np.median(taken))
