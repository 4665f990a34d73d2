"""Augmentation: effects and their limits, and reproducibility from seeds alone."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.audio.augment import Effects, WaveformAugmenter, mask_logmel, mixup
from weakaudio.errors import AudioError

RATE = 16000
NOISE = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32) / 10


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(1)
    for n in range(3):
        sf.write(folder / f"{n}.wav", 0.1 * rng.standard_normal(RATE // 2), RATE)
    return str(folder)


def changed(effects: Effects, audio: np.ndarray = NOISE) -> list[np.ndarray]:
    """Those of twelve augmented versions that differ from the clip."""
    augmenter = WaveformAugmenter(effects, RATE)
    found = [augmenter(audio, n) for n in range(12)]
    return [other for other in found if not np.array_equal(other, audio)]


def test_gain_is_within_its_limits() -> None:
    ratios = [20 * np.log10(other / NOISE) for other in changed(Effects(gain_db=6))]
    assert 3 <= len(ratios) <= 9  # a chance of one half
    for ratio in ratios:
        assert np.ptp(ratio) < 1e-2
        assert -6 <= ratio[0] <= 6


def test_a_shift_is_circular() -> None:
    for other in changed(Effects(shift=0.5)):
        spectra = [np.abs(np.fft.rfft(x)) for x in (NOISE, other)]  # equal for a rotation
        assert np.linalg.norm(spectra[0] - spectra[1]) < 0.05 * np.linalg.norm(spectra[0])


def test_polarity_inversion_changes_the_sign() -> None:
    assert changed(Effects(polarity=True))
    assert all(np.array_equal(other, -NOISE) for other in changed(Effects(polarity=True)))


def test_backgrounds_are_5_to_30_db_below_the_clip(sounds: str) -> None:
    found = changed(Effects(backgrounds=sounds))
    assert found
    for other in found:
        ratio = 20 * np.log10(np.std(NOISE) / np.std(other - NOISE))
        assert 4.9 < ratio < 30.1


def test_room_impulse_responses_are_convolved(sounds: str) -> None:
    click = np.zeros(RATE, dtype=np.float32)
    click[0] = 1.0
    rooms = [sf.read(path, dtype="float32")[0] for path in sorted(Path(sounds).iterdir())]
    found = changed(Effects(impulse_responses=sounds), click)
    assert found
    for other in found:
        likeness = [np.corrcoef(other[: len(room)], room)[0, 1] for room in rooms]
        assert max(likeness) > 0.99


@pytest.mark.parametrize("n_samples", [1, 2, 17, 1000])
@pytest.mark.parametrize("silent", [False, True])
def test_the_shortest_clips_keep_their_length(n_samples: int, silent: bool, sounds: str) -> None:
    audio = np.zeros(n_samples, dtype=np.float32) if silent else NOISE[:n_samples]
    augmenter = WaveformAugmenter(Effects(6, 0.5, True, sounds, sounds), RATE)
    for n in range(20):
        other = augmenter(audio, n)
        assert other.shape == audio.shape
        assert other.dtype == np.float32
        assert np.isfinite(other).all()


def test_augmentation_depends_only_on_seed_and_key(sounds: str) -> None:
    effects = Effects(6, 0.5, True, sounds, sounds)
    first, same, other = (WaveformAugmenter(effects, RATE, seed) for seed in (1, 1, 2))
    draws = [first(NOISE, 3, n) for n in range(8)]
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    again = [same(NOISE, 3, n) for n in reversed(range(8))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(draws, again, strict=True))
    assert not all(np.array_equal(a, other(NOISE, 3, n)) for n, a in enumerate(draws))
    assert not all(np.array_equal(a, first(NOISE, 4, n)) for n, a in enumerate(draws))


def test_global_random_states_are_restored(sounds: str) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    WaveformAugmenter(Effects(6, 0.5, True, sounds, sounds), RATE)(NOISE, 0)
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]  # noqa: NPY002


def test_the_input_is_not_modified(sounds: str) -> None:
    before = NOISE.copy()
    changed(Effects(6, 0.5, True, sounds, sounds))
    assert np.array_equal(before, NOISE)


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no audio below it"):
        WaveformAugmenter(Effects(backgrounds=str(tmp_path)), RATE)


@given(
    frames=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    time_mask=st.integers(0, 60),
    mel_mask=st.integers(0, 20),
    seed=st.integers(0, 9),
)
def test_masks_are_one_block_of_frames_and_one_of_mels(
    frames: list[int], time_mask: int, mel_mask: int, seed: int
) -> None:
    n_frames, n_mels = torch.tensor(frames), 16
    logmel = torch.rand(len(frames), max(frames), n_mels) + 1
    for row, length in zip(logmel, frames, strict=True):
        row[length:] = 0
    masked = mask_logmel(logmel, n_frames, time_mask, mel_mask, np.random.default_rng(seed))
    for before, after, length in zip(logmel, masked, frames, strict=True):
        assert torch.equal(before[length:], after[length:])
        hidden = before[:length] != after[:length]
        rows, columns = hidden.all(1), hidden.all(0)
        assert torch.equal(hidden, rows[:, None] | columns)  # complete frames and complete mels only
        assert int(rows.sum()) <= min(time_mask, length // 2)
        assert int(columns.sum()) <= min(mel_mask, n_mels // 2)
        for block in (rows, columns):
            assert int(block.int().diff().abs().sum() + block[0] + block[-1]) in (0, 2)  # connected
        assert torch.allclose(after[:length][hidden], before[:length].mean())


def test_masks_have_all_allowed_lengths() -> None:
    masked = mask_logmel(torch.rand(400, 30, 16) + 1, torch.full((400,), 30), 5, 0, np.random.default_rng(0))
    lengths = [int((row == row[:, :1]).all(1).sum()) for row in masked]
    assert set(lengths) == set(range(6))


@pytest.mark.parametrize("shape", [(), (3,)], ids=["waveforms", "log-mels"])
def test_mixup_equals_a_plain_loop(shape: tuple[int, ...]) -> None:
    lengths = torch.tensor([5, 3, 4])
    values, targets = torch.rand(3, 5, *shape), torch.rand(3, 2)
    for row, length in zip(values, lengths, strict=True):
        row[length:] = 0
    mixed, new_lengths, new_targets = mixup(values, lengths, targets, 0.4, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    partner, weight = rng.permutation(3), rng.beta(0.4, 0.4, 3)
    assert sorted(partner) == [0, 1, 2]
    for b in range(3):
        other, w = int(partner[b]), weight[b]
        assert new_lengths[b] == max(lengths[b], lengths[other])
        assert torch.allclose(new_targets[b], (w * targets[b] + (1 - w) * targets[other]).float())
        for n in range(5):
            if n < lengths[b] and n < lengths[other]:
                expected = w * values[b, n] + (1 - w) * values[other, n]
            else:
                expected = values[b, n] if n < lengths[b] else values[other, n]
            assert torch.allclose(mixed[b, n], expected.float())
