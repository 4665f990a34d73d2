"""Students that hear every second frame of their teacher, or fewer: half the cost, from front end to scores."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from weakaudio.audio.logmel import FrontEnd, get_front_end
from weakaudio.errors import WeakAudioError
from weakaudio.networks.contract import Features


def thinned(front_end: FrontEnd, every: int) -> FrontEnd:
    """The front end that gives every k-th frame of another one, `logmel[:, ::every]`, and computes no others.

    It is called like the other one with "/k" behind ("/6" for every second of "/3"), and is the other one if k is 1.
    A front end whose floor follows
    the loudest frame (`top_db`) takes that of the frames which it computes, so its log-mel is not quite
    `logmel[:, ::every]`; and from a hop longer than the window on, parts of the sound are not heard.

    Raises
    ------
    WeakAudioError
        `every` is less than 1.
    """
    if every < 1:
        raise WeakAudioError(f"every {every}-th frame: expected 1 or more")
    if every == 1:
        return front_end
    preset, _, before = front_end.name.partition("/")
    name = f"{preset}/{every * int(before)}" if before.isdecimal() else f"{front_end.name}/{every}"
    return replace(front_end, name=name, hop_length=every * front_end.hop_length)


def find_front_end(name: str) -> FrontEnd:
    """A preset by its name, or a thinned one by the name that `thinned` gives it: `efficientat-32k/2`.

    Raises
    ------
    WeakAudioError
        There is no such preset, or what follows it is no whole number of 2 or more.
    """
    preset, slash, every = name.partition("/")
    if not slash:
        return get_front_end(name)
    if not every.isdecimal() or int(every) < 2:
        raise WeakAudioError(f"front end {name!r}: expected a preset, or one with every k-th frame, as {preset}/2")
    return thinned(get_front_end(preset), int(every))


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


def thin_features(features: Features, every: int) -> Features:
    """What a teacher gives, at the resolution of a student that hears every k-th frame; of clips that fill their
    rows."""
    embeddings = thin(features.embeddings.transpose(1, 2)[:, :, :, None], every)[..., 0].transpose(1, 2)
    return Features([thin(x, every) for x in features.maps], embeddings, features.mask[:, ::every])
