from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from weakaudio.networks import Cnn14, Network

Randomise = Callable[..., Network]


def tiny(randomise: Randomise) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomise(Cnn14(4, width=1 / 16))


def noise(n_frames: int) -> torch.Tensor:
    return torch.rand(1, n_frames, 64, generator=torch.Generator().manual_seed(n_frames))


def test_parameter_count_is_the_published_one() -> None:
    """80,753,615 in table III of arXiv 1912.10211."""
    with torch.device("meta"):
        network = Cnn14(527)
    assert sum(p.numel() for p in network.parameters()) == 80_753_615


def test_a_clip_is_scored_by_the_maximum_plus_the_mean_of_its_segments(randomise: Randomise) -> None:
    network = tiny(randomise)
    output = network(noise(300), torch.tensor([300]))
    features = output.embeddings[0] / 2
    expected = network.forward_head(features.amax(0) + features.mean(0)).sigmoid()
    torch.testing.assert_close(output.clip_probs[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_frames", [1, 31, 32, 63])
def test_a_segment_is_scored_like_a_clip_of_one_segment(randomise: Randomise, n_frames: int) -> None:
    output = tiny(randomise)(noise(n_frames))
    assert output.mask.tolist() == [[True]]
    torch.testing.assert_close(output.segment_logits[:, 0].sigmoid(), output.clip_probs, rtol=0, atol=1e-6)


def test_a_clip_shorter_than_a_segment_is_padded_with_silence(randomise: Randomise) -> None:
    network = tiny(randomise)
    padded = torch.cat([noise(20), torch.zeros(1, 12, 64)], dim=1)
    torch.testing.assert_close(network(noise(20)).clip_probs, network(padded).clip_probs, rtol=0, atol=1e-6)
