"""The field recipe, tiny."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from recipes.field import run as field
from recipes.field.broken import KINDS, plant
from weakaudio.audio.io import read_audio
from weakaudio.errors import AudioError


def test_every_kind_of_broken_file_is_refused_for_the_right_reason(tmp_path: Path) -> None:
    planted = plant(tmp_path, 2 * len(KINDS))
    assert len(planted) == 2 * len(KINDS)
    for name, said in planted.items():
        with pytest.raises(AudioError, match=said):
            read_audio(tmp_path / name)


def test_a_tiny_run_records_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for name, rate, count, seconds in (("esc50-16k", 16000, 6, 1), ("backgrounds", 32000, 2, 12)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(count):
            sf.write(tmp_path / "data" / name / f"{n}.ogg", 0.1 * rng.standard_normal(seconds * rate), rate)
    monkeypatch.setattr(field, "_RATIO_HOURS", 20 / 3600)
    monkeypatch.chdir(tmp_path)
    rows = [
        *field.measure_broken(tmp_path / "data", tmp_path / "work", n_broken=3, n_kills=1),
        *field.measure_long(tmp_path / "data", tmp_path / "work", 150 / 3600, n_turns=1),
    ]
    found = {(row["system"], row["metric"]): row["value"] for row in rows}
    assert found["weakaudio embed", "rows"] == 6
    assert found["weakaudio embed", "with the right reason"] == 3
    assert found["weakaudio embed", "same rows and failures after the kills"] == 1
    assert json.dumps(rows)
    assert {metric for _, metric in found} >= {"times real time", "peak memory (MB)"}
