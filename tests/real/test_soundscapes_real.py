from __future__ import annotations

from pathlib import Path

import pytest
from weakaudio_data_prep import soundscapes

from recipes.soundscapes import corpus
from weakaudio.data.manifest import read_manifest

pytestmark = pytest.mark.real

FOLDS = {"train": [1, 2, 3], "val": [4], "test": [5]}


def test_events_of_the_comparison_have_55_classes_in_every_split_and_share_no_recording(
    real_data: Path, tmp_path: Path
) -> None:
    root = corpus._events(real_data, tmp_path)
    manifest = read_manifest(root / "manifest.csv")
    assert (len(manifest), len(manifest.label_set)) == (2000 + 1087, 55)
    urban = ["urbansound8k" in path.parts for path in manifest.paths]
    assert manifest.table["fold"][urban].value_counts().sort_index().index.tolist() == [1, 4, 5]
    assert manifest.table[urban].groupby("source")["fold"].nunique().max() == 1
    tables, left_out = soundscapes._split(manifest, FOLDS, root)
    assert len(left_out) == len(manifest) - sum(map(len, tables.values()))
    assert all("urbansound8k" not in path for path, _ in left_out)
    recordings = {split: set(part.table["source"]) for split, part in tables.items()}
    assert len(set.union(*recordings.values())) == sum(map(len, recordings.values()))
    assert {len(part.label_set) for part in tables.values()} == {55}
