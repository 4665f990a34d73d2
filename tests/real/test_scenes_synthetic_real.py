from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from weakaudio_data_prep import esc50, urbansound8k
from weakaudio_data_prep.scenes_synthetic import SCENES, prepare

from weakaudio.data.manifest import read_manifest
from weakaudio.transfer.command import cross_validate_manifest
from weakaudio.transfer.estimators import LogMelStatistics

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore:.*official ten-fold protocol")]


def test_synthetic_scenes_share_nothing_between_folds_and_are_neither_trivial_nor_hopeless(
    real_data: Path, tmp_path: Path
) -> None:
    """100 clips, 2 of each scene in each fold; chance is 10 %."""
    esc, urban, out = tmp_path / "esc50", tmp_path / "urbansound8k", tmp_path / "scenes"
    esc50.prepare(str(real_data / "esc50-16k"), str(esc))
    urbansound8k.prepare(str(real_data / "urbansound8k"), str(urban), foreground_only=True)
    backgrounds = str(real_data / "backgrounds")
    summary = prepare(str(out), esc50=str(esc), urbansound8k=str(urban), backgrounds=backgrounds, per_scene=10)
    assert (summary.n_clips, summary.n_classes, summary.failures) == (100, 10, [])
    assert summary.groups == {f"fold {n}": 20 for n in range(1, 6)}

    folds = pd.read_csv(out / "manifest.csv")[["path", "fold"]]
    recordings = pd.concat([read_manifest(root / "manifest.csv").table for root in (esc, urban)])
    recordings["source"] = recordings["source"].astype(str)
    of = dict(zip(recordings["path"].map(lambda path: Path(path).name), recordings["source"], strict=True))
    events = pd.read_csv(out / "events.csv").merge(folds, on="path")
    shared = events.groupby(events["source"].map(of))["fold"].agg(lambda found: len(set(found)))
    assert set(shared) == {1}
    assert set(events["label"]) >= {"children_playing", "dog", "engine", "drilling"}
    for _, rows in pd.read_csv(out / "ambiences.csv").merge(folds, on="path").groupby("file"):
        spans = rows.groupby("fold").agg(start=("start", "min"), end=("end", "max")).sort_values("start")
        assert (spans["start"].to_numpy()[1:] > spans["end"].to_numpy()[:-1]).all()
    notes = pd.read_csv(out / "notes.csv")["note"]
    assert notes.str.contains("later fold").any()
    assert notes.str.contains("also in ESC-50").any()

    scores = cross_validate_manifest(read_manifest(out / "manifest.csv"), LogMelStatistics(), "linear-svm")
    assert scores.classes.tolist() == sorted(SCENES)
    assert 0.2 <= scores.mean <= 0.6
