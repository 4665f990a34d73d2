from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from weakaudio_data_prep.unlabelled import prepare

from weakaudio.data.mixtures import Mixtures, SoundTargets, apply_response, audible, draw_response, mixture_loader
from weakaudio.data.store import ClipStore
from weakaudio.errors import ManifestError, ProtocolError, StoreError

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

    def counted(self: Mixtures, rng: np.random.Generator) -> Any:
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
        np.abs(np.fft.rfft(sound(mixtures, np.random.default_rng(n)).audio)).argmax() * 2 for n in range(60)
    ]  # Hz: the spectrum is of half a second
    assert 0.3 < np.mean(np.abs(np.array(peaks) - 500) > 6) < 0.7  # played at another speed
    assert min(peaks) > 300
    assert max(peaks) < 800


def test_some_mixtures_are_filtered_and_some_are_low_passed(rng: np.random.Generator) -> None:
    noise = rng.standard_normal(RATE).astype(np.float32)
    rngs = [np.random.default_rng(n) for n in range(100)]
    changed = [apply_response(noise, draw_response(rng, RATE, RATE)) for rng in rngs]
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


# ---- targets over time


def steps_of(seconds: float, step: float = 0.08) -> np.ndarray:
    """(R, 2) seconds, centred at multiples of a step."""
    middles = np.arange(int(seconds / step) + 1) * step
    return np.stack([middles - step / 2, middles + step / 2], 1).clip(0, seconds)


def test_a_sound_is_audible_from_its_onset_to_its_decay_and_through_short_pauses() -> None:
    time = np.arange(4 * RATE) / RATE
    steps = np.rint(steps_of(4.0) * RATE).astype(int)
    middles = steps_of(4.0).mean(1)
    tone = np.sin(2 * np.pi * 440 * time)

    def heard(envelope: np.ndarray) -> np.ndarray:
        return audible((0.1 * tone * envelope).astype(np.float32), steps, RATE)

    once, inside = heard((time >= 1.0) & (time < 2.0)), (middles > 1.0) & (middles < 2.0)
    clear = np.abs(middles[:, None] - [1.0, 2.0]).min(1) > 0.05
    np.testing.assert_array_equal(once[clear], inside[clear])
    decaying = heard((time >= 1.0) * 10 ** (1.0 - time))  # by 20 dB a second: 35 dB after 1.75 s
    assert abs(middles[decaying].max() - 2.75) < 0.1
    assert heard(((time < 1.0) | (time >= 1.2)) * 1.0).all()  # a pause of 0.2 s
    assert not heard(((time < 1.0) | (time >= 1.8)) * 1.0).all()
    assert not heard(np.zeros(len(time))).any()


def targets_of(path: Path, folder: str, labels: int = 3) -> Path:
    """A file of targets in which clip n of a store has class n % labels."""
    keys = ClipStore(Path(folder) / "store").keys
    probs = np.eye(labels, dtype=np.float16)[np.arange(len(keys)) % labels]
    with h5py.File(path, "w") as file:
        file["paths"], file["first"], file["probs"] = keys, np.arange(len(keys) + 1), probs
        file.attrs["labels"] = json.dumps([str(n) for n in range(labels)])
    return path


def test_a_target_has_the_classes_of_its_sounds_where_they_are_audible(
    corpora: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, sound = [], Mixtures._sound

    def recorded(self: Mixtures, rng: np.random.Generator) -> Any:
        drawn.append(sound(self, rng))
        return drawn[-1]

    monkeypatch.setattr(Mixtures, "_sound", recorded)
    files = [targets_of(tmp_path / f"{n}.h5", folder) for n, folder in enumerate(corpora)]
    times = steps_of(2.0)
    mixtures = Mixtures(corpora, 2.0, 60, targets=files, times=times)
    plain = Mixtures(corpora, 2.0, 60)
    for n in range(60):
        drawn.clear()
        audio, target = mixtures[n]
        np.testing.assert_array_equal(audio, plain[n])
        assert target.shape == (len(times), 3)
        level = np.array([np.abs(audio[a:b]).max(initial=0) for a, b in np.rint(times * RATE).astype(int)])
        assert (target[level > 0.1 * level.max()].max(1) > 0).all()
        assert set(np.flatnonzero(target.max(0))) <= {one.clip % 3 for one in drawn}
    assert {float(mixtures[n][1].mean()) for n in range(9)} != {1.0}
    waveform, batch = next(iter(mixture_loader(mixtures, 4, workers=0)))
    assert (waveform.shape, batch.shape) == ((4, 2 * RATE), (4, len(times), 3))


def test_targets_of_another_store_or_other_classes_are_refused(corpora: dict[str, float], tmp_path: Path) -> None:
    short, long = corpora
    other = [targets_of(tmp_path / "a.h5", short), targets_of(tmp_path / "b.h5", long, 4)]
    with pytest.raises(ProtocolError, match="same classes"):
        Mixtures(corpora, 1.0, 9, targets=other, times=steps_of(1.0))
    with pytest.raises(StoreError, match="clips are missing"):
        SoundTargets(other[1], ClipStore(Path(short) / "store"))
    (tmp_path / "c.h5").write_bytes(b"nothing")
    with pytest.raises(StoreError, match=r"c\.h5: no targets of sounds"):
        SoundTargets(tmp_path / "c.h5", ClipStore(Path(short) / "store"))


def test_a_long_sound_has_the_classes_of_the_excerpts_that_are_heard(make_wavs: MakeWavs, tmp_path: Path) -> None:
    root = make_wavs({"a/long.wav": np.full(12 * RATE, 0.1, np.float32)})
    prepare(str(root / "a"), str(tmp_path / "long"), RATE, held_out=0.0)
    store = ClipStore(tmp_path / "long" / "store")
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["paths"], file["first"], file["probs"] = store.keys, [0, 3], np.eye(3, dtype=np.float16)
        file.attrs["labels"] = json.dumps(list("abc"))
    targets = SoundTargets(tmp_path / "t.h5", store)
    assert targets(0, 0, RATE).tolist() == [1, 0, 0]
    assert targets(0, 4 * RATE, 6 * RATE).tolist() == [1, 1, 0]
    assert targets(0, 11 * RATE, 12 * RATE).tolist() == [0, 0, 1]
