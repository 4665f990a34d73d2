"""Padded batches of clips of any length, for training and validation."""

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

from weakaudio.audio import Waveform
from weakaudio.audio.augment import Effects, WaveformAugmenter
from weakaudio.data.corpus import Corpus
from weakaudio.data.sampling import BucketBatchSampler, Draw, balanced_weights
from weakaudio.errors import ProtocolError

Item = tuple[Waveform, NDArray[np.float32], int]


class Batch(NamedTuple):
    """Clips padded with zeros to the length of the longest."""

    waveform: Tensor
    """(B, N) float32"""
    lengths: Tensor
    """(B,) samples of each clip"""
    targets: Tensor
    """(B, C) weak labels, 0 or 1"""
    clips: Tensor
    """(B,) indices of the clips in their dataset"""


class ClipDataset(Dataset[Item]):
    """Clips of a corpus; item n, or a `Draw` of clip n, is (audio (N,), weak labels (C,), n).

    Parameters
    ----------
    corpus
        A prepared corpus.
    where
        Column values that select the clips, e.g. {"split": "train"} or {"fold": [1, 2, 3]}.
    augmenter
        Applied to the waveform of each `Draw`.
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
    """Combine items of a `ClipDataset` into a batch."""
    waveform, lengths = pad([audio for audio, _, _ in items])
    targets = torch.from_numpy(np.stack([target for _, target, _ in items]))
    return Batch(waveform, lengths, targets, torch.tensor([n for _, _, n in items]))


def pad(clips: Sequence[Waveform]) -> tuple[Tensor, Tensor]:
    """Stack clips (N,) into a zero-padded tensor (B, max N) with their lengths (B,)."""
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
        Maximum amount of audio in a batch, per device.
    workers
        Loader processes; 0 loads in the training process.
    seed
        Seed of the order of clips and of augmentation.
    balanced
        Draw training clips with equal class frequencies (`balanced_weights`) instead of each clip once per epoch.
    augment
        Effects on the waveforms of training clips.
    """

    def __init__(
        self,
        root: str,
        train: dict[str, object] = {"split": "train"},  # noqa: B006 (read-only, and shown in --help)
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
        self._epoch, self._done = 0, 0  # where a resumed run starts

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
                "best epoch would be selected on training clips"
            )

    def train_dataloader(self) -> DataLoader[Batch]:
        dataset = ClipDataset(self.corpus, self.train, self.augmenter)
        weights = balanced_weights(dataset.targets) if self.balanced else None
        loader = clip_loader(dataset, self.batch_seconds, self.workers, self.seed, weights, *self._place)
        assert isinstance(loader.batch_sampler, BucketBatchSampler)
        loader.batch_sampler.resume(self._epoch, self._done)
        return loader

    def val_dataloader(self) -> DataLoader[Batch]:
        dataset = ClipDataset(self.corpus, self.val)
        return clip_loader(dataset, self.batch_seconds, self.workers, None, None, *self._place)

    @property
    def _place(self) -> tuple[int, int]:
        """Index of this device, and number of devices."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batch where a resumed run starts; Lightning provides them only after batches were drawn."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epoch, done = self.trainer.current_epoch, loop.epoch_loop.batch_progress.current.ready
        progress = cast(_ProcessedTracker, loop.epoch_progress.current)
        ended = progress.processed > progress.completed  # possibly early
        if ended or done >= self.trainer.num_training_batches:
            epoch, done = epoch + 1, 0
        return {"epoch": epoch, "batches": done, "devices": self.trainer.world_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epoch, self._done = state_dict["epoch"], state_dict["batches"]
        _, devices = self._place
        if devices != state_dict["devices"]:
            raise ProtocolError(
                f"the run was started on {state_dict['devices']} devices and cannot be resumed on {devices}: batches "
                "and learning rates would differ"
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
    """Length-bucketed batches of a dataset, shuffled if a seed is given; parameters as of `BucketBatchSampler`."""
    batch_samples = int(batch_seconds * dataset.store.sample_rate)
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # a DataLoader is typed by its items, not by its batches
        batch_sampler=BucketBatchSampler(dataset.n_samples, batch_samples, seed, weights, rank, world),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
