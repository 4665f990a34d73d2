"""HEAR's common API (https://hearbenchmark.com/hear-api.html): the rules that its validator checks, and more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from weakaudio.audio.frontend import FrontEnd
from weakaudio.errors import AudioError, CheckpointError, WeakAudioError
from weakaudio.inference import DEFAULT_MODEL, hear
from weakaudio.inference.embedder import Embedder
from weakaudio.inference.hear import HearModel, get_scene_embeddings, get_timestamp_embeddings
from weakaudio.networks import FlashCNN, MobileNet, Network, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.networks.panns import Cnn14
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model

STAGES = (("dense", 1, 4), ("dense", 1, 4), ("dense", 1, 8), ("dense", 1, 8))
NETWORKS: dict[str, tuple[Callable[[], Network], str]] = {
    "weakcnn": (lambda: WeakCNN(3, n_mels=64, width=1 / 8), "16k"),
    "weakcnn-paper": (lambda: WeakCNN(3, n_mels=128, width=1 / 16, coverage="paper"), "paper-44k"),
    "flash": (lambda: FlashCNN(3, n_mels=128, stages=STAGES, n_features=8), "efficientat-32k"),
    "mobilenet": (lambda: MobileNet(3, n_mels=128, width=0.1), "32k"),
    "cnn14": (lambda: Cnn14(3, width=1 / 32), "panns-32k"),
}
LABELS = ["dog", "rain", "saw"]


@pytest.fixture(scope="module", params=NETWORKS)
def original(request: pytest.FixtureRequest, randomise: Callable[[Network], Network]) -> Model:
    make, front_end = NETWORKS[request.param]
    return Model(randomise(make()), front_end, LABELS).eval()


@pytest.fixture(scope="module")
def model(original: Model, tmp_path_factory: pytest.TempPathFactory) -> HearModel:
    path = tmp_path_factory.mktemp("hear") / "model.safetensors"
    save_model(original, path)
    return hear.load_model(str(path))


def noise(n_sounds: int, n_samples: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(n_sounds, n_samples, generator=torch.Generator().manual_seed(seed)) - 1


def hop(model: HearModel) -> float:
    """Milliseconds"""
    front_end = model.model.front_end
    return 1000 * model.model.network.geometry.hop * front_end.hop_length / front_end.sample_rate


def test_the_model_says_what_it_takes_and_gives(model: HearModel, original: Model) -> None:
    assert isinstance(model, nn.Module)
    assert model.sample_rate == original.sample_rate
    assert type(model.sample_rate) is type(model.scene_embedding_size) is type(model.timestamp_embedding_size) is int
    assert not model.training


@pytest.mark.parametrize("seconds", [1.07, 1.98, 2.74, 4.0])
def test_embeddings_are_regular_and_reach_the_end(model: HearModel, seconds: float) -> None:
    audio = noise(2, int(seconds * model.sample_rate))
    embeddings, timestamps = get_timestamp_embeddings(audio, model)
    assert embeddings.dtype == torch.float32
    assert (embeddings.ndim, len(embeddings), embeddings.shape[2]) == (3, 2, model.timestamp_embedding_size)
    assert timestamps.shape == embeddings.shape[:2]
    assert torch.equal(timestamps[0], timestamps[1])
    assert embeddings.isfinite().all()
    apart = torch.diff(timestamps[0])
    assert ((apart - hop(model)).abs() < 1e-3).all()
    assert 0 <= timestamps.min() <= hop(model)
    assert 1000 * seconds - 2 * hop(model) <= timestamps.max() <= 1000 * seconds


def test_scenes_are_vectors_of_the_size_that_was_said(model: HearModel) -> None:
    audio = noise(4, int(0.74 * model.sample_rate))
    audio[1] = torch.sin(torch.arange(audio.shape[1]) * 0.1)
    scenes = get_scene_embeddings(audio, model)
    assert scenes.dtype == torch.float32
    assert scenes.shape == (4, model.scene_embedding_size)
    assert scenes.isfinite().all()
    assert not torch.allclose(scenes[0], scenes[1], atol=1e-2)


def test_they_are_what_the_embedder_says(model: HearModel, original: Model) -> None:
    audio = noise(1, 2 * model.sample_rate + 17)
    expected = Embedder(original).embed_array(audio[0].numpy(), model.sample_rate)
    np.testing.assert_allclose(get_scene_embeddings(audio, model)[0], expected.clip, atol=1e-5)
    embeddings, timestamps = get_timestamp_embeddings(audio, model)
    np.testing.assert_allclose(embeddings[0], expected.segments, atol=1e-5)
    inside = expected.times[1:-1]  # those that are not cut at an end of the clip
    np.testing.assert_allclose(timestamps[0, 1:-1], 1000 * inside.mean(1), atol=1e-3)


def test_a_sound_does_not_know_the_others(model: HearModel) -> None:
    audio = noise(3, model.sample_rate)
    audio[1] *= 0.01
    audio[2] = 0
    scenes, (segments, _) = get_scene_embeddings(audio, model), get_timestamp_embeddings(audio, model)
    rounding = 1e-5 * max(1.0, float(segments.max()))
    for n in range(3):
        alone = audio[n : n + 1]
        np.testing.assert_allclose(get_scene_embeddings(alone, model)[0], scenes[n], atol=rounding)
        np.testing.assert_allclose(get_timestamp_embeddings(alone, model)[0][0], segments[n], atol=rounding)


def test_the_shortest_sound_is_one_sample(model: HearModel) -> None:
    embeddings, timestamps = get_timestamp_embeddings(noise(2, 1), model)
    assert embeddings.shape == (2, 1, model.timestamp_embedding_size)
    assert ((timestamps >= 0) & (timestamps <= 1000 / model.sample_rate)).all()
    assert get_scene_embeddings(noise(2, 1), model).isfinite().all()


def test_a_timestamp_is_where_the_sound_is(model: HearModel) -> None:
    """A short noise changes the embeddings around its own time."""
    audio = torch.zeros(2, 6 * model.sample_rate)
    at, lasting = 3 * model.sample_rate, model.sample_rate // 2
    audio[1, at : at + lasting] = noise(1, lasting)[0]
    embeddings, timestamps = get_timestamp_embeddings(audio, model)
    change = (embeddings[1] - embeddings[0]).square().sum(1)
    assert abs(float((change * timestamps[0]).sum() / change.sum()) - 3250) < hop(model)


@pytest.mark.parametrize(
    "audio",
    [
        torch.zeros(100),
        torch.zeros(1, 2, 100),
        torch.zeros(2, 100, dtype=torch.int16),
        torch.zeros(2, 0),
        torch.zeros(0, 100),
        torch.tensor([[0.0, torch.nan]]),
        torch.tensor([[0.0, torch.inf]]),
    ],
    ids=["one dimension", "channels", "integers", "no samples", "no sounds", "NaN", "infinite"],
)
def test_what_is_no_audio_is_refused(audio: Tensor) -> None:
    model = HearModel(Model(WeakCNN(3, n_mels=64, width=1 / 16).eval(), "16k", LABELS))
    for function in (get_scene_embeddings, get_timestamp_embeddings):
        with pytest.raises(AudioError, match="audio"):
            function(audio, model)


def test_results_can_feed_a_classifier_that_learns(model: HearModel) -> None:
    scenes = get_scene_embeddings(noise(2, model.sample_rate), model)
    head = nn.Linear(model.scene_embedding_size, 1)
    head(scenes).sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0


def test_without_a_path_it_is_the_model_that_ships() -> None:
    model = hear.load_model()
    shipped = load_model(DEFAULT_MODEL)
    assert (model.sample_rate, model.scene_embedding_size) == (shipped.sample_rate, shipped.network.n_features)
    audio = noise(1, model.sample_rate)
    expected = Embedder(shipped).embed_array(audio[0].numpy(), model.sample_rate).clip
    np.testing.assert_allclose(get_scene_embeddings(audio, model)[0], expected, atol=1e-5)


def test_rates_at_which_hear_has_no_recordings_are_refused(tmp_path: Path) -> None:
    front_end = FrontEnd("8k", 8000, n_fft=256, hop_length=80, n_mels=64)
    path = tmp_path / "model.safetensors"
    save_model(Model(WeakCNN(3, n_mels=64, width=1 / 16), front_end, LABELS), path)
    with pytest.raises(WeakAudioError, match=r"model\.safetensors: a model for 8000 Hz.*16000, 22050, 32000"):
        hear.load_model(str(path))


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing here"):
        hear.load_model(str(tmp_path / "nothing here.safetensors"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_results_are_on_the_device_of_the_audio(original: Model) -> None:
    moved = HearModel(original).cuda()
    audio = noise(2, moved.sample_rate)
    for given in (audio, audio.cuda()):
        embeddings, timestamps = get_timestamp_embeddings(given, moved)
        assert embeddings.device == timestamps.device == get_scene_embeddings(given, moved).device == given.device
