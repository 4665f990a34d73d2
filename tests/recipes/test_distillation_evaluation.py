"""Figures of students, on tiny clips in the layout of ESC-10."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from recipes import results
from recipes.distillation import evaluate
from recipes.distillation.lag import Lag
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model


def test_agreement_is_that_of_plain_counting() -> None:
    teacher = np.array([[0.9, 0.3, 0.1]] * 5 + [[0.05, 0.0, 0.1]] * 5, dtype=np.float32)
    student = teacher.copy()
    assert evaluate.agreement(student, teacher) == (1.0, 2, 1.0)  # no positive clips of the third class
    student[:5, 0], student[5:, 0] = teacher[5:, 0], teacher[:5, 0]  # the first class the wrong way round
    mean_ap, n_classes, ranks = evaluate.agreement(student, teacher)
    assert (mean_ap, n_classes) == (pytest.approx((0.5 + 1.0) / 2), 2)  # the five that are there come last, together
    assert ranks < 1.0


def test_teacher_and_students_are_measured_and_recorded(
    tmp_path: Path, randomise: Callable[[Network], Network], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(10):
        folder = tmp_path / "data" / "esc50-16k" / f"{n + 1:03d} - Class {n}"
        folder.mkdir(parents=True)
        for clip in range(40):
            tone = np.sin(2 * np.pi * (200 + 100 * n + rng.uniform(-99, 99)) * np.arange(160) / 8000)
            sf.write(folder / f"{clip % 5 + 1}-{40 * n + clip}-A.wav", 0.5 * tone, 8000)
    monkeypatch.setattr("weakaudio.deploy.benchmark._ROUNDS", (1, 1))
    monkeypatch.setattr(evaluate, "_THRESHOLD", 0.0)  # a random teacher may never be sure
    monkeypatch.setattr(evaluate, "lag", lambda student, teacher: Lag(0.25, 0.01, 7))  # recordings are too short
    stages = [["dense", 0, 4], ["dense", 0, 4], ["dense", 0, 4], ["dense", 0, 4]]
    teacher, student = tmp_path / "teacher.safetensors", tmp_path / "base" / "model.safetensors"
    labels = ["a", "b", "c"]
    save_model(
        Model(randomise(build_network("mobilenet", n_classes=3, width=0.1)), "efficientat-32k", labels), teacher
    )
    flash = build_network("flash", n_classes=3, stages=stages, n_features=8)
    save_model(Model(randomise(flash), "efficientat-32k", labels), student)
    (tmp_path / "recipes" / "distillation").mkdir(parents=True)
    args = ["--data", str(tmp_path / "data"), "--teacher", str(teacher), "--model", str(student)]
    assert evaluate.main([*args, "--work", str(tmp_path / "work")], root=tmp_path) == 0

    rows = results.load("distillation", tmp_path)
    values = {(row["system"], row["metric"]): row["value"] for row in rows}
    for system in ("teacher", "base"):
        assert 0 <= values[system, "five folds (%)"] <= 100
        assert values[system, "ms for 10 s"] > 0
    assert values["teacher", "mAP over 3 classes"] == pytest.approx(1.0)
    assert values["teacher", "rank correlation"] == pytest.approx(1.0)
    assert values["base", "rank correlation"] < 1.0
    (later,) = (row for row in rows if row["metric"] == "lag behind the teacher (s)")
    assert (later["system"], later["value"], later["spread"], later["n"]) == ("base", 0.25, 0.01, 7)
    n_weights = sum(parameter.numel() for parameter in flash.parameters())
    assert values["base", "weights (M)"] == pytest.approx(n_weights / 1e6)
