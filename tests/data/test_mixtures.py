from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from weakaudio_data_prep.unlabelled import prepare

from weakaudio.data.mixtures import Mixtures, _filter, mixture_loader
from weakaudio.errors import ManifestError, ProtocolError

MakeWavs = Callable[..., Path]
RATE = 8000


@pytest.fixture
def corpora(make_wavs: MakeWavs, tmp_path: Path) -> dict[str, float]:
    """A corpus of short sounds, one of them a single sample, and a corpus of longer sounds."""
    rng = np.random.default_rng(0)
    root = make_wavs(
        {
            **{f"short/{n}.wav": 0.1 * rng.standard_normal(RATE // 4).astype(np.float32) for n in range(30)},
            "short/sample.wav": np.array([0.5], dtype=np.float32),
            **{f"long/{n}.wav": 0.1 * rng.standard_normal(RATE).astype(np.float32) for n in range(16)},
        }
    )
    for name in ("short", "long"):
        prepare(str(root / name), str(tmp_path / name), RATE, held_out=0.2)
    return {str(tmp_path / "short"): 3.0, str(tmp_path / "long"): 1.0}


def test_mixtures_have_their_length_stay_within_full_scale_and_differ(corpora: dict[str, float]) -> None:
    mixtures = Mixtures(corpora, 0.5, 60)
    items = [mixtures[n] for n in range(len(mixtures))]
    assert all(item.shape == (RATE // 2,) and item.dtype == np.float32 for item in items)
    peaks = np.array([np.abs(item).max() for item in items])
    assert peaks.max() <= 1 + 1e-6
    assert peaks.min() > 0
    assert peaks.max() / peaks.min() > 3  # levels differ
    assert len({item.tobytes() for item in items}) == len(items)


def test_a_mixture_depends_only_on_the_seed_and_its_index(corpora: dict[str, float]) -> None:
    some, again, other = (Mixtures(corpora, 0.5, 10, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(some[7], again[7])
    assert not np.array_equal(some[7], other[7])


def test_only_the_selected_clips_are_used(corpora: dict[str, float]) -> None:
    train = Mixtures(corpora, 0.5, 10, where={"split": "train"})
    val = Mixtures(corpora, 0.5, 10, where={"split": "val"})
    for one, other, store in zip(train.clips, val.clips, train.stores, strict=True):
        assert not set(one) & set(other)
        assert len(one) + len(other) == len(store)
    with pytest.raises(ManifestError, match="no clip"):
        Mixtures(corpora, 0.5, 10, where={"split": "test"})


def test_a_large_folder_does_not_dominate_the_others(make_wavs: MakeWavs, tmp_path: Path) -> None:
    noise = np.full(100, 0.1, dtype=np.float32)
    root = make_wavs({f"many/{n}.wav": noise for n in range(64)} | {f"few/{n}.wav": noise for n in range(4)})
    prepare(str(root), str(tmp_path / "out"), RATE, held_out=0.0)
    mixtures = Mixtures({str(tmp_path / "out"): 1.0}, 0.5, 10)
    few = ["/few/" in mixtures.stores[0].keys[n] for n in mixtures.clips[0]]
    assert mixtures.probabilities[0][few].sum() == pytest.approx(2 / (2 + 8))
    assert mixtures.probabilities[0].sum() == pytest.approx(1.0)


def test_corpora_of_different_rates_are_refused(
    corpora: dict[str, float], make_wavs: MakeWavs, tmp_path: Path
) -> None:
    root = make_wavs({"x/a.wav": np.ones(100, dtype=np.float32)})
    prepare(str(root / "x"), str(tmp_path / "x"), 16000, held_out=0.0)
    with pytest.raises(ProtocolError, match=r"one sample rate, got \[8000, 16000\]"):
        Mixtures({**corpora, str(tmp_path / "x"): 1.0}, 0.5, 10)
    with pytest.raises(ProtocolError, match="one sample rate, got \\[\\]"):
        Mixtures({}, 0.5, 10)


def test_mixtures_differ_in_number_speed_and_colour_of_their_sounds(
    corpora: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixtures = Mixtures(corpora, 0.5, 200)
    counts, sound = [], Mixtures._sound

    def counted(self: Mixtures, rng: np.random.Generator) -> np.ndarray:
        counts.append(1)
        return sound(self, rng)

    monkeypatch.setattr(Mixtures, "_sound", counted)
    numbers = []
    for n in range(len(mixtures)):
        counts.clear()
        mixtures[n]
        numbers.append(len(counts))
    assert set(numbers) == {1, 2, 3, 4}
    assert 0.3 < np.mean(np.array(numbers) == 1) < 0.6

    tone = np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE).astype(np.float32)
    monkeypatch.setattr(mixtures.stores[0], "audio", lambda n: tone)
    monkeypatch.setattr(mixtures.stores[1], "audio", lambda n: tone)
    peaks = [
        np.abs(np.fft.rfft(sound(mixtures, np.random.default_rng(n)))).argmax() * 2 for n in range(60)
    ]  # Hz: the spectrum is of half a second
    assert 0.3 < np.mean(np.abs(np.array(peaks) - 500) > 6) < 0.7  # played at another speed
    assert min(peaks) > 300
    assert max(peaks) < 800


def test_some_mixtures_are_filtered_and_some_are_low_passed(rng: np.random.Generator) -> None:
    noise = rng.standard_normal(RATE).astype(np.float32)
    changed = [_filter(noise, RATE, np.random.default_rng(n)) for n in range(100)]
    plain = np.mean([np.array_equal(one, noise) for one in changed])
    assert 0.15 < plain < 0.5
    spectra = [np.abs(np.fft.rfft(one)) for one in changed]
    cut = np.mean([spectrum[-100:].max() < 1e-3 * spectrum.max() for spectrum in spectra])
    assert 0.15 < cut < 0.45


def test_validation_mixtures_are_the_same_in_every_epoch(corpora: dict[str, float]) -> None:
    mixtures = Mixtures(corpora, 0.1, 6)
    loader = mixture_loader(mixtures, batch_size=4, workers=0)
    first, second = (torch.cat(list(loader)) for _ in range(2))
    assert torch.equal(first, second)
    assert len(first) == 6
    with pytest.raises(IndexError):
        mixtures[6]


@pytest.mark.parametrize("workers", [0, 1])
def test_epochs_continue_without_a_gap(corpora: dict[str, float], workers: int) -> None:
    """A resumed run gets the same mixtures as an uninterrupted one."""
    mixtures = Mixtures(corpora, 0.1, 1000)
    loader = mixture_loader(mixtures, batch_size=3, epoch_steps=2, workers=workers)
    batches = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # as Lightning does
        batches += list(loader)
    expected = torch.from_numpy(np.stack([mixtures[n] for n in range(12)]))
    torch.testing.assert_close(torch.cat(batches), expected, rtol=0, atol=0)
