from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from weakaudio.errors import WeakAudioError
from weakaudio.inference.embedder import Embedder
from weakaudio.networks import WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained import save_model
from weakaudio.transfer.estimators import SegmentPooler, WeakAudioClassifier


@parametrize_with_checks([SegmentPooler(), SegmentPooler(pooling="mean+std")])
def test_arrays_are_handled_as_scikit_learn_has_it(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(Model(WeakCNN(3, n_mels=64, width=0.125, depth=1), "16k", ["a", "b", "c"]).eval(), path)
    return path


@pytest.fixture
def clips(make_wavs: Callable[..., Path], rng: np.random.Generator) -> tuple[list[Path], list[str]]:
    """Twenty clips: noise and tones."""
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(12000) / 8000)
    files = {
        f"{n:02d}.wav": tone * rng.uniform(0.2, 1) if n % 2 else 0.1 * rng.standard_normal(12000) for n in range(20)
    }
    root = make_wavs(files)
    return [root / name for name in files], ["tone" if n % 2 else "noise" for n in range(20)]


def test_recordings_become_classes_and_probabilities(model_path: Path, clips: tuple[list[Path], list[str]]) -> None:
    paths, y = clips
    classifier = WeakAudioClassifier(model_path).fit(paths[:14], y[:14])
    assert list(classifier.classes_) == ["noise", "tone"]
    assert list(classifier.predict(paths[14:])) == y[14:]
    probabilities = classifier.predict_proba(paths[14:])
    assert probabilities.shape == (6, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    assert classifier.score(paths[14:], y[14:]) == 1.0
    assert cross_val_score(clone(classifier), paths, y, cv=2).mean() == 1.0


def test_a_classifier_without_probabilities_says_so(model_path: Path, clips: tuple[list[Path], list[str]]) -> None:
    classifier = WeakAudioClassifier(model_path, classifier="linear-svm").fit(*clips)
    with pytest.raises(WeakAudioError, match="'linear-svm' gives no probabilities"):
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


def test_columns_that_are_no_whole_segments_are_refused() -> None:
    with pytest.raises(WeakAudioError, match="n_segments 3: does not divide the 10 columns"):
        SegmentPooler(3).fit(np.zeros((4, 10)))
    with pytest.raises(WeakAudioError, match="pooling 'median'"):
        SegmentPooler(2, "median").fit(np.zeros((4, 10)))
