"""Decimation of a teacher's maps to the frame rate of a student whose hop is longer."""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from weakaudio.networks.contract import Features


def thin(rows: Tensor, every: int) -> Tensor:
    """(B, channels, T, F) to (B, channels, ceil(T / every), F): means of the k rows around every k-th.

    A student's row has its centre where the teacher's k-th has it, so the mean does, too: of an even k, the rows at
    both ends count one half. At the ends of a clip it is the mean of what is there.
    """
    if every == 1:
        return rows
    reach = every // 2
    weights = [1.0] * (2 * reach + 1)
    if every % 2 == 0:
        weights[0] = weights[-1] = 0.5

    def sums(x: Tensor) -> Tensor:
        last = (x.shape[2] - 1) // every * every
        padded = F.pad(x, (0, 0, reach, reach))
        return reduce(
            torch.add, (weight * padded[:, :, n : n + last + 1 : every] for n, weight in enumerate(weights))
        )

    return sums(rows) / sums(rows.new_ones(1, 1, rows.shape[2], 1))


def decimate_features(features: Features, every: int) -> Features:
    """What a teacher gives, at the resolution of a student that hears every k-th frame; of clips that fill their
    rows."""
    embeddings = thin(features.embeddings.transpose(1, 2)[:, :, :, None], every)[..., 0].transpose(1, 2)
    return Features([thin(x, every) for x in features.maps], embeddings, features.mask[:, ::every])
