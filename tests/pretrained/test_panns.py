"""A converted Cnn14 of PANNs equals plain functions."""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from plain_panns import State, probs, random_state

from weakaudio.errors import CheckpointError
from weakaudio.pretrained.converters import convert

RATE = 32000
NAMES = [f"class {n}" for n in range(12)]


def saved(state: State, path: Path) -> Path:
    torch.save({"model": state, "iteration": 600000}, path)
    return path


def test_random_weights_in_the_published_layout_give_the_reference_scores(tmp_path: Path) -> None:
    state = random_state(1 / 16, 12)
    model = convert("panns", saved(state, tmp_path / "Cnn14_mAP=0.431.pth"), NAMES)
    assert (model.front_end.name, model.labels) == ("panns-32k", NAMES)
    t = np.arange(10 * RATE) / RATE
    audio = 0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) + 0.05 * np.random.default_rng(0).standard_normal(len(t))
    audio[4 * RATE : 5 * RATE] = 0  # digital silence: the floor of -100 dB
    for n_samples in (10 * RATE, 5 * RATE, 106677, RATE, 10000):
        clip = audio[:n_samples].astype(np.float32)
        with torch.no_grad():
            output = model(torch.from_numpy(clip)[None])
        torch.testing.assert_close(output.clip_probs[0].double(), probs(state, clip), rtol=0, atol=3e-6)


def test_another_front_end_is_refused(tmp_path: Path) -> None:
    """The release has networks of the same shapes at other sample rates, which the front end's tensors reveal."""
    other = random_state(1 / 16, 12)
    mel = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=64, fmin=50, fmax=8000)
    other["logmel_extractor.melW"] = torch.from_numpy(mel.T.copy())
    shorter = random_state(1 / 16, 12)
    for part in ("real", "imag"):
        shorter[f"spectrogram_extractor.stft.conv_{part}.weight"] = torch.zeros(257, 1, 512)
    for state in (other, shorter):
        with pytest.raises(CheckpointError, match="another front end"):
            convert("panns", saved(state, tmp_path / "a.pth"), NAMES)


def test_missing_front_end_tensors_are_refused(tmp_path: Path) -> None:
    state = random_state(1 / 16, 12)
    del state["logmel_extractor.melW"]
    with pytest.raises(CheckpointError, match=r"logmel_extractor\.melW is missing"):
        convert("panns", saved(state, tmp_path / "a.pth"), NAMES)


def test_a_network_of_the_same_shapes_with_another_head_is_refused(tmp_path: Path) -> None:
    path = saved(random_state(1 / 16, 12), tmp_path / "Cnn14_DecisionLevelMax_mAP=0.385.pth")
    with pytest.raises(CheckpointError, match="'DecisionLevel'"):
        convert("panns", path, NAMES)
