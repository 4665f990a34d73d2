from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.audio.augment import Effects
from weakaudio.data.corpus import LABELS, MANIFEST, STORE, Corpus
from weakaudio.data.datamodule import ClipDataModule, ClipDataset, clip_loader, collate, pad
from weakaudio.data.sampling import Draw
from weakaudio.data.store import StoreWriter
from weakaudio.errors import ManifestError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 clips of 50 to 2000 samples at 1 kHz; the first sample of clip n is n."""
    root = tmp_path_factory.mktemp("corpus")
    rng, rows = np.random.default_rng(0), []
    with StoreWriter(root / STORE, 1000, shard_samples=5000) as writer:
        for n in range(30):
            audio = rng.integers(1, 1000, int(rng.integers(50, 2000)), dtype=np.int16)
            audio[0] = n
            labels = ["dog", "rain"][: 1 + n % 2]
            writer.add(f"{n}.wav", audio, labels)
            rows.append({"path": f"{n}.wav", "labels": ";".join(labels), "split": "val" if n % 3 else "train"})
    (root / LABELS).write_text("dog\nrain\n")
    pd.DataFrame(rows).to_csv(root / MANIFEST, index=False)
    return root


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_clips_are_padded_with_zeros(lengths: list[int]) -> None:
    waveform, counts = pad([np.full(n, n, dtype=np.float32) for n in lengths])
    assert counts.tolist() == lengths
    assert waveform.tolist() == [[float(n)] * n + [0.0] * (max(lengths) - n) for n in lengths]


def test_collate_keeps_audio_labels_and_index_together() -> None:
    items = [(np.float32([1, 2]), np.float32([0, 1]), 7), (np.float32([3]), np.float32([1, 0]), 2)]
    batch = collate(items)
    assert batch.waveform.tolist() == [[1, 2], [3, 0]]
    assert batch.lengths.tolist() == [2, 1]
    assert batch.targets.tolist() == [[0, 1], [1, 0]]
    assert batch.clips.tolist() == [7, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_yields_each_clip_of_its_split_with_its_labels(corpus: Path, workers: int) -> None:
    dataset = ClipDataset(Corpus(corpus), {"split": "val"})
    seen = []
    for batch in clip_loader(dataset, batch_seconds=4.0, workers=workers, seed=0):
        assert batch.waveform.numel() <= 4000 or len(batch.lengths) == 1
        for waveform, length, target, position in zip(*batch, strict=True):
            number = round(float(waveform[0]) * 32768)
            seen.append(number)
            assert number == [n for n in range(30) if n % 3][position]
            assert target.tolist() == [1.0, float(number % 2)]
            assert (waveform[:length][1:] != 0).all()
            assert torch.count_nonzero(waveform[length:]) == 0
    assert sorted(seen) == [n for n in range(30) if n % 3]


def test_data_module_trains_on_one_split_and_validates_on_the_other(corpus: Path) -> None:
    data = ClipDataModule(str(corpus), batch_seconds=4.0, workers=0)
    counts = [
        sum(len(batch.clips) for batch in loader) for loader in (data.train_dataloader(), data.val_dataloader())
    ]
    assert counts == [10, 20]
    assert (data.labels, data.sample_rate) == (["dog", "rain"], 1000)


def test_a_missing_split_is_refused(corpus: Path) -> None:
    with pytest.raises(ManifestError, match="no clip with"):
        ClipDataset(Corpus(corpus), {"split": "test"})


class Negative:
    """An augmenter that inverts clips and records its keys."""

    def __init__(self) -> None:
        self.keys: list[tuple[int, ...]] = []

    def __call__(self, audio: np.ndarray, *key: int) -> np.ndarray:
        self.keys.append(key)
        return -audio


def test_only_draws_are_augmented_with_epoch_and_number_as_key(corpus: Path) -> None:
    negative = Negative()
    dataset = ClipDataset(Corpus(corpus), {"split": "train"}, negative)  # type: ignore[arg-type]
    audio, labels, n = dataset[3]
    other = dataset[Draw(3, 7, 5)]
    assert np.array_equal(other[0], -audio)
    assert (other[1].tolist(), other[2]) == (labels.tolist(), n)
    assert negative.keys == [(7, 5)]


def test_validation_clips_are_never_augmented(corpus: Path) -> None:
    data = ClipDataModule(str(corpus), batch_seconds=4.0, workers=0, augment=Effects(gain_db=20, polarity=True))
    plain = ClipDataModule(str(corpus), batch_seconds=4.0, workers=0)
    for loader in (data.train_dataloader, data.val_dataloader):
        same = [
            torch.equal(a.waveform, b.waveform)
            for a, b in zip(loader(), getattr(plain, loader.__name__)(), strict=True)
        ]
        assert all(same) == (loader is data.val_dataloader or loader.__name__ == "val_dataloader")


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_does_not_depend_on_the_number_of_workers(corpus: Path, workers: int) -> None:
    def epoch(workers: int) -> list[torch.Tensor]:
        effects = Effects(gain_db=20, shift=0.5, polarity=True)
        data = ClipDataModule(str(corpus), batch_seconds=4.0, workers=workers, augment=effects)
        return [batch.waveform for batch in data.train_dataloader()]

    for one, other in zip(epoch(workers), epoch(0), strict=True):
        assert torch.equal(one, other)


def test_balanced_batches_have_equal_class_frequencies(corpus: Path) -> None:
    data = ClipDataModule(str(corpus), batch_seconds=4.0, workers=0, balanced=True)
    loader = data.train_dataloader()
    counts = np.zeros(2)
    for epoch in range(60):
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        counts += sum(batch.targets.sum(0).numpy() for batch in loader)
    # All ten clips have "dog" and half have "rain": drawn by class, three of four have both.
    assert counts[1] / counts[0] == pytest.approx(0.75, abs=0.06)
