from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from weakaudio.errors import ProtocolError
from weakaudio.inference.embedder import Embedder
from weakaudio.networks import FlashCNN, MobileNet, Network, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.transfer.cross_validate_networks import clip_probs
from weakaudio.transfer.linear_probe import SIZES, estimate_quality, fold_by_recording, train_head


@pytest.fixture
def model(randomise: Callable[[Network], Network]) -> Model:
    network = FlashCNN(4, 128, [("dense", 0, 8), ("dense", 0, 8), ("dense", 0, 16), ("dense", 0, 16)], 32)
    return Model(randomise(network), "32k", list("abcd")).eval()


def clusters(rng: np.random.Generator, n: int = 150, n_classes: int = 3) -> tuple[NDArray[np.float64], list[str]]:
    """Noisy clusters, on which accuracy grows with the number of training clips."""
    names = [f"class {k % n_classes}" for k in range(n)]
    centres = rng.standard_normal((n_classes, 60))
    return 4 * rng.standard_normal((n, 60)) + centres[np.arange(n) % n_classes], names


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_head_equals_its_regression(model: Model, rng: np.random.Generator, n_classes: int) -> None:
    clips = [(0.1 * rng.standard_normal(16000 + 100 * n)).astype(np.float32) for n in range(30)]
    for n, clip in enumerate(clips):
        if n % n_classes:
            clip *= np.sin(np.arange(len(clip)) * 0.01 * (n % n_classes)).astype(np.float32)
    y = [f"class {n % n_classes}" for n in range(30)]
    X = np.stack([found.clip for found in Embedder(model).embed_clips(clips)])
    probe = train_head(model, X, y)
    assert probe.labels == sorted(set(y))
    X = X.astype(np.float64)
    scaled = (X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1)
    with torch.inference_mode():
        found = probe.network.forward_head(torch.from_numpy(X).float()).sigmoid().numpy()
    for k, name in enumerate(probe.labels):
        head = LogisticRegression(C=0.01, max_iter=1000, tol=1e-6).fit(scaled, np.array(y) == name)
        np.testing.assert_allclose(found[:, k], head.predict_proba(scaled)[:, 1], atol=1e-5)
    # Standardisation amplifies the rounding differences between fused and plain convolutions.
    np.testing.assert_allclose(clip_probs(probe, clips), found, atol=2e-3)
    assert model.labels == list("abcd")


def test_the_estimate_grows_with_the_number_of_labels(rng: np.random.Generator) -> None:
    X, y = clusters(rng, 300)
    quality = estimate_quality(X, y)
    assert list(quality.curve["labels"]) == list(SIZES)
    assert quality.curve["accuracy"].iloc[0] + 0.1 < quality.curve["accuracy"].iloc[-1]
    assert quality.curve["accuracy"].iloc[-1] <= quality.scores.mean + 0.05
    assert len(quality.scores.accuracies) == 5
    few = estimate_quality(X[:60], y[:60])  # sixteen training clips of each class
    assert list(few.curve["labels"]) == [5, 10]


def test_recordings_stay_together_and_classes_are_spread(rng: np.random.Generator) -> None:
    y = [f"class {n % 3}" for n in range(90)]
    sources = [f"recording {n // 6}" for n in range(90)]
    folds = fold_by_recording(y, sources)
    assert set(folds) == {1, 2, 3, 4, 5}
    assert all(len({folds[n] for n in range(90) if sources[n] == source}) == 1 for source in set(sources))
    for fold in range(1, 6):
        assert {y[n] for n in range(90) if folds[n] == fold} == set(y)
    assert set(fold_by_recording(["a", "a", "a", "b", "b", "b"])) == {1, 2, 3}


def test_too_few_recordings_or_classes_and_other_heads_are_refused(model: Model, rng: np.random.Generator) -> None:
    X, _ = clusters(rng, 4)
    with pytest.raises(ProtocolError, match="class 'b' has clips of one recording only"):
        estimate_quality(X, ["a", "a", "b", "b"], sources=["1", "2", "3", "3"])
    with pytest.raises(ProtocolError, match="one class only"):
        train_head(model, rng.standard_normal((4, 32)), ["a"] * 4)
    for network, front_end in ((WeakCNN(3, 64, 0.125), "16k"), (MobileNet(3, width=0.1), "efficientat-32k")):
        with pytest.raises(ProtocolError, match="use fine_tune"):
            train_head(Model(network, front_end, ["a", "b", "c"]), X, ["a", "b", "a", "b"])
