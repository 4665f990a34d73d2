from __future__ import annotations

from pathlib import Path

import pytest
from weakaudio_data_prep.esc50 import prepare

from weakaudio.data.manifest import read_manifest
from weakaudio.errors import ProtocolError
from weakaudio.transfer.command import cross_validate_manifest
from weakaudio.transfer.estimators import LogMelStatistics

pytestmark = pytest.mark.real


def test_logmel_statistics_reach_80_percent_on_esc10(real_data: Path, tmp_path: Path) -> None:
    """Of ten classes. Below, something in the signal path is broken; far above, something leaks."""
    prepare(str(real_data / "esc10-44k"), str(tmp_path))
    scores = cross_validate_manifest(
        read_manifest(tmp_path / "manifest.csv"), LogMelStatistics("paper-44k"), "rbf-svm"
    )
    assert 0.80 <= scores.mean <= 0.85
    assert scores.shared_sources == ()


def test_esc50_as_published_must_be_allowed(real_data: Path, tmp_path: Path) -> None:
    prepare(str(real_data / "esc50-16k"), str(tmp_path))
    with pytest.raises(ProtocolError, match="4 recordings are in more than one fold, the first: '131943'"):
        cross_validate_manifest(read_manifest(tmp_path / "manifest.csv"), LogMelStatistics())
