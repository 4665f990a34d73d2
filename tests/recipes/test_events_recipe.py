"""Figures of the events recipe on events whose figures are plain, and on a tiny run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from recipes import results
from recipes.events import run
from weakaudio.networks import Network, build_network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model


def table(*rows: tuple[str, str, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["file", "label", "start", "end"])


TRUTH = table(("a", "dog", 1.0, 2.0), ("a", "cow", 4.0, 6.0), ("b", "dog", 3.0, 5.0), ("b", "dog", 7.0, 8.0))


def test_a_sound_is_heard_where_an_event_of_its_kind_overlaps_it() -> None:
    found = table(
        ("a", "dog", 1.1, 1.5),
        ("a", "dog", 1.6, 2.5),  # the same dog
        ("a", "cow", 6.1, 7.0),  # too late
        ("b", "cow", 3.0, 5.0),  # of another kind
        ("b", "dog", 2.0, 4.0),
    )
    errors, false = run.heard(found, TRUTH)
    np.testing.assert_allclose(errors, [0.1, 1.0])
    assert false == 2


def test_onsets_are_matched_one_to_one() -> None:
    assert run.onset_f1(TRUTH, TRUTH) == 1.0
    found = table(("a", "dog", 1.1, 3.0), ("a", "dog", 0.9, 3.0), ("b", "dog", 7.3, 8.0), ("a", "cow", 4.15, 9.0))
    assert run.onset_f1(found, TRUTH) == pytest.approx(2 * 2 / (4 + 4))


def test_classes_of_audioset_become_kinds() -> None:
    events = table(("a", "Bark", 0, 1), ("a", "Speech", 0, 1), ("a", "Moo", 2, 3))
    assert run.by_kind(events)["label"].tolist() == ["dog", "cow"]


def test_a_tiny_run_records_all_figures(
    tmp_path: Path, rng: np.random.Generator, randomise: Callable[[Network], Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes" / "events").mkdir(parents=True)
    (tmp_path / "backgrounds").mkdir()
    sf.write(tmp_path / "backgrounds" / "hum.wav", 0.1 * rng.standard_normal(32000), 16000)
    for n, kind in enumerate([*list(run.CLASSES)[:9], "rain"]):
        folder = tmp_path / "esc50-16k" / f"{n + 1:03d} - {kind}"
        folder.mkdir(parents=True)
        for clip in range(40):
            sf.write(folder / f"{clip % 5 + 1}-{40 * n + clip}-A.wav", 0.5 * rng.standard_normal(4000), 16000)
    labels = sorted({label for some in run.CLASSES.values() for label in some})
    network = randomise(build_network("flash", n_classes=len(labels), n_mels=64, stages=[("dense", 1, 8)] * 4))
    save_model(Model(network, "16k", labels), tmp_path / "m.safetensors")
    monkeypatch.setattr(run, "SECONDS", 2.0)
    args = ["--data", str(tmp_path), "--model", str(tmp_path / "m.safetensors"), "--clips", "6"]
    assert run.main([*args, "--work", str(tmp_path / "work")], root=tmp_path) == 0
    found = {row["metric"]: row["value"] for row in results.load("events", tmp_path)}
    assert set(found) >= {"heard (%)", "onset F1", "event F1", "false alarms per hour", "PSDS 1", "PSDS 2"}
