"""Every YAML of the recipe trains, and the recipe runs from sounds to rows, at debug size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import weakaudio_data_prep.soundscapes
from tiny import TINY

from recipes import results
from recipes.soundscapes import corpus as corpus_recipe
from recipes.soundscapes import run
from weakaudio.data.corpus import Corpus
from weakaudio.data.manifest import read_manifest
from weakaudio.pretrained.checkpoint import read_header
from weakaudio.pretrained.registry import load_model
from weakaudio.training.fit import train

CONFIGS = sorted(Path(run.__file__).parent.glob("*.yaml"))
SIZES = {"train": 16, "val": 8, "test": 8}
RATE = 16000
ESC = ("dog", "engine", "rain")
URBAN = ("dog_bark", "drilling", "engine_idling", "jackhammer", "street_music")


@pytest.fixture(scope="module")
def corpus(event_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    weakaudio_data_prep.soundscapes.prepare(str(event_clips), str(out), **SIZES)
    return out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_trains(path: Path, corpus: Path, tmp_path: Path) -> None:
    model = load_model(train([f"--config={path}", *TINY, f"--data.root={corpus}", f"--out={tmp_path}"]))
    assert model.labels == Corpus(corpus).label_set.names


def test_there_is_a_configuration_for_each_system() -> None:
    assert {path.stem for path in CONFIGS} == {config for config, _ in run.SYSTEMS.values()}


@pytest.fixture
def sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of data, with two classes that both data sets have; recording `shared` is in both.

    ESC-50 has three classes here, and one recording in folds 1 and 5. UrbanSound8K has one recording of a jackhammer
    in fold 2, and one of two classes.
    """
    data, rng = tmp_path / "data", np.random.default_rng(0)

    def sound(path: Path, seconds: float = 0.4) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, 0.1 * rng.standard_normal(int(seconds * RATE)), RATE)

    for n in range(4):
        sound(data / "backgrounds" / f"{n}.wav", 1.0)
    rows = [(f"{c}-{fold}-{n}", c, fold, f"{c}{fold}{n}") for c in ESC for fold in range(1, 6) for n in range(2)]
    rows += [("rain-1-2", "rain", 1, "twice"), ("rain-5-2", "rain", 5, "twice"), ("dog-1-2", "dog", 1, "shared")]
    esc = pd.DataFrame(rows, columns=["path", "labels", "fold", "source"])

    def prepare_esc50(root: str, out: str) -> None:
        assert root == str(data / "esc50-16k")
        assert not Path(out).exists(), "what was mixed was prepared again"
        for name in esc["path"]:
            sound(Path(out) / f"{name}.wav")
        esc.assign(path=esc["path"] + ".wav").to_csv(Path(out) / "manifest.csv", index=False)

    monkeypatch.setattr(corpus_recipe.esc50, "prepare", prepare_esc50)
    slices = [(f"{c}{fold}{n}", c, fold, 1) for c in URBAN for fold in (1, 2) for n in range(3)]
    slices = [row for row in slices if row[0] not in ("jackhammer21", "jackhammer22")]
    slices += [("drilling20", "street_music", 2, 1), ("shared", "dog_bark", 1, 1), ("far", "street_music", 1, 2)]
    urban = pd.DataFrame(slices, columns=["fsID", "class_name", "fold", "salience"])
    urban["slice_file_name"] = [f"{recording}-{name}.wav" for recording, name, *_ in slices]
    for fold, name in zip(urban["fold"], urban["slice_file_name"], strict=True):
        sound(data / "urbansound8k" / "audio" / f"fold{fold}" / name)
    urban.to_csv(data / "urbansound8k" / "UrbanSound8K.csv", index=False)
    return data


def test_sounds_become_a_corpus_once(sounds: Path, tmp_path: Path) -> None:
    for _ in range(2):
        made = corpus_recipe.prepare(sounds, tmp_path / "runs", sizes=SIZES)
    assert made == tmp_path / "runs" / "corpus"
    assert len(Corpus(made).store) == 32


def test_the_splits_of_the_corpus_share_no_recording_and_no_class_is_missing(sounds: Path, tmp_path: Path) -> None:
    found = Corpus(corpus_recipe.prepare(sounds, tmp_path / "runs", sizes=SIZES))
    assert found.label_set.names == ["dog", "drilling", "engine", "rain", "street_music"]

    manifest = read_manifest(tmp_path / "runs" / "events" / "manifest.csv")
    events = manifest.table.assign(
        file=[path.name for path in manifest.paths],
        home=[path.parent.name for path in manifest.paths],
    )
    assert (events["source"] == "shared").sum() == 1  # in ESC-50 alone
    assert "far" not in set(events["source"])
    jackhammers = events["source"].str.startswith("jackhammer")
    assert set(events.loc[jackhammers, "labels"].map(tuple)) == {("drilling",)}

    splits = found.manifest.table[["path", "split"]]
    used = found.events().merge(splits, on="path").merge(events, left_on="source", right_on="file")
    assert len(used) == len(found.events())
    assert (used["label"] == used["labels"].str[0]).all()
    assert used.groupby("source_y")["split"].nunique().max() == 1
    assert set(used.loc[used["home"] == "fold1", "split"]) == {"train"}
    assert set(used.loc[used["home"] == "fold2", "split"]) == {"val", "test"}
    assert used.groupby("label")["split"].nunique().tolist() == [3] * 5


def test_rows_of_two_seeds_can_be_recorded_and_nothing_is_trained_twice(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list(run.measure(tmp_path, corpus, [1, 2], TINY))
    runs = {f"{name}{seed}" for name in ("weak-20", "weak-10", "slat-10") for seed in ("", "-seed2")}
    assert {path.name for path in tmp_path.iterdir()} == runs
    assert all((tmp_path / name / "evaluation" / "per_class.csv").is_file() for name in runs)
    first, second = (read_header(tmp_path / name / run.MODEL) for name in ("slat-10", "slat-10-seed2"))
    assert first["network"] == second["network"] == "windowed-cnn"
    assert {row["what"] for row in found} == {"clips", "localisation", "time"}
    assert {row["system"] for row in found} == {"chance (class prevalence)", *run.SYSTEMS}
    training = [row for row in found if row["metric"] == "training, s an epoch"]
    logs = [pd.read_csv(tmp_path / f"weak-20{seed}" / run.METRICS)["seconds"] for seed in ("", "-seed2")]
    assert training[0]["value"] == pytest.approx(np.mean([log.median() for log in logs]))
    for row in found:
        assert math.isfinite(row["value"]), row
        assert row.get("n", 1) == (1 if row["system"].startswith("chance") else 2)

    (tmp_path / "project" / "recipes" / "soundscapes").mkdir(parents=True)
    results.record("soundscapes", [{**row, "command": "none"} for row in found], tmp_path / "project")
    assert "N_S" in results.table("soundscapes", "clips", tmp_path / "project")

    def no_training(_: Any) -> None:
        pytest.fail("a finished run was trained again")

    monkeypatch.setattr(run, "train", no_training)
    again = list(run.measure(tmp_path, corpus, [1, 2], TINY))
    timeless = [[row for row in rows if row["what"] != "time"] for rows in (found, again)]
    assert timeless[0] == timeless[1]


def test_seeds_enter_weights_and_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(run, "train", seen.append)
    run.train_once(tmp_path / "out", "weak", tmp_path, 3, ["--trainer.max_epochs=7"])
    assert {"--seed_everything=3", "--data.seed=2", "--trainer.max_epochs=7", f"--out={tmp_path / 'out'}"} <= set(
        seen[0]
    )
