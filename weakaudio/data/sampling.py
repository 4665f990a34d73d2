"""Batch sampling: bucketed by length, optionally class-balanced, and sharded over devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from weakaudio.errors import ProtocolError

MAX_PADDING = 0.05  # fraction of a batch's samples


class Draw(NamedTuple):
    """A clip drawn for a batch."""

    clip: int
    """position in the dataset"""
    epoch: int
    number: int
    """of the draw within its epoch, over all devices"""


def bucket(
    n_samples: Sequence[int] | NDArray[np.int64],
    batch_samples: int,
    rng: np.random.Generator | None = None,
    max_padding: float = MAX_PADDING,
) -> list[list[int]]:
    """Group clips of similar length into batches.

    Parameters
    ----------
    n_samples
        Length of each clip.
    batch_samples
        Maximum number of samples in a batch, including padding; a longer clip is a batch by itself.
    rng
        Shuffles clips of equal length and the order of the batches; None keeps both sorted.
    max_padding
        Largest fraction of a batch that may be padding.

    Returns
    -------
    Batches of clip indices; each clip is in exactly one.
    """
    lengths = np.asarray(n_samples)
    order = rng.permutation(len(lengths)) if rng else np.arange(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    batches: list[list[int]] = []
    total = 0
    for n in order:
        length = int(lengths[n])  # the longest so far, as clips are sorted
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
    """Probability of each clip when first a class and then one of its clips is drawn uniformly.

    The weight of a clip is the sum over its classes of 1 / (clips of the class), divided by the number of classes
    that have clips; it is 0 for clips without labels.

    Parameters
    ----------
    targets
        (clips, C) weak labels, 0 or 1.

    Returns
    -------
    (clips,) probabilities that sum to 1.

    Raises
    ------
    ProtocolError
        No clip has a label.
    """
    weights = np.zeros(len(targets))
    n_classes = 0
    for labelled in (column > 0 for column in targets.T):  # one class at a time, to save memory
        if labelled.any():
            weights += labelled / labelled.sum()
            n_classes += 1
    if not n_classes:
        raise ProtocolError("class-balanced sampling: no clip has a label")
    return weights / n_classes


class BucketBatchSampler(Sampler[list[Draw]]):
    """Length-bucketed batches, drawn again for each epoch from seed and epoch alone, so that runs can be resumed.

    Every epoch has the same number of batches on each device; to this end the largest batches are split in half.

    Parameters
    ----------
    n_samples
        (clips,) length of each clip of the dataset.
    batch_samples
        Maximum number of samples in a batch, including padding.
    seed
        None keeps the order sorted by length.
    weights
        (clips,) probabilities: each epoch draws as many clips as there are, with replacement, and drops batches in
        excess of the usual number. None draws each clip once.
    rank, world
        Index of this device, and number of devices.

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
            raise ProtocolError(f"{len(n_samples)} clips are too few for {world} devices")
        self.n_samples, self.batch_samples, self.seed, self.weights = n_samples, batch_samples, seed, weights
        self.rank, self.world = rank, world
        n_batches = len(bucket(n_samples, batch_samples))
        self._count = min(-(-n_batches // world), len(n_samples) // world) * world
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
        if self.weights is not None:  # a few draws more or less do not matter
            batches = batches[: self._count]
        batches = _resize(batches, self._count)
        first = np.cumsum([0, *map(len, batches)])  # number of the first draw of each batch
        self._batches = [
            [Draw(int(clips[n]), epoch, int(first[b]) + place) for place, n in enumerate(batches[b])]
            for b in range(self.rank, len(batches), self.world)
        ]
        self._begin = 0

    def resume(self, epoch: int, batches: int) -> None:
        """Start within an epoch, after the number of batches already processed on each device."""
        self.set_epoch(epoch)
        self._begin = batches

    @property
    def sampler(self) -> BucketBatchSampler:
        """The object on which Lightning calls `set_epoch`."""
        return self

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self._batches[self._begin :])

    def __len__(self) -> int:
        """Number of batches of a full epoch on this device."""
        return len(self._batches)


def _resize(batches: list[list[int]], count: int) -> list[list[int]]:
    """Redistribute clips to `count` batches: split the largest in half, or merge the last."""
    batches = [*batches]
    while len(batches) > count:  # only if there are hardly more clips than devices
        batches[-2:] = [batches[-2] + batches[-1]]
    while len(batches) < count:
        largest = max(range(len(batches)), key=lambda n: len(batches[n]))
        clips, half = batches[largest], len(batches[largest]) // 2
        batches[largest : largest + 1] = [clips[:half], clips[half:]]
    return batches
