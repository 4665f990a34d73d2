"""The recipe runs on tiny clips in the layout of its data set, and records what the protocol scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from recipes import results
from recipes.esc50 import run
from weakaudio.data.manifest import read_manifest
from weakaudio.networks import WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained import save_model
from weakaudio.transfer.command import cross_validate_manifest
from weakaudio.transfer.features import LogMelStatistics


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> Path:
    """ESC-10 as it lies on disk, 10 classes of 40 clips, with 20 ms tones for recordings, 100 Hz a class."""
    for n in range(10):
        folder = tmp_path / "data" / "esc10-44k" / f"{n + 1:03d} - Class {n}"
        folder.mkdir(parents=True)
        for clip in range(40):
            tone = np.sin(2 * np.pi * (200 + 100 * n + rng.uniform(-99, 99)) * np.arange(160) / 8000)
            sf.write(folder / f"{clip % 5 + 1}-{40 * n + clip}-A.wav", 0.5 * tone, 8000)
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small network in a folder named like its training run."""
    path = tmp_path / "weak" / "model.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(Model(WeakCNN(3, n_mels=64, width=0.0625, depth=1), "16k", ["a", "b", "c"]), path)
    return path


def test_every_system_is_measured_and_recorded(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    esc10 = next(corpus for corpus in run.CORPORA if corpus.name == "ESC-10")
    monkeypatch.setattr(run, "CORPORA", [esc10])
    (tmp_path / "recipes" / "esc50").mkdir(parents=True)
    args = ["--data", str(data), "--model", str(model), "--work", str(tmp_path / "work")]
    run.main(args, root=tmp_path)

    rows = results.load("esc50", tmp_path)
    by_system = {(row["system"], row["metric"]): row for row in rows}
    names = [system.name for system in run.systems(esc10, [str(model)])]
    assert len(names) == 1 + 2 + 4
    assert list(by_system) == [(name, metric) for name in names for metric in (run.FIVE, run.LAST)]
    assert all(0 <= row["value"] <= 100 for row in rows)
    assert all(str(model) in row["command"] for row in rows)

    clips = read_manifest(tmp_path / "work" / "esc10-44k" / "manifest.csv")
    expected = cross_validate_manifest(clips, LogMelStatistics("paper-44k"), "rbf-svm")
    five, last = by_system[names[0], run.FIVE], by_system[names[0], run.LAST]
    assert (five["value"], five["spread"], five["n"]) == (100 * expected.mean, 100 * expected.std, 5)
    assert (last["value"], last["spread"], last["n"]) == (100 * expected.accuracies[5], None, 1)

    noted = [key for key, row in by_system.items() if row["note"] == run.SEEN]
    assert noted == [(name, run.FIVE) for name in names if "trained on soundscapes (weak)" in name]


def test_both_data_sets_have_their_references() -> None:
    names = {corpus.name: [system.name for system in run.systems(corpus, [])] for corpus in run.CORPORA}
    assert {name: len(lines) for name, lines in names.items()} == {"ESC-50": 2, "ESC-10": 3}
