"""What tests of inference share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from weakaudio.networks import Network, WeakCNN
from weakaudio.networks.model import Model


@pytest.fixture(scope="module")
def heard_model(randomise: Callable[[Network], Network]) -> Model:
    """A small N_S of three classes whose scores follow its input, and lie around 0.5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = randomise(WeakCNN(3, n_mels=64, width=1 / 8))
    network.classifier.bias.data.zero_()
    return Model(network, "16k", ["dog", "rain", "saw"]).eval()
