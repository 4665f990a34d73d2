"""Every YAML of the recipe trains, and the recipe runs from sounds to rows, at debug size."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

import data_prep.soundscapes
from recipes import results
from recipes.soundscapes import run
from weakaudio.data.corpus import Corpus
from weakaudio.pretrained import load_model, read_header
from weakaudio.training.command import train

CONFIGS = sorted(Path(run.__file__).parent.glob("*.yaml"))
TINY = [
    "--model.network_config={width: 0.0625}",
    "--data.workers=0",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.accelerator=cpu",
]
SIZES = {"train": 16, "val": 8, "test": 8}


@pytest.fixture(scope="module")
def corpus(event_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    data_prep.soundscapes.prepare(str(event_clips), str(out), **SIZES)
    return out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_trains(path: Path, corpus: Path, tmp_path: Path) -> None:
    model = load_model(train([f"--config={path}", *TINY, f"--data.root={corpus}", f"--out={tmp_path}"]))
    assert model.labels == Corpus(corpus).label_set.names


def test_there_is_a_configuration_for_each_system() -> None:
    assert {path.stem for path in CONFIGS} == set(run.SYSTEMS.values())


def test_sounds_become_a_corpus_once(event_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def esc50(root: str, out: str) -> None:
        calls.append(root)
        shutil.copytree(event_clips, out)

    monkeypatch.setattr(run.esc50, "prepare", esc50)
    (tmp_path / "data" / "backgrounds").mkdir(parents=True)
    for n in range(4):
        noise = 0.1 * np.random.default_rng(n).standard_normal(16000)
        sf.write(tmp_path / "data" / "backgrounds" / f"{n}.wav", noise, 16000)
    for _ in range(2):
        made = run.prepare(tmp_path / "data", tmp_path / "runs", **SIZES)
    assert made == tmp_path / "runs" / "corpus"
    assert calls == [str(tmp_path / "data" / "esc50-16k")]
    assert len(Corpus(made).store) == 32


def test_rows_of_two_seeds_can_be_recorded_and_nothing_is_trained_twice(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run.measure(tmp_path, corpus, [1, 2], TINY)
    runs = {"weak", "slat", "weak-seed2", "slat-seed2"}
    assert {path.name for path in tmp_path.iterdir()} == runs
    assert all((tmp_path / name / "evaluation" / "per_class.csv").is_file() for name in runs)
    first, second = (read_header(tmp_path / name / run.MODEL) for name in ("slat", "slat-seed2"))
    assert first["network"] == second["network"] == "windowed-cnn"
    assert {row["what"] for row in found} == {"clips", "localisation", "time"}
    assert {row["system"] for row in found} == {"prevalence (knows nothing)", *run.SYSTEMS}
    for row in found:
        assert math.isfinite(row["value"]), row
        assert row["n"] == (1 if row["system"].startswith("prevalence") else 2)

    (tmp_path / "project" / "recipes" / "soundscapes").mkdir(parents=True)
    results.record("soundscapes", found, tmp_path / "project")
    assert "N_S" in results.table("soundscapes", "clips", tmp_path / "project")

    def no_training(_: Any) -> None:
        pytest.fail("a finished run was trained again")

    monkeypatch.setattr(run, "train", no_training)
    again = run.measure(tmp_path, corpus, [1, 2], TINY)
    timeless = [[row for row in rows if row["what"] != "time"] for rows in (found, again)]
    assert timeless[0] == timeless[1]


def test_seeds_enter_weights_and_order(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(run, "train", seen.append)
    for seed in (1, 3):
        run.train_once("weak", seed, tmp_path, corpus)
    assert {"--seed_everything=1", "--data.seed=0", f"--out={tmp_path / 'weak'}"} <= set(seen[0])
    assert {"--seed_everything=3", "--data.seed=2", f"--out={tmp_path / 'weak-seed3'}"} <= set(seen[1])


def test_time_is_that_of_an_epoch_nobody_held_up(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    pd.DataFrame({"seconds": [1.5, 400.0, 1.0]}).to_csv(tmp_path / "log" / "metrics.csv")
    assert run._seconds(tmp_path) == 1.5
