"""The recipe makes a page, figures and tables of tiny clips, and refuses folders that are not ESC-50."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

from recipes.semantics import run
from recipes.semantics.page import figures
from weakaudio.data.manifest import Manifest
from weakaudio.errors import DataPrepError
from weakaudio.networks import WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model

EVENTS = ["hum", "whistle", "hiss"]
GROUPS = {"low hum": "low", "low note": "low", "high note": "high", "high hiss": "high"}


@pytest.fixture
def model() -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model(WeakCNN(3, n_mels=64, width=0.0625, depth=1), "16k", EVENTS).eval()


@pytest.fixture
def clips(tmp_path: Path, rng: np.random.Generator) -> Manifest:
    """Four classes of tones, six clips each, in two folds."""
    rows = []
    for n, name in enumerate(GROUPS):
        for clip in range(6):
            tone = np.sin(2 * np.pi * (200 * 2**n + rng.uniform(-30, 30)) * np.arange(1600 + 160 * clip) / 8000)
            path = f"{name} {clip}.wav"
            sf.write(tmp_path / path, 0.5 * tone, 8000)
            labels = [name.replace(" ", "_")]
            rows.append({"path": path, "labels": labels, "fold": clip % 2 + 1, "source": path})
    return Manifest(pd.DataFrame(rows), tmp_path)


def test_the_page_its_figures_and_its_tables_are_written(model: Model, clips: Manifest, tmp_path: Path) -> None:
    meaning = run.measure(clips, GROUPS, model)
    run.write(meaning, tmp_path / "out", "by a test")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    drawn = {f"{name}{suffix}" for name in figures(meaning) for suffix in (".png", ".svg")}
    assert written == {"report.html", *drawn, *(f"{name}.csv" for name in meaning.tables())}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == len(figures(meaning))
    assert "by a test" in page

    events = pd.read_csv(tmp_path / "out" / "events.csv")
    assert sorted(set(events["class"])) == sorted(GROUPS)
    assert set(events["event"]) == set(EVENTS)
    places = pd.read_csv(tmp_path / "out" / "map.csv")
    assert places["path"].tolist() == clips.table["path"].tolist()
    assert places["super_category"].tolist() == [GROUPS[name] for name in places["class"]]
    similarities = pd.read_csv(tmp_path / "out" / "similarities.csv", index_col="class")
    assert similarities.index.tolist() == similarities.columns.tolist() == meaning.order


def test_what_is_within_a_super_category_is_counted(model: Model, clips: Manifest) -> None:
    meaning = run.measure(clips, GROUPS, model)
    assert meaning.chance_within() == pytest.approx(1 / 3)  # of three other classes one
    meaning.nearest = pd.DataFrame(
        {"class": list(GROUPS), "nearest": ["low note", "high note", "high hiss", "low hum"], "similarity": 0.5}
    )
    assert meaning.nearest_within() == 0.5
    meaning.confused = pd.DataFrame(
        {"class": ["low hum", "low hum"], "taken_for": ["low note", "high note"], "clips": [3, 1], "part": 0.1}
    )
    assert meaning.confused_within() == 0.75


def test_super_categories_go_by_the_tens(tmp_path: Path) -> None:
    rows = pd.DataFrame({"category": ["dog", "sea_waves", "hand_saw"], "target": [0, 11, 49]})
    rows.to_csv(tmp_path / "esc50.csv", index=False)
    assert run.super_categories(tmp_path) == {"dog": "animals", "sea waves": "nature, water", "hand saw": "urban"}


@pytest.mark.parametrize("rows", [None, {"category": ["dog"]}, {"category": ["dog"], "target": [50]}])
def test_without_the_classes_numbers_there_are_no_super_categories(
    rows: dict[str, list[object]] | None, tmp_path: Path
) -> None:
    if rows:
        pd.DataFrame(rows).to_csv(tmp_path / "esc50.csv", index=False)
    with pytest.raises(DataPrepError, match=r"no esc50.csv with a column 'target' of 0 to 49"):
        run.super_categories(tmp_path)


def test_a_folder_without_esc50_is_an_error_of_one_line(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(model, tmp_path / "model.safetensors")
    given = ["--data", str(tmp_path), "--model", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "out")]
    assert run.main(given) == 2
    assert capsys.readouterr().err.startswith("semantics.run: ")
    assert not (tmp_path / "out" / "report.html").exists()
