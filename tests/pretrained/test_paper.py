"""The converted N_S of arXiv 1711.01369 equals plain functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plain_paper import random_state, segment_probs

from weakaudio.errors import CheckpointError
from weakaudio.networks import WeakCNN
from weakaudio.pretrained.converters import convert

RATE = 44100
NAMES = [f"class {n}" for n in range(527)]


@pytest.mark.parametrize(("prefix", "zipped"), [("", True), ("module.", False)])  # PyTorch 0.3 did not zip
def test_random_weights_in_the_published_layout_give_the_reference_scores(
    tmp_path: Path, prefix: str, zipped: bool
) -> None:
    state = random_state(527, prefix)
    torch.save(state, tmp_path / "ns.pkl", _use_new_zipfile_serialization=zipped)
    model = convert("paper", tmp_path / "ns.pkl", NAMES)
    assert isinstance(model.network, WeakCNN)
    assert (model.front_end.name, model.labels) == ("paper-44k", NAMES)
    t = np.arange(10 * RATE) / RATE
    audio = 0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) + 0.05 * np.random.default_rng(0).standard_normal(len(t))
    for n_samples in (10 * RATE, 5 * RATE, 147123, RATE, 5000):  # the last two are less than a segment
        clip = audio[:n_samples].astype(np.float32)
        expected = segment_probs(state, clip)
        with torch.no_grad():
            output = model(torch.from_numpy(clip)[None])
        assert output.mask.all()
        torch.testing.assert_close(output.segment_logits[0].sigmoid().double(), expected, rtol=0, atol=3e-6)
        torch.testing.assert_close(output.clip_probs[0].double(), expected.mean(0), rtol=0, atol=3e-6)


def test_the_class_list_is_required(tmp_path: Path) -> None:
    torch.save(random_state(527), tmp_path / "ns.pkl")
    with pytest.raises(
        CheckpointError, match=r"ns\.pkl: 'paper' orders its classes .*classes_id_name\.txt.*--labels"
    ):
        convert("paper", tmp_path / "ns.pkl")
