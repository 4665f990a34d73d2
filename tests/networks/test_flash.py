from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from weakaudio.errors import WeakAudioError
from weakaudio.networks import FlashCNN, MobileNet, Network
from weakaudio.networks.model import Model

STAGES = (("dense", 1, 4), ("dense", 0, 8), ("dense", 2, 8), ("dense", 1, 16))


def tiny(**config: object) -> FlashCNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FlashCNN(5, 64, **{"stages": STAGES, "n_features": 12, **config})  # type: ignore[arg-type]


def test_maps_halve_and_embeddings_come_each_32_frames(randomise: Callable[..., Network]) -> None:
    net = randomise(tiny())
    maps, embeddings, mask = net.forward_maps(torch.randn(2, 100, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 4, 25, 16), (2, 8, 13, 8), (2, 8, 7, 4), (2, 16, 4, 2)]
    assert embeddings.shape == (2, 4, 12)
    assert mask.all()


def test_a_segment_is_centred_on_its_time_and_hears_what_is_near_alone(randomise: Callable[..., Network]) -> None:
    """Only segments around an impulse change; so times are true, and blocks can equal the whole."""
    net = randomise(tiny())
    n_segments, struck = 64, 32
    quiet = torch.zeros(1, 32 * n_segments, 64)
    click = quiet.clone()
    click[0, 32 * struck] = 1.0
    with torch.inference_mode():
        difference = (net.forward_features(click)[0] - net.forward_features(quiet)[0]).abs().amax(2)[0]
    changed = torch.nonzero(difference > 1e-7)[:, 0]
    assert changed.min() >= struck - 10
    assert changed.max() <= struck + 10
    assert difference.argmax() in (struck - 1, struck, struck + 1)
    for network, front_end in ((net, "16k"), (MobileNet(5, width=0.1), "efficientat-32k")):
        middles = Model(network, front_end, list("abcde")).segment_times(200_000).mean(1)[1:-1]
        np.testing.assert_allclose(np.diff(middles), 0.32)
        np.testing.assert_allclose(middles[0], 0.32)  # around frame 32


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"n_mels": 65}, "multiple of 32"),
        ({"stages": STAGES[:3]}, "4 stages, got 3"),
        ({"stages": (*STAGES[:3], ("magic", 1, 4))}, "operator 'magic': unknown; there are dense"),
        ({"stages": (*STAGES[:3], ("dense", 1, 0))}, "1 blocks and 0 channels"),
        ({"n_features": 0}, "0 features"),
    ],
)
def test_a_genome_that_cannot_be_built_is_refused(config: dict[str, object], words: str) -> None:
    with pytest.raises(WeakAudioError, match=words):
        FlashCNN(**{"n_classes": 5, "n_mels": 64, "stages": STAGES, "n_features": 12, **config})  # type: ignore[arg-type]
