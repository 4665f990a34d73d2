"""Arrays and files give embeddings that know their times and do not know their neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weakaudio.audio.io import read_audio
from weakaudio.errors import AudioError, CheckpointError, WeakAudioError
from weakaudio.inference.embedder import Embedder
from weakaudio.networks import FlashCNN, Network, WeakCNN
from weakaudio.networks.model import Model

RATE = 16000
Audio = NDArray[np.float32]


@pytest.fixture(scope="module")
def model(randomise: Callable[[Network], Network]) -> Model:
    return Model(randomise(WeakCNN(3, n_mels=64, width=1 / 8)), "16k", ["dog", "rain", "saw"]).eval()


@pytest.fixture(scope="module")
def embedder(model: Model) -> Embedder:
    return Embedder(model)


def noise(n: int, seed: int = 0) -> Audio:
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def test_f1_and_f2_are_what_the_network_says(model: Model) -> None:
    audio = noise(3 * RATE + 17)
    output = model(torch.from_numpy(audio)[None])
    f1 = Embedder(model).embed_array(audio, RATE)
    np.testing.assert_allclose(f1.segments, output.embeddings[0].detach(), atol=1e-5)
    f2 = Embedder(model, layer="f2").embed_array(audio, RATE)
    np.testing.assert_allclose(f2.segments, output.segment_logits[0].sigmoid().detach(), atol=1e-5)
    np.testing.assert_allclose(f2.clip, output.clip_probs[0].detach(), atol=1e-5)  # its pooling is the mean
    assert Embedder(model, layer="f2").n_features == 3
    loudest = Embedder(model, pooling="max").embed_array(audio, RATE)
    np.testing.assert_array_equal(loudest.clip, f1.segments.max(0))


def test_layers_and_poolings_are_put_side_by_side(model: Model) -> None:
    audio = noise(3 * RATE)
    f1, f2 = (Embedder(model, layer).embed_array(audio, RATE).segments for layer in ("f1", "f2"))
    embedder = Embedder(model, "f2+f1", "max+std")
    found = embedder.embed_array(audio, RATE)
    both = np.concatenate([f2, f1], 1)
    np.testing.assert_array_equal(found.segments, both)
    np.testing.assert_allclose(found.clip, np.concatenate([both.max(0), both.std(0)]), atol=1e-6)
    names = embedder.feature_names
    assert len(names) == embedder.n_features == len(found.clip)
    assert (names[0], names[3], names[-1]) == ("dog_max", "f1_0_max", f"f1_{f1.shape[1] - 1}_std")
    assert Embedder(model, "f2").feature_names == ["dog", "rain", "saw"]


def test_the_mean_of_f2_is_what_the_network_says_of_the_clip(randomise: Callable[[Network], Network]) -> None:
    """Also of a network that scores a clip by its mean embedding, and wherever f2 stands."""
    network = FlashCNN(3, 64, [("dense", 0, 8), ("dense", 0, 8), ("dense", 0, 16), ("dense", 0, 16)], 10)
    model = Model(randomise(network), "16k", ["dog", "rain", "saw"]).eval()
    audio = noise(3 * RATE)
    with torch.inference_mode():
        probs = model(torch.from_numpy(audio)[None]).clip_probs[0].numpy()
    for layer, first in (("f2", 0), ("f1+f2", 10), ("f2+f1", 0)):
        single = Embedder(model, layer).embed_array(audio, RATE).clip
        np.testing.assert_allclose(single[first : first + 3], probs, atol=1e-5)
        found = Embedder(model, layer, "max+mean").embed_array(audio, RATE)
        width = found.segments.shape[1]
        np.testing.assert_allclose(found.clip[width + first : width + first + 3], probs, atol=1e-5)
        np.testing.assert_array_equal(found.clip[:width], found.segments.max(0))


@pytest.mark.parametrize(("layer", "pooling"), [("f3", "mean"), ("f1+f1", "mean"), ("f1", "median"), ("f1", "max+")])
def test_layers_and_poolings_that_are_not_known_are_refused(model: Model, layer: str, pooling: str) -> None:
    with pytest.raises(WeakAudioError, match=r"unknown; there are|names one twice"):
        Embedder(model, layer, pooling)


def test_times_cover_the_whole_recording(embedder: Embedder) -> None:
    found = embedder.embed_array(noise(5 * RATE + 1), RATE)
    assert found.times.shape == (len(found.segments), 2)
    assert found.times[0, 0] == 0
    assert found.times[-1, 1] == pytest.approx((5 * RATE + 1) / RATE)
    np.testing.assert_allclose(np.diff(found.times[:, 0]), 0.64)  # 64 frames of 10 ms


@settings(max_examples=20)
@given(lengths=st.lists(st.one_of(st.integers(1, 10 * RATE), st.integers(1, 400)), min_size=1, max_size=5))
def test_batch_mates_change_nothing(embedder: Embedder, lengths: list[int]) -> None:
    clips = [noise(n, seed) for seed, n in enumerate(lengths)]
    for clip, together in zip(clips, embedder.embed_clips(clips), strict=True):
        alone = embedder.embed_array(clip, RATE)
        np.testing.assert_allclose(together.segments, alone.segments, atol=1e-5)
        np.testing.assert_allclose(together.clip, alone.clip, atol=1e-5)


def test_files_equal_arrays_in_the_order_given(
    embedder: Embedder, make_wavs: Callable[..., Path], rng: np.random.Generator
) -> None:
    names = [f"{n}.wav" for n in range(70)]  # more than are decoded together
    root = make_wavs({name: noise(int(rng.integers(1, 4000)), n) for n, name in enumerate(names)})
    paths = [root / name for name in reversed(names)]
    rows = embedder.embed_files(paths)
    assert rows.shape == (70, embedder.n_features)
    for row, path in zip(rows[::23], paths[::23], strict=True):
        np.testing.assert_allclose(row, embedder.embed_array(*read_audio(path)).clip, atol=1e-5)
        np.testing.assert_allclose(row, embedder.embed_file(path).clip, atol=1e-5)
    np.testing.assert_array_equal(rows, embedder.embed_files(paths))  # bit-equal
    assert embedder.embed_files([]).shape == (0, embedder.n_features)


def test_the_caller_keeps_a_model_that_can_be_trained(model: Model) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Embedder(model).embed_array(noise(RATE), RATE)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (np.zeros((2, 100), np.float32), "mono"),
        (np.zeros(100, np.int16), "32768"),
        (np.zeros(0, np.float32), "no samples"),
        (np.full(100, np.nan, np.float32), "NaN"),
    ],
)
def test_arrays_that_are_no_audio_are_refused(embedder: Embedder, audio: Audio, reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        embedder.embed_array(audio, RATE)


def test_a_bad_file_is_named(embedder: Embedder, make_wavs: Callable[..., Path]) -> None:
    root = make_wavs({"a.wav": noise(100)})
    (root / "b.wav").write_bytes(b"not audio")
    with pytest.raises(AudioError, match=r"b\.wav"):
        embedder.embed_files([root / "a.wav", root / "b.wav"])


@pytest.mark.parametrize("wrong", [{"layer": "f3"}, {"pooling": "median"}])
def test_unknown_choices_are_refused(model: Model, wrong: dict[str, str]) -> None:
    with pytest.raises(WeakAudioError, match="there are"):
        Embedder(model, **wrong)


def test_unknown_models_are_refused() -> None:
    with pytest.raises(CheckpointError, match="untrained-16k"):
        Embedder.from_pretrained("no-such-model")
