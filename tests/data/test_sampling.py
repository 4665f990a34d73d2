"""Batches: padding, seeds, class balance and sharding over devices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.data.sampling import BucketBatchSampler, balanced_weights, bucket
from weakaudio.errors import ProtocolError

lengths_of_clips = st.lists(st.one_of(st.integers(1, 480000), st.sampled_from([160000, 80000, 1])), max_size=60)


def audioset_lengths(count: int = 5000, rate: int = 16000) -> np.ndarray:
    """70 % of 10 s, the others log-uniform from 2 to 30 s."""
    rng = np.random.default_rng(0)
    other = np.exp(rng.uniform(np.log(2), np.log(30), count))
    return (np.where(rng.random(count) < 0.7, 10.0, other) * rate).astype(np.int64)


@given(lengths=lengths_of_clips, batch_samples=st.integers(1, 10**6), seed=st.one_of(st.none(), st.integers(0, 9)))
def test_each_clip_is_in_one_bucket_within_size_and_padding(
    lengths: list[int], batch_samples: int, seed: int | None
) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    batches = bucket(lengths, batch_samples, rng)
    assert sorted(n for batch in batches for n in batch) == list(range(len(lengths)))
    for batch in batches:
        members = [lengths[n] for n in batch]
        padded = max(members) * len(members)
        if len(members) > 1:
            assert padded <= batch_samples
            assert 20 * (padded - sum(members)) <= padded  # 5 %


def test_clips_of_equal_length_fill_their_batches() -> None:
    assert [len(batch) for batch in bucket([100] * 10, 400)] == [4, 4, 2]


def test_padding_of_audioset_like_lengths_is_under_five_percent() -> None:
    lengths = audioset_lengths()
    batches = bucket(lengths, 160 * 16000, np.random.default_rng(0))
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    assert 1 - lengths.sum() / padded < 0.05
    assert len(batches) < 2 * lengths.sum() / (160 * 16000)  # not achieved by batches of single clips


def test_batches_depend_only_on_seed_and_epoch() -> None:
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


def test_clips_are_shuffled_between_batches_every_epoch() -> None:
    sampler = BucketBatchSampler(np.full(100, 50), 500, 0)
    before = {frozenset(batch) for batch in sampler}
    sampler.set_epoch(1)
    assert before != {frozenset(batch) for batch in sampler}


@given(
    lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=60),
    world=st.integers(1, 5),
    batch_samples=st.integers(1, 3000),
    epoch=st.integers(0, 3),
)
def test_each_clip_is_on_one_device_and_all_devices_have_as_many_batches(
    lengths: list[int], world: int, batch_samples: int, epoch: int
) -> None:
    n_samples = np.array(lengths)
    if len(lengths) < world:
        with pytest.raises(ProtocolError, match=f"{len(lengths)} clips are too few for {world} devices"):
            BucketBatchSampler(n_samples, batch_samples, 1, None, 0, world)
        return
    shares = [BucketBatchSampler(n_samples, batch_samples, 1, None, rank, world) for rank in range(world)]
    for share in shares:
        share.set_epoch(epoch)
    assert len({len(share) for share in shares}) == 1
    assert all(len(list(share)) == len(share) for share in shares)
    draws = [draw for share in shares for batch in share for draw in batch]
    assert sorted(draw.clip for draw in draws) == list(range(len(lengths)))
    assert sorted(draw.number for draw in draws) == list(range(len(lengths)))
    assert {draw.epoch for draw in draws} == {epoch}
    assert all(batch for share in shares for batch in share)


def test_two_devices_share_the_batches_of_one() -> None:
    lengths = np.full(300, 100)
    one = BucketBatchSampler(lengths, 1000, 1)
    assert len(one) == 30
    two = [BucketBatchSampler(lengths, 1000, 1, None, rank, 2) for rank in range(2)]
    assert [batch for pair in zip(*two, strict=True) for batch in pair] == list(one)


def test_a_sampler_resumes_within_an_epoch() -> None:
    lengths = audioset_lengths(300)
    whole, resumed = (BucketBatchSampler(lengths, 10**6, 1) for _ in range(2))
    whole.set_epoch(2)
    resumed.resume(2, 4)
    assert list(resumed) == list(whole)[4:]
    assert len(resumed) == len(whole)
    for sampler in (whole, resumed):
        sampler.set_epoch(3)
    assert list(resumed) == list(whole)


@given(st.integers(0, 99))
def test_balanced_weights_draw_a_class_and_then_one_of_its_clips(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = (rng.random((20, 5)) < 0.2).astype(np.float32)
    classes = [c for c in range(5) if targets[:, c].any()]
    if not classes:
        return
    expected = np.zeros(20)
    for c in classes:
        clips = np.flatnonzero(targets[:, c])
        for clip in clips:
            expected[clip] += 1 / len(classes) / len(clips)
    weights = balanced_weights(targets)
    np.testing.assert_allclose(weights, expected)
    assert weights.sum() == pytest.approx(1.0)


def test_clips_without_labels_cannot_be_balanced() -> None:
    with pytest.raises(ProtocolError, match="no clip has a label"):
        balanced_weights(np.zeros((3, 2)))


@pytest.mark.parametrize("world", [1, 3])
def test_balanced_epochs_have_equally_many_batches_and_follow_the_weights(world: int) -> None:
    lengths = audioset_lengths(300)
    weights = np.full(300, 1 / 330)
    weights[:30] = 2 / 330
    counts = np.zeros(300)
    sizes = set()
    for epoch in range(100):
        for rank in range(world):
            sampler = BucketBatchSampler(lengths, 10**6, 1, weights, rank, world)
            sampler.set_epoch(epoch)
            sizes.add(len(list(sampler)))
            for draw in (draw for batch in sampler for draw in batch):
                counts[draw.clip] += 1
    assert len(sizes) == 1
    assert counts[:30].mean() / counts[30:].mean() == pytest.approx(2.0, rel=0.1)
