from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from weakaudio.networks import MobileNet, Network
from weakaudio.networks.model import Model

Randomise = Callable[..., Network]


@pytest.mark.parametrize(("width", "millions"), [(0.4, 0.98), (1.0, 4.88), (4.0, 68.43)])
def test_parameter_counts_are_the_published_ones(width: float, millions: float) -> None:
    """mn04, mn10 and mn40 in the table of github.com/fschmid56/EfficientAT."""
    with torch.device("meta"):
        network = MobileNet(527, width=width)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_a_clip_is_scored_by_its_mean_embedding(randomise: Randomise) -> None:
    network = randomise(MobileNet(4, n_mels=64, width=0.1))
    output = network(torch.rand(2, 300, 64), torch.tensor([300, 70]))
    for row in range(2):
        own = output.embeddings[row][output.mask[row]].mean(0)
        torch.testing.assert_close(output.clip_probs[row], network.forward_head(own).sigmoid(), rtol=0, atol=1e-6)
    assert output.mask.sum(1).tolist() == [10, 3]


def test_ten_seconds_have_one_segment_per_320_ms() -> None:
    model = Model(MobileNet(2, width=0.1), "efficientat-32k", ["a", "b"]).eval()
    times = model.segment_times(320000)
    assert len(times) == 32
    assert (times[1:, 0] - times[:-1, 0])[1:] == pytest.approx(0.32)
    assert (times[0, 0], times[-1, 1]) == (0, 10)


@pytest.mark.parametrize("n_samples", [1, 2, 320, 513])
def test_the_shortest_clips_have_scores(randomise: Randomise, n_samples: int) -> None:
    """Pre-emphasis removes a sample, and reflection padding needs another."""
    model = Model(randomise(MobileNet(2, width=0.1)), "efficientat-32k", ["a", "b"]).eval()
    output = model(torch.ones(1, n_samples))
    assert output.clip_probs.isfinite().all()
    assert output.mask.tolist() == [[True]]
