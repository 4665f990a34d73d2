"""Converted EfficientAT networks equal plain functions, with random and with the published weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plain_efficientat import State, logits, random_state

from weakaudio.audio.io import read_audio
from weakaudio.errors import CheckpointError
from weakaudio.networks.model import Model
from weakaudio.pretrained.converters import convert

RATE = 32000
NAMES = [f"class {n}" for n in range(12)]
LENGTHS = {"10 s": 10 * RATE, "5 s": 5 * RATE, "odd": 106677, "1 s": RATE, "a sixth of a second": 5333}


def saved(state: State, path: Path) -> Path:
    torch.save(state, path)
    return path


def sweep(n_samples: int) -> NDArray[np.float32]:
    """A rising tone over fading noise: not symmetric in time and frequency."""
    t = np.arange(n_samples) / RATE
    noise = np.random.default_rng(0).standard_normal(n_samples) * np.exp(-t)
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) + 0.05 * noise).astype(np.float32)


def clip_logits(model: Model, audio: NDArray[np.float32]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(audio)[None]).clip_probs[0].double().logit()


@pytest.mark.parametrize("width", [0.1, 0.4])
def test_random_weights_in_the_published_layout_give_the_reference_logits(tmp_path: Path, width: float) -> None:
    state = random_state(width, 12)
    model = convert("efficientat", saved(state, tmp_path / "mn.pt"), NAMES)
    assert (model.sample_rate, model.labels, model.training) == (RATE, NAMES, False)
    for n_samples in LENGTHS.values():
        audio = sweep(n_samples)
        expected = logits(state, audio)
        assert expected.abs().max() < 5  # probabilities near 1 would not resolve logits
        torch.testing.assert_close(clip_logits(model, audio), expected, rtol=0, atol=3e-6)


@pytest.mark.real
@pytest.mark.parametrize("n_samples", LENGTHS.values(), ids=LENGTHS)
def test_published_weights_give_the_reference_logits(real_data: Path, n_samples: int) -> None:
    path = real_data.parent / "weights" / "mn04_as_mAP_432.pt"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the real recordings")
    model = convert("efficientat", path, [str(n) for n in range(527)])
    clips = sorted((real_data / "esc50-16k" / "audio").iterdir())[::900][:2]
    audio = np.concatenate([read_audio(clip, RATE)[0] for clip in clips])[-n_samples:]
    assert len(audio) == n_samples
    expected = logits(torch.load(path, weights_only=True), audio)
    torch.testing.assert_close(clip_logits(model, audio), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("width", [0.3, 0.6])
def test_an_unpublished_width_is_refused(tmp_path: Path, width: float) -> None:
    path = saved(random_state(width, 12), tmp_path / "mn.pt")
    with pytest.raises(CheckpointError, match=r"mn\.pt: another network: its width is none of 0\.1, 0\.2"):
        convert("efficientat", path, NAMES)


@pytest.mark.parametrize(
    "name", ["mn10_as_hop_5_mAP_475.pt", "mn10_as_mels_64_mAP_461.pt", "mn04_im.pt", "mn10_im_pytorch.pt"]
)
def test_networks_of_the_same_shapes_with_another_front_end_or_an_untrained_classifier_are_refused(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(CheckpointError, match="in its name"):
        convert("efficientat", saved(random_state(0.1, 12), tmp_path / name), NAMES)
