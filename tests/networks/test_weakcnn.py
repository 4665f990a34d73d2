from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from weakaudio.audio.geometry import COVERAGES
from weakaudio.networks import Network, WeakCNN

Randomise = Callable[..., Network]


def layers_of_the_paper(network: WeakCNN) -> nn.Sequential:
    """Table 1 of arXiv 1711.01369 in plain torch with the weights of `network`; maps (1, 1, T, F) to (1, D, K, 1)."""
    layers: list[nn.Module] = []
    for block in network.blocks:
        for layer in block:
            layers += [layer.conv, layer.norm, nn.ReLU()]
        layers.append(nn.MaxPool2d(2, ceil_mode=network.geometry.coverage == "all"))
    return nn.Sequential(*layers, network.f1.conv, network.f1.norm, nn.ReLU()).eval()


def noise(n_frames: int, n_mels: int = 64) -> Tensor:
    return torch.rand(1, n_frames, n_mels, generator=torch.Generator().manual_seed(n_frames))


def test_parameter_count_is_the_paper_s() -> None:
    assert sum(p.numel() for p in WeakCNN(527).parameters()) == 5_002_047


@pytest.mark.parametrize("n_mels", [64, 128])
@pytest.mark.parametrize("coverage", COVERAGES)
@settings(max_examples=12)
@given(n_frames=st.integers(128, 900))
def test_network_equals_plain_layers(randomise: Randomise, coverage: str, n_mels: int, n_frames: int) -> None:
    network = randomise(WeakCNN(4, n_mels=n_mels, width=1 / 8, coverage=coverage))
    with torch.no_grad():
        expected = layers_of_the_paper(network)(noise(n_frames, n_mels)[:, None])
        embeddings, mask = network.forward_features(noise(n_frames, n_mels))
    assert mask.all()
    torch.testing.assert_close(embeddings, expected.squeeze(3).transpose(1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n_frames", "segments"), [(896, 13), (862, 12), (431, 5), (128, 1), (191, 1), (192, 2)])
def test_coverage_paper_has_the_release_s_segments(n_frames: int, segments: int) -> None:
    network = WeakCNN(2, n_mels=64, width=1 / 16, coverage="paper").eval()
    assert network(noise(n_frames)).segment_logits.shape == (1, segments, 2)


@settings(max_examples=12)
@given(n_frames=st.integers(1, 127))
def test_coverage_paper_pads_short_clips_with_zeros(randomise: Randomise, n_frames: int) -> None:
    network = randomise(WeakCNN(4, n_mels=64, width=1 / 8, coverage="paper"))
    filled = torch.cat([noise(n_frames), torch.zeros(1, 128 - n_frames, 64)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(network(noise(n_frames)).embeddings, network(filled).embeddings, rtol=0, atol=1e-5)


@settings(max_examples=12)
@given(n_frames=st.integers(1, 700))
def test_coverage_all_sees_the_last_frame(randomise: Randomise, n_frames: int) -> None:
    network = randomise(WeakCNN(4, n_mels=64, width=1 / 8, coverage="all"))
    changed = noise(n_frames)
    changed[:, -1] += 3.0
    with torch.no_grad():
        before, after = network(noise(n_frames)), network(changed)
    assert (before.embeddings[0, -1] - after.embeddings[0, -1]).abs().max() > 1e-4


def test_a_frame_changes_only_segments_whose_receptive_field_holds_it(randomise: Randomise) -> None:
    """Segment k spans frames 64 k to 64 k + 128; its convolutions reach 94 frames to either side."""
    network = randomise(WeakCNN(4, n_mels=64, width=1 / 8))
    changed = noise(1280)
    changed[:, 640] += 3.0
    with torch.no_grad():
        difference = (network(noise(1280)).embeddings - network(changed).embeddings).abs().amax((0, 2))
    near = torch.tensor([64 * k - 94 <= 640 < 64 * k + 128 + 94 for k in range(len(difference))])
    assert (difference[~near] == 0).all()
    assert (difference[9:11] > 1e-4).all()  # the two segments that span it


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_is_the_number_of_convolutions_per_block(depth: int) -> None:
    network = WeakCNN(2, n_mels=64, width=1 / 16, depth=depth)
    assert [len(block) for block in network.blocks] == [depth] * 5 + [1]
    assert network.eval()(noise(200)).clip_probs.shape == (1, 2)
