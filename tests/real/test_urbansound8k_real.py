from __future__ import annotations

from pathlib import Path

import pytest
from weakaudio_data_prep import esc50
from weakaudio_data_prep.urbansound8k import prepare

from weakaudio.data.manifest import read_manifest

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore:.*official ten-fold protocol")]


def test_urbansound8k_has_its_slices_and_shares_recordings_with_esc50(real_data: Path, tmp_path: Path) -> None:
    root, esc = str(real_data / "urbansound8k"), tmp_path / "esc50"
    whole = prepare(root, str(tmp_path / "whole"))
    assert (whole.n_clips, whole.n_classes, whole.failures) == (1761, 10, [])
    assert list(whole.groups) == ["fold 1", "fold 2"]
    esc50.prepare(str(real_data / "esc50-16k"), str(esc))
    assert prepare(root, str(tmp_path / "out"), without=str(esc)).n_clips == 1761 - 94
    assert prepare(root, str(tmp_path / "out"), without=str(esc), foreground_only=True).n_clips == 1087
    table, other = (read_manifest(folder / "manifest.csv").table for folder in (tmp_path / "out", esc))
    assert table.groupby("source")["fold"].nunique().max() == 1
    assert not set(table["source"]) & set(other["source"])
