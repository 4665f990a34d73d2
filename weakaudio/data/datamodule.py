"""Clips of any length become padded batches for training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.loops.progress import _ProcessedTracker
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from weakaudio.audio.augment import Effects, WaveformAugmenter
from weakaudio.data.corpus import Corpus
from weakaudio.data.sampling import BucketBatchSampler, Draw, balanced_weights
from weakaudio.errors import ProtocolError

Item = tuple[NDArray[np.float32], NDArray[np.float32], int]


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


class ClipDataset(Dataset[Item]):
    """Clips of a corpus: item n, or `Draw` of clip n, is (audio (N,), weak labels (C,), n).

    Parameters
    ----------
    corpus
        A prepared corpus.
    where
        Column values that select the clips, e.g. {"split": "train"} or {"fold": [1, 2, 3]}.
    augmenter
        What changes the waveform of each `Draw`.
    """

    def __init__(self, corpus: Corpus, where: dict[str, object], augmenter: WaveformAugmenter | None = None) -> None:
        self.store, self.augmenter = corpus.store, augmenter
        self.positions = corpus.select(where)
        self.targets = corpus.targets(self.positions)  # (clips, C)
        self.n_samples = self.store.n_samples[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, which: int | Draw) -> Item:
        n = which.clip if isinstance(which, Draw) else which
        audio = self.store.audio(self.positions[n])
        if self.augmenter and isinstance(which, Draw):
            audio = self.augmenter(audio, which.epoch, which.number)
        return audio, self.targets[n].astype(np.float32), n


def collate(items: Sequence[Item]) -> Batch:
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


class ClipDataModule(lightning.LightningDataModule):
    """Training and validation batches of a prepared corpus.

    Parameters
    ----------
    root
        Folder of the corpus.
    train, val
        Column values that select the clips, e.g. {"split": "train"} or {"fold": [1, 2, 3]}.
    batch_seconds
        Most audio in a batch, on each device.
    workers
        Loader processes; 0 loads in the training process.
    seed
        Of the order of clips, and of what `augment` does.
    balanced
        Draw training clips so that each class comes up alike (`balanced_weights`), not each clip once an epoch.
    augment
        What may happen to the waveform of a training clip.
    """

    def __init__(
        self,
        root: str,
        train: dict[str, object] = {"split": "train"},  # noqa: B006 (read only, and shown in --help)
        val: dict[str, object] = {"split": "val"},  # noqa: B006
        batch_seconds: float = 160.0,
        workers: int = 1,
        seed: int = 0,
        balanced: bool = False,
        augment: Effects | None = None,
    ) -> None:
        super().__init__()
        self.corpus = Corpus(root)
        self.train, self.val = train, val
        self.batch_seconds, self.workers, self.seed, self.balanced = batch_seconds, workers, seed, balanced
        self.augmenter = WaveformAugmenter(augment, self.sample_rate, seed) if augment else None
        self._epoch, self._done = 0, 0  # where a resumed run begins

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
        dataset = ClipDataset(self.corpus, self.train, self.augmenter)
        weights = balanced_weights(dataset.targets) if self.balanced else None
        loader = clip_loader(dataset, self.batch_seconds, self.workers, self.seed, weights, *self._place)
        assert isinstance(loader.batch_sampler, BucketBatchSampler)
        loader.batch_sampler.go_on(self._epoch, self._done)
        return loader

    def val_dataloader(self) -> DataLoader[Batch]:
        dataset = ClipDataset(self.corpus, self.val)
        return clip_loader(dataset, self.batch_seconds, self.workers, None, None, *self._place)

    @property
    def _place(self) -> tuple[int, int]:
        """This device's number, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batch that a resumed run begins with: Lightning tells them only once the batches are drawn."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epoch, done = self.trainer.current_epoch, loop.epoch_loop.batch_progress.current.ready
        progress = cast(_ProcessedTracker, loop.epoch_progress.current)
        ended = progress.processed > progress.completed  # maybe early
        if ended or done >= self.trainer.num_training_batches:
            epoch, done = epoch + 1, 0
        return {"epoch": epoch, "batches": done, "devices": self.trainer.world_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epoch, self._done = state_dict["epoch"], state_dict["batches"]
        _, devices = self._place
        if devices != state_dict["devices"]:
            raise ProtocolError(
                f"the run was begun on {state_dict['devices']} devices and goes on only on as many, not on "
                f"{devices}: batches and learning rates would be others"
            )


def clip_loader(
    dataset: ClipDataset,
    batch_seconds: float,
    workers: int = 0,
    seed: int | None = None,
    weights: NDArray[np.float64] | None = None,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Batch]:
    """Length-bucketed batches of a dataset, shuffled if a seed is given; the rest is `BucketBatchSampler`'s."""
    batch_samples = int(batch_seconds * dataset.store.sample_rate)
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # a DataLoader is typed by its items, not by what collate makes of them
        batch_sampler=BucketBatchSampler(dataset.n_samples, batch_samples, seed, weights, rank, world),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
