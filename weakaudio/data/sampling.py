"""Which clips meet in a batch: of like length, drawn by class if wanted, and each on one device only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from weakaudio.errors import ProtocolError

MAX_PADDING = 0.05  # of a batch's samples


class Draw(NamedTuple):
    """A clip, drawn for a batch."""

    clip: int
    """position in the dataset"""
    epoch: int
    number: int
    """of the draw in its epoch, over all devices"""


def bucket(
    n_samples: Sequence[int] | NDArray[np.int64],
    batch_samples: int,
    rng: np.random.Generator | None = None,
    max_padding: float = MAX_PADDING,
) -> list[list[int]]:
    """Group clips of like length.

    Parameters
    ----------
    n_samples
        Length of each clip.
    batch_samples
        Most samples in a batch, padding counted; a longer clip is a batch by itself.
    rng
        Draws which clips of equal length meet and the order of the batches; None leaves both sorted.
    max_padding
        Largest part of a batch that may be padding.

    Returns
    -------
    Batches of positions; every clip is in exactly one.
    """
    lengths = np.asarray(n_samples)
    order = rng.permutation(len(lengths)) if rng else np.arange(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    batches: list[list[int]] = []
    total = 0
    for n in order:
        length = int(lengths[n])  # the longest so far, as they come in order
        if batches and batches[-1]:
            padded = length * (len(batches[-1]) + 1)
            if padded <= batch_samples and padded - (total + length) <= max_padding * padded:
                batches[-1].append(int(n))
                total += length
                continue
        batches.append([int(n)])
        total = length
    return [batches[n] for n in rng.permutation(len(batches))] if rng else batches


def balanced_weights(targets: NDArray[np.generic]) -> NDArray[np.float64]:
    """How likely each clip is drawn if first a class is drawn evenly, and then evenly one of its clips.

    A clip of several classes can be drawn by each of them: its weight is the sum of 1 / clips over its classes,
    divided by the number of classes that have clips. Clips without a label are never drawn.

    Parameters
    ----------
    targets
        (clips, C) weak labels, 0 or 1.

    Returns
    -------
    (clips,) probabilities, which sum to 1.

    Raises
    ------
    ProtocolError
        No clip has a label.
    """
    weights = np.zeros(len(targets))
    n_classes = 0
    for labelled in (column > 0 for column in targets.T):  # class by class, as all at once would be copied
        if labelled.any():
            weights += labelled / labelled.sum()
            n_classes += 1
    if not n_classes:
        raise ProtocolError("class-balanced sampling: no clip has a label")
    return weights / n_classes


class BucketBatchSampler(Sampler[list[Draw]]):
    """`bucket` anew for every epoch, from seed and epoch alone, so that a resumed run draws what it would have.

    Every epoch has the same number of batches, and as many on each device; so large batches are cut in half until
    their number can be shared out.

    Parameters
    ----------
    n_samples
        (clips,) length of each clip of the dataset.
    batch_samples
        Most samples in a batch, padding counted.
    seed
        None leaves the order sorted by length.
    weights
        (clips,) probabilities: an epoch draws as many clips as there are, with replacement, and leaves out batches
        beyond the usual number. Without weights, it has each clip once.
    rank, world
        This device's number, from 0, and how many there are.

    Raises
    ------
    ProtocolError
        Fewer clips than devices.
    """

    def __init__(
        self,
        n_samples: NDArray[np.int64],
        batch_samples: int,
        seed: int | None,
        weights: NDArray[np.float64] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if len(n_samples) < world:
            raise ProtocolError(f"{len(n_samples)} clips cannot be shared out to {world} devices")
        self.n_samples, self.batch_samples, self.seed, self.weights = n_samples, batch_samples, seed, weights
        self.rank, self.world = rank, world
        whole = len(bucket(n_samples, batch_samples))
        self._count = min(-(-whole // world), len(n_samples) // world) * world
        self._batches: list[list[Draw]] = []
        self._begin = 0
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        rng = None if self.seed is None else np.random.default_rng([self.seed, epoch])
        clips = np.arange(len(self.n_samples))
        if self.weights is not None:
            assert rng is not None
            clips = rng.choice(len(clips), len(clips), p=self.weights)
        batches = bucket(self.n_samples[clips], self.batch_samples, rng)
        if self.weights is not None:  # a draw more or less does not matter
            batches = batches[: self._count]
        batches = _as_many(batches, self._count)
        first = np.cumsum([0, *map(len, batches)])  # number of each batch's first draw
        self._batches = [
            [Draw(int(clips[n]), epoch, int(first[b]) + place) for place, n in enumerate(batches[b])]
            for b in range(self.rank, len(batches), self.world)
        ]
        self._begin = 0

    def go_on(self, epoch: int, batches: int) -> None:
        """Begin in the middle of an epoch, after as many batches as were done on each device."""
        self.set_epoch(epoch)
        self._begin = batches

    @property
    def sampler(self) -> BucketBatchSampler:
        """Where Lightning looks for `set_epoch`."""
        return self

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self._batches[self._begin :])

    def __len__(self) -> int:
        """Batches of a whole epoch on this device."""
        return len(self._batches)


def _as_many(batches: list[list[int]], count: int) -> list[list[int]]:
    """The same clips in `count` batches: the largest are cut in half, or the last are put together."""
    batches = [*batches]
    while len(batches) > count:  # only where there are hardly more clips than devices
        batches[-2:] = [batches[-2] + batches[-1]]
    while len(batches) < count:
        largest = max(range(len(batches)), key=lambda n: len(batches[n]))
        whole = batches[largest]
        batches[largest : largest + 1] = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    return batches
