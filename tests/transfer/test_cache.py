from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.inference.embedder import Embedder
from weakaudio.networks import WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained import save_model
from weakaudio.transfer.features import EmbeddingTransformer


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(Model(WeakCNN(3, n_mels=64, width=0.125, depth=1), "16k", ["a", "b", "c"]).eval(), path)
    return path


@pytest.fixture
def paths(make_wavs: Callable[..., Path], rng: np.random.Generator) -> list[Path]:
    root = make_wavs({f"{n}.wav": 0.1 * rng.standard_normal(800 + 100 * n) for n in range(6)})
    return [root / f"{n}.wav" for n in range(6)]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recordings that go through a network."""
    names: list[str] = []
    embed = Embedder.embed_files

    def spy(self: Embedder, files: list[Path]) -> np.ndarray:
        names.extend(Path(file).name for file in files)
        return embed(self, files)

    monkeypatch.setattr(Embedder, "embed_files", spy)
    return names


def test_nothing_is_heard_twice_and_the_result_is_the_same(
    model_path: Path, paths: list[Path], tmp_path: Path, heard: list[str]
) -> None:
    plain = EmbeddingTransformer(model_path).fit_transform(paths)
    heard.clear()
    cached = EmbeddingTransformer(model_path, cache=tmp_path / "cache")
    np.testing.assert_allclose(cached.fit_transform(paths[:4]), plain[:4], atol=1e-5)
    np.testing.assert_allclose(cached.fit_transform(paths[::-1]), plain[::-1], atol=1e-5)
    assert heard == ["0.wav", "1.wav", "2.wav", "3.wav", "5.wav", "4.wav"]
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_another_model_layer_pooling_or_recording_is_heard_anew(
    model_path: Path, paths: list[Path], tmp_path: Path, heard: list[str]
) -> None:
    cache = tmp_path / "cache"
    EmbeddingTransformer(model_path, cache=cache).fit_transform(paths[:1])
    torch.manual_seed(5)
    other = tmp_path / "other.safetensors"
    save_model(Model(WeakCNN(3, n_mels=64, width=0.125, depth=1), "16k", ["a", "b", "c"]).eval(), other)
    for transformer in (
        EmbeddingTransformer(other, cache=cache),
        EmbeddingTransformer(model_path, layer="f2", cache=cache),
        EmbeddingTransformer(model_path, pooling="max", cache=cache),
    ):
        heard.clear()
        transformer.fit_transform(paths[:1])
        assert heard == ["0.wav"]
    heard.clear()
    sf.write(paths[0], np.full(800, 0.1), 8000, subtype="PCM_16")  # the same length, at another time
    os.utime(paths[0], ns=(1, 1))
    changed = EmbeddingTransformer(model_path, cache=cache).fit_transform(paths[:1])
    assert heard == ["0.wav"]
    np.testing.assert_allclose(changed, EmbeddingTransformer(model_path).fit_transform(paths[:1]), atol=1e-5)


def test_what_cannot_be_used_is_named(model_path: Path, paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeakAudioError, match="cache of embeddings cannot be used"):
        EmbeddingTransformer(model_path, cache=tmp_path / "file" / "cache").fit_transform(paths)
    with pytest.raises(AudioError, match=r"nowhere\.wav"):
        EmbeddingTransformer(model_path, cache=tmp_path / "cache").fit_transform([tmp_path / "nowhere.wav"])
    cached = EmbeddingTransformer(model_path, cache=tmp_path / "cache")
    cached.fit_transform(paths[:1])
    (known,) = (tmp_path / "cache").rglob("*.npy")
    known.write_bytes(b"damaged")
    with pytest.raises(WeakAudioError, match="delete it"):
        cached.fit_transform(paths[:1])
