from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from weakaudio.errors import AudioError, DataPrepError, ProtocolError
from weakaudio.inference.detector import Detector
from weakaudio.inference.embedder import Embedder
from weakaudio.networks import FlashCNN, MobileNet, Network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model
from weakaudio.transfer.own_classes import adapt_folder


@pytest.fixture
def model(tmp_path: Path, randomise: Callable[[Network], Network]) -> Path:
    network = FlashCNN(4, 128, [("dense", 0, 8), ("dense", 0, 8), ("dense", 0, 16), ("dense", 0, 16)], 32)
    save_model(Model(randomise(network), "32k", list("abcd")), tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


@pytest.fixture
def folder(make_wavs: Callable[..., Path], rng: np.random.Generator) -> Path:
    """Ten clips of tones, ten of noise, and a broken file."""
    t = np.arange(6000) / 8000
    files = {f"tone/{n}.wav": 0.3 * np.sin(2 * np.pi * rng.uniform(400, 800) * t) for n in range(10)}
    files |= {f"noise/deep/{n}.wav": 0.1 * rng.standard_normal(6000) for n in range(10)}
    root = make_wavs(files)
    (root / "tone" / "broken.wav").write_bytes(b"RIFF")
    return root


def test_a_folder_of_classes_becomes_a_model(model: Path, folder: Path, tmp_path: Path) -> None:
    summary = adapt_folder(folder, tmp_path / "out" / "mine.safetensors", model)
    assert (summary.n_clips, summary.n_classes) == (20, 2)
    assert [path for path, _ in summary.failures] == ["tone/broken.wav"]
    assert list(pd.read_csv(tmp_path / "out" / "failures.csv")["path"]) == ["tone/broken.wav"]
    assert summary.quality.scores.mean > 0.9
    assert "on unseen recordings: accuracy" in str(summary)
    assert "with 5 labels a class" in str(summary)
    page = summary.out.with_suffix(".html").read_text()
    assert "accuracy on unseen recordings" in page
    assert "Accuracy by number of labels" in page
    mine = load_model(summary.out)
    assert mine.labels == ["noise", "tone"]
    assert mine.metadata["adapted"]["accuracy"] == summary.quality.scores.mean
    tags = Detector(mine).detect_file(folder / "tone" / "3.wav").tags
    assert tags["label"][0] == "tone"
    assert Embedder(mine).n_features == 32


def test_a_network_with_another_head_is_fine_tuned(
    folder: Path, tmp_path: Path, randomise: Callable[[Network], Network]
) -> None:
    other = tmp_path / "mobile.safetensors"
    save_model(Model(randomise(MobileNet(4, width=0.1)), "efficientat-32k", list("abcd")), other)
    summary = adapt_folder(folder, tmp_path / "mine.safetensors", other)
    assert load_model(summary.out).labels == ["noise", "tone"]


def test_clips_of_one_recording_in_a_table_stay_in_one_fold(model: Path, folder: Path, tmp_path: Path) -> None:
    rows = [(f"{c}/{n}.wav", c.split("/")[0], f"{c}{n // 2}") for c in ("tone", "noise/deep") for n in range(10)]
    table = folder / "clips.csv"
    pd.DataFrame(rows, columns=["path", "labels", "source"]).to_csv(table, index=False)
    summary = adapt_folder(table, tmp_path / "mine.safetensors", model)
    assert len(summary.quality.scores.accuracies) == 5  # recordings of each class
    assert summary.failures == []


def test_unfit_input_is_refused(model: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"must end in \.safetensors"):
        adapt_folder(folder, tmp_path / "mine.pt", model)
    with pytest.raises(ProtocolError, match="preset 'IV'"):
        adapt_folder(folder, tmp_path / "mine.safetensors", model, "IV")
    with pytest.raises(AudioError, match="no such file or folder"):
        adapt_folder(tmp_path / "nowhere", tmp_path / "mine.safetensors", model)
    with pytest.raises(DataPrepError, match="is in no class folder"):
        adapt_folder(folder / "tone", tmp_path / "mine.safetensors", model)
    for n in range(1, 10):
        (folder / "tone" / f"{n}.wav").unlink()
    with pytest.raises(ProtocolError, match="class 'tone' has clips of one recording only"):
        adapt_folder(folder, tmp_path / "mine.safetensors", model)
    assert not (tmp_path / "mine.safetensors").exists()
