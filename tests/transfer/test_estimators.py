"""Estimators follow scikit-learn's conventions; transformers equal the network, librosa and each other; the cache."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from weakaudio.audio.io import read_audio
from weakaudio.errors import AudioError, CheckpointError, WeakAudioError
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.embedder import Embedder
from weakaudio.networks import WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import model_checksum, save_model
from weakaudio.pretrained.registry import load_model
from weakaudio.transfer.cross_validation import cross_validate
from weakaudio.transfer.estimators import (
    EmbeddingTransformer,
    LogMelStatistics,
    SegmentPooler,
    WeakAudioClassifier,
)

Transformer = EmbeddingTransformer | LogMelStatistics
LABELS = ["bell", "dog", "rain"]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small network of three classes."""
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
    """Statistics of front end 16k, with librosa."""
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


def test_deviations_of_a_single_frame_are_zero(make_wavs: Callable[..., Path]) -> None:
    root = make_wavs({"one.wav": np.array([0.5])})
    found = LogMelStatistics("paper-44k").fit_transform([root / "one.wav"])[0]
    assert np.isfinite(found).all()
    assert (found[128:] == 0).all()


def test_the_shipped_model_embeds_by_default(paths: list[Path]) -> None:
    transformer = EmbeddingTransformer().fit(paths)
    checksum = model_checksum(load_model(DEFAULT_MODEL))
    assert transformer.origin_ == {"model": DEFAULT_MODEL, "checksum": checksum, "dtype": "float32"}
    np.testing.assert_array_equal(
        transformer.transform(paths[:2]), Embedder.from_pretrained(DEFAULT_MODEL).embed_files(paths[:2])
    )
    classifier = WeakAudioClassifier().fit(paths, ["noise", "tone"] * 6)
    assert classifier.pipeline_[0].origin_ == transformer.origin_


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


def test_fitting_learns_nothing_from_the_recordings(transformer: Transformer, paths: list[Path]) -> None:
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
def test_only_sequences_of_paths_are_accepted(transformer: Transformer, wrong: Any) -> None:
    with pytest.raises(WeakAudioError, match="expected a sequence of one or more paths"):
        transformer.fit(wrong)


def test_an_unreadable_recording_is_named(transformer: Transformer, paths: list[Path]) -> None:
    paths[1].write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"01\.wav"):
        transformer.fit(paths).transform(paths)


def test_unknown_names_are_refused_in_fit(paths: list[Path], model_path: Path) -> None:
    with pytest.raises(CheckpointError, match="untrained-16k"):
        EmbeddingTransformer("no such model").fit(paths)
    with pytest.raises(WeakAudioError, match="f3"):
        EmbeddingTransformer(model_path, layer="f3").fit(paths)
    with pytest.raises(WeakAudioError, match="min"):
        EmbeddingTransformer(model_path, pooling="min").fit(paths)
    with pytest.raises(WeakAudioError, match="paper-44k"):
        LogMelStatistics("8k").fit(paths)


def test_origin_names_model_and_front_end(model_path: Path, paths: list[Path]) -> None:
    found = EmbeddingTransformer(model_path).fit(paths).origin_
    checksum = model_checksum(load_model(model_path))
    assert found == {"model": str(model_path), "checksum": checksum, "dtype": "float32"}
    assert LogMelStatistics("32k").fit(paths).origin_["front_end"]["sample_rate"] == 32000


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recordings that a network embeds, in order."""
    names: list[str] = []
    embed = Embedder.embed_files

    def spy(self: Embedder, files: list[Path]) -> np.ndarray:
        names.extend(Path(file).name for file in files)
        return embed(self, files)

    monkeypatch.setattr(Embedder, "embed_files", spy)
    return names


def test_cached_recordings_are_not_embedded_again(
    model_path: Path, paths: list[Path], tmp_path: Path, embedded: list[str]
) -> None:
    plain = EmbeddingTransformer(model_path).fit_transform(paths)
    embedded.clear()
    cached = EmbeddingTransformer(model_path, cache=tmp_path / "cache")
    np.testing.assert_allclose(cached.fit_transform(paths[:4]), plain[:4], atol=1e-5)
    np.testing.assert_allclose(cached.fit_transform(paths[::-1]), plain[::-1], atol=1e-5)
    assert embedded == [f"{n:02d}.wav" for n in (0, 1, 2, 3, 11, 10, 9, 8, 7, 6, 5, 4)]
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_another_model_layer_pooling_or_recording_is_embedded_again(
    model_path: Path, paths: list[Path], tmp_path: Path, embedded: list[str]
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
        embedded.clear()
        transformer.fit_transform(paths[:1])
        assert embedded == ["00.wav"]
    embedded.clear()
    sf.write(paths[0], np.full(320, 0.1), 8000, subtype="PCM_16")  # the same length, another modification time
    os.utime(paths[0], ns=(1, 1))
    changed = EmbeddingTransformer(model_path, cache=cache).fit_transform(paths[:1])
    assert embedded == ["00.wav"]
    np.testing.assert_allclose(changed, EmbeddingTransformer(model_path).fit_transform(paths[:1]), atol=1e-5)


def test_an_unusable_cache_is_reported(model_path: Path, paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeakAudioError, match="embedding cache cannot be used"):
        EmbeddingTransformer(model_path, cache=tmp_path / "file" / "cache").fit_transform(paths)
    with pytest.raises(AudioError, match=r"nowhere\.wav"):
        EmbeddingTransformer(model_path, cache=tmp_path / "cache").fit_transform([tmp_path / "nowhere.wav"])
    cached = EmbeddingTransformer(model_path, cache=tmp_path / "cache")
    cached.fit_transform(paths[:1])
    (known,) = (tmp_path / "cache").rglob("*.npy")
    known.write_bytes(b"damaged")
    with pytest.raises(WeakAudioError, match="delete it"):
        cached.fit_transform(paths[:1])


@parametrize_with_checks([SegmentPooler(), SegmentPooler(pooling="mean+std")])
def test_scikit_learn_checks_the_array_estimators(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.fixture
def clips(make_wavs: Callable[..., Path], rng: np.random.Generator) -> tuple[list[Path], list[str]]:
    """Twenty clips: noise and tones."""
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(12000) / 8000)
    files = {
        f"{n:02d}.wav": tone * rng.uniform(0.2, 1) if n % 2 else 0.1 * rng.standard_normal(12000) for n in range(20)
    }
    root = make_wavs(files)
    return [root / name for name in files], ["tone" if n % 2 else "noise" for n in range(20)]


def test_recordings_are_classified(model_path: Path, clips: tuple[list[Path], list[str]]) -> None:
    paths, y = clips
    classifier = WeakAudioClassifier(model_path).fit(paths[:14], y[:14])
    assert list(classifier.classes_) == ["noise", "tone"]
    assert list(classifier.predict(paths[14:])) == y[14:]
    probabilities = classifier.predict_proba(paths[14:])
    assert probabilities.shape == (6, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    assert classifier.score(paths[14:], y[14:]) == 1.0
    assert cross_val_score(clone(classifier), paths, y, cv=2).mean() == 1.0


def test_missing_probabilities_are_reported(model_path: Path, clips: tuple[list[Path], list[str]]) -> None:
    classifier = WeakAudioClassifier(model_path, classifier="linear-svm").fit(*clips)
    with pytest.raises(WeakAudioError, match="'linear-svm' has no probabilities"):
        classifier.predict_proba(clips[0])
    with pytest.raises(WeakAudioError, match="classifier 'tree'"):
        WeakAudioClassifier(model_path, classifier="tree").fit(*clips)


def test_segments_are_pooled_as_an_embedder_pools_them(model_path: Path, clips: tuple[list[Path], list[str]]) -> None:
    paths, y = clips
    embedder = Embedder.from_pretrained(model_path, pooling="max+std")
    found = [embedder.embed_file(path) for path in paths]
    X = np.stack([embedding.segments.ravel() for embedding in found])
    n_segments = len(found[0].segments)
    pooled = SegmentPooler(n_segments, "max+std").fit_transform(X)
    np.testing.assert_allclose(pooled, np.stack([embedding.clip for embedding in found]), atol=1e-6)
    assert n_segments > 1
    assert make_pipeline(SegmentPooler(n_segments), StandardScaler(), LinearSVC()).fit(X, y).score(X, y) == 1.0


def test_columns_that_do_not_divide_into_segments_are_refused() -> None:
    with pytest.raises(WeakAudioError, match="n_segments 3: does not divide the 10 columns"):
        SegmentPooler(3).fit(np.zeros((4, 10)))
    with pytest.raises(WeakAudioError, match="pooling 'median'"):
        SegmentPooler(2, "median").fit(np.zeros((4, 10)))
