from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from weakaudio.audio.io import read_audio
from weakaudio.errors import AudioError, CheckpointError, WeakAudioError
from weakaudio.networks import WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model, model_checksum, save_model
from weakaudio.transfer.cross_validation import cross_validate
from weakaudio.transfer.features import EmbeddingTransformer, LogMelStatistics

Transformer = EmbeddingTransformer | LogMelStatistics
LABELS = ["bell", "dog", "rain"]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of three classes."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = WeakCNN(3, n_mels=64, width=0.125, depth=1)
        save_model(Model(network, "16k", LABELS).eval(), path)
    return path


@pytest.fixture
def paths(make_wavs: Callable[..., Path], rng: np.random.Generator) -> list[Path]:
    """Twelve clips of 0.04 to 2.1 s at 8 kHz: noise (even) and tones (odd)."""
    files = {}
    for n in range(12):
        size = 320 + 1500 * n
        tone = np.sin(2 * np.pi * 440 * (1 + n / 12) * np.arange(size) / 8000)
        files[f"{n:02d}.wav"] = 0.3 * (tone if n % 2 else rng.standard_normal(size).clip(-3, 3))
    root = make_wavs(files)
    return [root / name for name in files]


@pytest.fixture(params=["f1", "f2", "statistics"])
def transformer(request: pytest.FixtureRequest, model_path: Path) -> Transformer:
    if request.param == "statistics":
        return LogMelStatistics()
    return EmbeddingTransformer(str(model_path), layer=request.param, pooling="max")


def statistics(path: Path) -> NDArray[np.float64]:
    """Of preset 16k, with librosa."""
    audio, rate = read_audio(path, 16000)
    stft = librosa.stft(audio, n_fft=512, hop_length=160, pad_mode="constant")
    power = librosa.feature.melspectrogram(S=np.abs(stft) ** 2, sr=rate, n_mels=64, fmin=20)
    level = (librosa.power_to_db(power, top_db=None) + 100) * 0.02
    return np.concatenate([level.mean(1), level.std(1), np.diff(level).std(1)])


def test_statistics_equal_librosa_and_numpy(paths: list[Path]) -> None:
    found = LogMelStatistics().fit_transform(paths)
    assert found.shape == (12, 3 * 64)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [statistics(path) for path in paths], atol=1e-3)  # 0.05 dB


def test_statistics_of_the_shortest_clip_do_not_deviate(make_wavs: Callable[..., Path]) -> None:
    root = make_wavs({"one.wav": np.array([0.5])})
    found = LogMelStatistics("paper-44k").fit_transform([root / "one.wav"])[0]
    assert np.isfinite(found).all()
    assert (found[128:] == 0).all()


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("layer", ["f1", "f2"])
def test_embeddings_equal_the_network_alone(model_path: Path, paths: list[Path], layer: Any, pooling: Any) -> None:
    found = EmbeddingTransformer(model_path, layer, pooling).fit_transform(paths)
    model = load_model(model_path)
    for vector, path in zip(found, paths, strict=True):
        with torch.inference_mode():
            output = model(torch.from_numpy(read_audio(path, 16000)[0])[None])
        segments = {"f1": output.embeddings, "f2": output.segment_logits.sigmoid()}[layer][0].numpy()
        np.testing.assert_allclose(vector, getattr(segments, pooling)(axis=0), atol=1e-5)


def test_one_named_column_per_feature(transformer: Transformer, paths: list[Path]) -> None:
    found = transformer.fit(paths).transform(paths[:3])
    names = transformer.get_feature_names_out()
    assert found.shape == (3, transformer.n_features_out_) == (3, len(set(names)))
    if getattr(transformer, "layer", None) == "f2":
        assert names.tolist() == LABELS
    table = transformer.set_output(transform="pandas").transform(paths[:3])
    assert table.columns.tolist() == names.tolist()


def test_nothing_is_learned_from_the_recordings(transformer: Transformer, paths: list[Path]) -> None:
    one = clone(transformer).fit(paths[:1], ["rain"]).transform(paths)
    all_reversed = clone(transformer).fit(paths).transform(paths[::-1])
    np.testing.assert_allclose(one, all_reversed[::-1], atol=1e-5)


def test_parameters_are_stored_as_given_and_survive_cloning(transformer: Transformer) -> None:
    parameters = transformer.get_params()
    copy = clone(transformer)
    assert copy.get_params() == parameters
    assert vars(transformer) == parameters
    with pytest.raises(NotFittedError):
        copy.transform(["a.wav"])
    with pytest.raises(NotFittedError):
        copy.get_feature_names_out()


@pytest.mark.parametrize("fitted", [False, True])
def test_pickling_changes_nothing(transformer: Transformer, paths: list[Path], fitted: bool) -> None:
    expected = clone(transformer).fit_transform(paths)
    if fitted:
        transformer.fit(paths)
    copy = pickle.loads(pickle.dumps(transformer))
    if not fitted:
        copy.fit(paths)
    np.testing.assert_array_equal(copy.transform(paths), expected)


def test_a_pipeline_equals_vectors_computed_once(transformer: Transformer, paths: list[Path]) -> None:
    y, folds = ["noise", "tone"] * 6, np.arange(12) // 2 % 3
    classifier = make_pipeline(StandardScaler(), LinearSVC(dual=False))
    from_paths = cross_validate(make_pipeline(transformer, classifier), paths, y, folds)
    once = cross_validate(classifier, transformer.fit_transform(paths), y, folds)
    assert from_paths.accuracies == once.accuracies
    as_text = cross_validate(make_pipeline(transformer, classifier), [str(p) for p in paths], y, folds)
    assert as_text.accuracies == once.accuracies


@pytest.mark.parametrize("wrong", ["a.wav", Path("a.wav"), [], [1.0], [["a.wav"]], np.zeros((2, 2))])
def test_only_sequences_of_paths_are_taken(transformer: Transformer, wrong: Any) -> None:
    with pytest.raises(WeakAudioError, match="expected paths"):
        transformer.fit(wrong)


def test_what_cannot_be_read_is_named(transformer: Transformer, paths: list[Path]) -> None:
    paths[1].write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"01\.wav"):
        transformer.fit(paths).transform(paths)


def test_unknown_names_are_refused_when_fitted(paths: list[Path], model_path: Path) -> None:
    with pytest.raises(CheckpointError, match="untrained-16k"):
        EmbeddingTransformer("no such model").fit(paths)
    with pytest.raises(WeakAudioError, match="f3"):
        EmbeddingTransformer(model_path, layer="f3").fit(paths)  # type: ignore[arg-type]
    with pytest.raises(WeakAudioError, match="min"):
        EmbeddingTransformer(model_path, pooling="min").fit(paths)  # type: ignore[arg-type]
    with pytest.raises(WeakAudioError, match="paper-44k"):
        LogMelStatistics("8k").fit(paths)


def test_origin_names_model_and_front_end(model_path: Path, paths: list[Path]) -> None:
    found = EmbeddingTransformer(model_path).fit(paths).origin_
    assert found == {"model": str(model_path), "checksum": model_checksum(load_model(model_path))}
    assert LogMelStatistics("32k").fit(paths).origin_["front_end"]["sample_rate"] == 32000
