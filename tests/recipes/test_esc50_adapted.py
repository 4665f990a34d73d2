"""Adapted networks and transductive transfer, on a few tones and noises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from recipes import results
from recipes.esc50 import adapted, run
from weakaudio.networks import Network, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained import save_model


def test_every_system_is_measured_and_recorded(
    tmp_path: Path, rng: np.random.Generator, randomise: Callable[[Network], Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(10):
        folder = tmp_path / "data" / "esc10-44k" / f"{n + 1:03d} - Class {n}"
        folder.mkdir(parents=True)
        for clip in range(40):
            tone = np.sin(2 * np.pi * (200 + 100 * n + rng.uniform(-40, 40)) * np.arange(400) / 8000)
            sf.write(folder / f"{clip % 5 + 1}-{40 * n + clip}-A.wav", 0.5 * tone, 8000)
    model = tmp_path / "weak" / "model.safetensors"
    save_model(Model(randomise(WeakCNN(3, 64, 0.0625, depth=1)), "16k", ["a", "b", "c"]), model)
    (tmp_path / "recipes" / "esc50").mkdir(parents=True)
    monkeypatch.setitem(adapted.JUDGES, "label spreading", lambda X, y, new: np.repeat(y[:1], len(new)))
    monkeypatch.setitem(adapted.JUDGES, "self-training", lambda X, y, new: np.repeat(y[:1], len(new)))
    args = ["--data", str(tmp_path / "data"), "--model", str(model), "--work", str(tmp_path / "work")]
    adapted.main([*args, "--corpus", "ESC-10", "--preset", "II", "--epochs", "1"], root=tmp_path)

    rows = results.load("esc50", tmp_path)
    values = {(row["system"], row["metric"]): row["value"] for row in rows}
    assert {row["what"] for row in rows} == {"ESC-10, adapted"}
    names = list(dict.fromkeys(row["system"] for row in rows))
    assert names[:2] == [f"weak, frozen F1 mean, {judge} (transductive)" for judge in adapted.JUDGES]
    assert [name for name in names if "own head" in name] == [
        "weak, adapted (II), own head",
        "weak, adapted (II), norms (transductive), own head",
        "weak, adapted (II), entropy (transductive), own head",
    ]
    assert len(values) == 2 * (2 + 6)
    assert values["weak, frozen F1 mean, self-training (transductive)", run.FIVE] == pytest.approx(10.0)
    assert values["weak, adapted (II), F1 max, linear SVM", run.FIVE] > 20  # one in ten by chance
