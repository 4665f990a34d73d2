from __future__ import annotations

from pathlib import Path

import pytest
from weakaudio_data_prep.esc50 import prepare

from weakaudio.data.labels import read_audioset_labels
from weakaudio.data.manifest import read_manifest

pytestmark = pytest.mark.real


def test_esc50_has_its_folds_and_the_known_recordings_in_two_of_them(real_data: Path, tmp_path: Path) -> None:
    summary = prepare(str(real_data / "esc50-16k"), str(tmp_path))
    table = read_manifest(tmp_path / "manifest.csv").table
    assert (summary.name, len(table), summary.n_classes, summary.failures) == ("ESC-50", 2000, 50, [])
    assert table["fold"].value_counts().sort_index().tolist() == [400] * 5
    folds = table.groupby("source")["fold"].nunique()
    assert sorted(folds.index[folds > 1]) == ["131943", "134049", "209698", "234879"]


def test_esc10_has_its_folds_and_classes(real_data: Path, tmp_path: Path) -> None:
    summary = prepare(str(real_data / "esc10-44k"), str(tmp_path))
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert (summary.name, summary.n_clips, summary.failures) == ("ESC-10", 400, [])
    assert summary.groups == {f"fold {n}": 80 for n in range(1, 6)}
    assert {"dog_bark", "fire_crackling", "sea_waves"} <= set(manifest.label_set.names)


def test_audioset_has_its_527_classes(real_data: Path) -> None:
    labels = read_audioset_labels(real_data / "audioset" / "class_labels_indices.csv")
    assert len(labels) == 527
    assert labels.names[0] == "Speech"
    assert labels.names[526] == "Field recording"
