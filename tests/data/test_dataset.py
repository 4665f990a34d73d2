from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.data.corpus import LABELS, MANIFEST, STORE, Corpus
from weakaudio.data.dataset import (
    BucketBatchSampler,
    ClipDataModule,
    ClipDataset,
    bucket,
    clip_loader,
    collate,
    pad,
)
from weakaudio.data.store import StoreWriter
from weakaudio.errors import ManifestError

lengths_of_clips = st.lists(st.one_of(st.integers(1, 480000), st.sampled_from([160000, 80000, 1])), max_size=60)


def audioset_lengths(count: int = 5000, rate: int = 16000) -> np.ndarray:
    """70 % of 10 s, the others log-uniform from 2 to 30 s."""
    rng = np.random.default_rng(0)
    other = np.exp(rng.uniform(np.log(2), np.log(30), count))
    return (np.where(rng.random(count) < 0.7, 10.0, other) * rate).astype(np.int64)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 clips of 50 to 2000 samples at 1 kHz, clip n beginning with the sample value n."""
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


@given(
    lengths=lengths_of_clips,
    batch_samples=st.integers(1, 10**6),
    seed=st.one_of(st.none(), st.integers(0, 9)),
)
def test_buckets_hold_every_clip_once_within_size_and_padding(
    lengths: list[int], batch_samples: int, seed: int | None
) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    batches = bucket(lengths, batch_samples, rng)
    assert sorted(n for batch in batches for n in batch) == list(range(len(lengths)))
    for batch in batches:
        own = [lengths[n] for n in batch]
        padded = max(own) * len(own)
        if len(own) > 1:
            assert padded <= batch_samples
            assert 20 * (padded - sum(own)) <= padded  # 5 %


def test_clips_of_one_length_fill_their_batches() -> None:
    assert [len(batch) for batch in bucket([100] * 10, 400)] == [4, 4, 2]


def test_padding_of_audioset_like_lengths_is_under_five_percent() -> None:
    lengths = audioset_lengths()
    batches = bucket(lengths, 160 * 16000, np.random.default_rng(0))
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    assert 1 - lengths.sum() / padded < 0.05
    assert len(batches) < 2 * lengths.sum() / (160 * 16000)  # and not by making a batch of each clip


def test_seed_and_epoch_alone_decide_the_batches() -> None:
    lengths = audioset_lengths(300)
    first, resumed = BucketBatchSampler(lengths, 10**6, 1), BucketBatchSampler(lengths, 10**6, 1)
    epochs = []
    for epoch in range(3):
        first.set_epoch(epoch)
        epochs.append(list(first))
        assert len(first) == len(epochs[-1])
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]
    assert list(BucketBatchSampler(lengths, 10**6, 1)) == epochs[0]
    assert epochs[0] != epochs[1] != epochs[2]
    assert list(BucketBatchSampler(lengths, 10**6, 2)) != epochs[0]


def test_clips_that_meet_in_a_batch_differ_by_epoch() -> None:
    sampler = BucketBatchSampler(np.full(100, 50), 500, 0)
    before = {frozenset(batch) for batch in sampler}
    sampler.set_epoch(1)
    assert before != {frozenset(batch) for batch in sampler}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_padding_is_zeros_after_each_clip(lengths: list[int]) -> None:
    waveform, counts = pad([np.full(n, n, dtype=np.float32) for n in lengths])
    assert counts.tolist() == lengths
    assert waveform.tolist() == [[float(n)] * n + [0.0] * (max(lengths) - n) for n in lengths]


def test_collate_keeps_audio_labels_and_number_together() -> None:
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


def test_a_split_that_does_not_exist_is_refused(corpus: Path) -> None:
    with pytest.raises(ManifestError, match="no clip with"):
        ClipDataset(Corpus(corpus), {"split": "test"})
