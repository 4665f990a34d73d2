"""`weakaudio prepare`: its entry points, and the interface that all data sets share."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from weakaudio.data.manifest import read_manifest

POINTS = [point for point in entry_points(group="weakaudio.data_prep") if point.module.startswith("weakaudio_")]


def test_every_data_set_has_an_entry_point() -> None:
    assert {point.module.removeprefix("weakaudio_data_prep.") for point in POINTS} == {
        "audioset", "dcase_scenes", "esc50", "folder", "scenes_synthetic", "soundscapes", "synthetic", "unlabelled",
        "urbansound8k",
    }  # fmt: skip


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_data_sets_share_their_interface(point: EntryPoint) -> None:
    signature = inspect.signature(point.load())
    names = list(signature.parameters)
    assert "out" in names[:2]
    assert "sample_rate" in names
    assert signature.return_annotation == "Summary"


def test_a_folder_called_data_prep_in_the_working_directory_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "data_prep").mkdir()
    (tmp_path / "data_prep" / "__init__.py").write_text("raise RuntimeError('this is somebody else')\n")
    command = [sys.executable, "-m", "weakaudio.cli", "prepare", "synthetic", "corpus", "--per_class", "1"]
    run = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert len(read_manifest(tmp_path / "corpus")) == 12
