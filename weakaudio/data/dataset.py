"""Clips of any length become batches of like length, so that under 5 % of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from weakaudio.data.corpus import Corpus
from weakaudio.errors import ProtocolError

MAX_PADDING = 0.05  # of a batch's samples


class Batch(NamedTuple):
    """Clips padded with zeros to the longest of them."""

    waveform: Tensor
    """(B, N) float32"""
    lengths: Tensor
    """(B,) samples of each clip"""
    targets: Tensor
    """(B, C) weak labels, 0 or 1"""
    clips: Tensor
    """(B,) positions of the clips in their dataset"""


class ClipDataset(Dataset[tuple[NDArray[np.float32], NDArray[np.float32], int]]):
    """Clips of a corpus: item n is (audio (N,), weak labels (C,), n).

    Parameters
    ----------
    corpus
        A prepared corpus.
    where
        Column values that select the clips, e.g. {"split": "train"} or {"fold": [1, 2, 3]}.
    """

    def __init__(self, corpus: Corpus, where: dict[str, object]) -> None:
        self.store = corpus.store
        self.positions = corpus.select(where)
        self.targets = corpus.targets(self.positions)
        self.n_samples = self.store.n_samples[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
        return self.store.audio(self.positions[n]), self.targets[n], n


def collate(items: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], int]]) -> Batch:
    """Items of a ClipDataset to one batch."""
    waveform, lengths = pad([audio for audio, _, _ in items])
    targets = torch.from_numpy(np.stack([target for _, target, _ in items]))
    return Batch(waveform, lengths, targets, torch.tensor([n for _, _, n in items]))


def pad(clips: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    """Clips of shape (N,) to one zero-padded tensor (B, max N) and their lengths (B,)."""
    lengths = torch.tensor([len(clip) for clip in clips])
    waveform = torch.zeros(len(clips), int(lengths.max()))
    for row, clip in zip(waveform, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    return waveform, lengths


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


class BucketBatchSampler(Sampler[list[int]]):
    """`bucket` anew for every epoch, from seed and epoch alone, so that a resumed run draws what it would have."""

    def __init__(self, n_samples: NDArray[np.int64], batch_samples: int, seed: int | None) -> None:
        self.n_samples, self.batch_samples, self.seed = n_samples, batch_samples, seed
        self._batches: list[list[int]] = []
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        rng = None if self.seed is None else np.random.default_rng([self.seed, epoch])
        self._batches = bucket(self.n_samples, self.batch_samples, rng)

    @property
    def sampler(self) -> BucketBatchSampler:
        """Where Lightning looks for `set_epoch`."""
        return self

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class ClipDataModule(lightning.LightningDataModule):
    """Training and validation batches of a prepared corpus.

    Parameters
    ----------
    root
        Folder of the corpus.
    train, val
        Column values that select the clips, e.g. {"split": "train"} or {"fold": [1, 2, 3]}.
    batch_seconds
        Most audio in a batch.
    workers
        Loader processes; 0 loads in the training process.
    seed
        Of the order of clips.
    """

    def __init__(
        self,
        root: str,
        train: dict[str, object] = {"split": "train"},  # noqa: B006 (read only, and shown in --help)
        val: dict[str, object] = {"split": "val"},  # noqa: B006
        batch_seconds: float = 160.0,
        workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.corpus = Corpus(root)
        self.train, self.val = train, val
        self.batch_seconds, self.workers, self.seed = batch_seconds, workers, seed
        self._epoch = 0

    @property
    def labels(self) -> list[str]:
        """Class names in the order of the targets."""
        return self.corpus.label_set.names

    @property
    def sample_rate(self) -> int:
        """Hz"""
        return self.corpus.store.sample_rate

    def setup(self, stage: str) -> None:
        shared = set(self.corpus.select(self.train)) & set(self.corpus.select(self.val))
        if shared:
            raise ProtocolError(
                f"{self.corpus.root}: {len(shared)} clips are in both train {self.train} and val {self.val}: the "
                "best epoch would be chosen on clips that were trained on"
            )

    def train_dataloader(self) -> DataLoader[Batch]:
        loader = clip_loader(ClipDataset(self.corpus, self.train), self.batch_seconds, self.workers, self.seed)
        assert isinstance(loader.batch_sampler, BucketBatchSampler)
        loader.batch_sampler.set_epoch(self._epoch)
        return loader

    def val_dataloader(self) -> DataLoader[Batch]:
        return clip_loader(ClipDataset(self.corpus, self.val), self.batch_seconds, self.workers)

    def state_dict(self) -> dict[str, Any]:
        """The epoch that a resumed run begins with: Lightning tells it only once the batches are drawn."""
        assert self.trainer is not None
        return {"epoch": self.trainer.current_epoch + 1}  # checkpoints are written at the end of an epoch

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epoch = state_dict["epoch"]


def clip_loader(
    dataset: ClipDataset, batch_seconds: float, workers: int = 0, seed: int | None = None
) -> DataLoader[Batch]:
    """Length-bucketed batches of a dataset; shuffled if a seed is given."""
    batch_samples = int(batch_seconds * dataset.store.sample_rate)
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # a DataLoader is typed by its items, not by what collate makes of them
        batch_sampler=BucketBatchSampler(dataset.n_samples, batch_samples, seed),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
