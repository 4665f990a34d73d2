from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from weakaudio.errors import ProtocolError
from weakaudio.networks import Network, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.transfer.cross_validate_networks import clip_probs
from weakaudio.transfer.transductive import minimise_entropy, reestimate_norms, self_train, spread_labels


@pytest.fixture
def model(randomise: Callable[[Network], Network]) -> Model:
    return Model(randomise(WeakCNN(4, n_mels=64, width=0.125, depth=1)), "16k", list("abcd")).eval()


@pytest.fixture
def clips(rng: np.random.Generator) -> list[NDArray[np.float32]]:
    return [(0.1 * rng.standard_normal(16000)).astype(np.float32) for _ in range(8)]


def test_norm_statistics_become_those_of_the_clips(model: Model, clips: list[NDArray[np.float32]]) -> None:
    adapted = reestimate_norms(model, clips, batch_seconds=100.0)
    with torch.no_grad():
        logmel, _ = model.logmel(torch.from_numpy(np.stack(clips)))
        first = model.network.blocks[0][0].conv(logmel[:, None])  # type: ignore[index,operator,union-attr]
    norm = adapted.network.blocks[0][0].norm  # type: ignore[index,union-attr]
    torch.testing.assert_close(norm.running_mean, first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, first.var((0, 2, 3)), rtol=1e-3, atol=1e-5)
    assert norm.momentum == 0.1
    weights = [name for name, _ in model.network.named_parameters()]
    before, after = model.network.state_dict(), adapted.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in weights)
    assert not torch.equal(before["blocks.0.0.norm.running_mean"], after["blocks.0.0.norm.running_mean"])


def test_entropy_falls_by_scales_and_shifts_alone(model: Model, clips: list[NDArray[np.float32]]) -> None:
    def entropy(network: Model) -> float:
        p = clip_probs(network, clips).astype(np.float64)
        return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())

    adapted = minimise_entropy(model, clips, epochs=5, learning_rate=0.01)
    assert entropy(adapted) < entropy(model)
    before, after = model.network.state_dict(), adapted.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".norm." in name and name.endswith(("weight", "bias")) for name in changed)


@pytest.mark.parametrize("predict", [spread_labels, self_train])
def test_unlabelled_clips_help_to_classify_them(
    predict: Callable[..., NDArray[np.str_]], rng: np.random.Generator
) -> None:
    """Two long clusters, labelled at one end only: labels spread along them to the other."""
    t = np.linspace(0, 1, 200)
    lines = [np.stack([8 * t, np.full(200, height)], 1) for height in (0.0, 1.0)]
    X = np.concatenate([line + 0.05 * rng.standard_normal((200, 2)) for line in lines])
    y = np.array(["low"] * 200 + ["high"] * 200)
    labelled = np.concatenate([np.arange(12), 200 + np.arange(12)])
    others = np.setdiff1d(np.arange(400), labelled)
    assert (predict(X[labelled], y[labelled], X[others]) == y[others]).mean() > 0.95


def test_unfit_input_is_refused(model: Model, clips: list[NDArray[np.float32]]) -> None:
    for function in (reestimate_norms, minimise_entropy):
        with pytest.raises(ProtocolError, match="no clips"):
            function(model, [])
    with pytest.raises(ProtocolError, match="a single one of one segment"):
        reestimate_norms(model, [clips[0][:300]])
    model.network.fuse()
    for function in (reestimate_norms, minimise_entropy):
        with pytest.raises(ProtocolError, match="no batch normalisation"):
            function(model, clips)
    far = np.concatenate([np.zeros((20, 2)), np.full((20, 2), 1e6)])
    with pytest.raises(ProtocolError, match="clips are not connected to a labelled one"):
        spread_labels(
            far[:4] + np.eye(4, 2), ["a", "b", "a", "b"], far[4:] + 1e-3 * np.random.default_rng(0).random((36, 2)), 3
        )
    with pytest.raises(ProtocolError, match="shapes"):
        spread_labels(np.zeros((3, 2)), ["a", "b", "a"], np.zeros((3, 4)))
