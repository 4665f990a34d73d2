"""The Pareto front at a tiny size: which figures each system has, and that the reference is what was published."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from recipes import results
from recipes.latency import pareto, published
from weakaudio.audio.frontend import LogMel
from weakaudio.deploy.benchmark import PathTimes
from weakaudio.networks import FlashCNN, MobileNet, Network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model


def test_the_published_front_end_is_the_one_that_is_ours() -> None:
    waveform = 0.1 * torch.randn(2, 40_123, generator=torch.Generator().manual_seed(0))
    expected = published.efficientat_logmel(waveform)
    torch.testing.assert_close(LogMel("efficientat-32k")(waveform)[0], expected, rtol=0, atol=1e-3)


def test_a_network_as_published_has_the_output_of_our_copy(randomise: Callable[[Network], Network]) -> None:
    model = Model(randomise(MobileNet(5, 128, width=1 / 8)), "efficientat-32k", list("abcde"))
    waveform = 0.1 * torch.randn(2, 40_123, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval()(waveform).clip_probs
    torch.testing.assert_close(published.efficientat(model)(waveform), expected, rtol=0, atol=1e-4)


def test_each_stage_of_a_path_has_its_own_time() -> None:
    times = PathTimes(
        8, 10.0, decode=0.001, resample=0.002, logmel=0.003, network=0.004, whole=0.01, peak_memory=None
    )
    found = {row["metric"]: row["value"] for row in pareto.stages("ours", times)}
    expected = {"decode": 1.0, "resample": 2.0, "log-mel": 3.0, "network": 4.0}
    assert found == {f"{step} (ms for 10 s)": value for step, value in expected.items()}


def test_each_system_is_timed_and_each_network_of_ours_is_evaluated(
    tmp_path: Path, rng: np.random.Generator, randomise: Callable[[Network], Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(10):  # the layout of ESC-10
        folder = tmp_path / "data" / "esc50-16k" / f"{n + 1:03d} - Class {n}"
        folder.mkdir(parents=True)
        for clip in range(40):
            tone = np.sin(2 * np.pi * (200 + 100 * n + rng.uniform(-40, 40)) * np.arange(400) / 8000)
            sf.write(folder / f"{clip % 5 + 1}-{40 * n + clip}-A.wav", 0.5 * tone, 8000)
            if n < 2:
                (tmp_path / "data" / "collected").mkdir(exist_ok=True)
                sf.write(tmp_path / "data" / "collected" / f"{n}-{clip}.wav", 0.5 * np.tile(tone, 20), 8000)
    (tmp_path / "recipes" / "latency").mkdir(parents=True)
    labels = list("abcde")
    teacher, student = tmp_path / "mn04.safetensors", tmp_path / "tiny" / "model.safetensors"
    save_model(Model(randomise(MobileNet(5, 128, width=1 / 8)), "efficientat-32k", labels), teacher)
    stages = [("dense", 1, 4), ("dense", 0, 8), ("dense", 0, 8), ("dense", 1, 16)]
    save_model(Model(randomise(FlashCNN(5, 64, stages, 8)), "16k", labels), student)
    monkeypatch.setattr(pareto, "SHIPPED", ())
    monkeypatch.setattr("weakaudio.deploy.benchmark._ROUNDS", (1, 1))
    monkeypatch.setattr(pareto, "_REST", 0.0)
    monkeypatch.setattr(pareto, "ROUNDS", 1)
    args = ["--data", str(tmp_path / "data"), "--mn04", str(teacher), "--model", str(student)]
    args += ["--seconds", "1.9", "--threads", "1", "--work", str(tmp_path / "work")]
    assert pareto.main(args, root=tmp_path) == 0

    rows = {(row["what"], row["system"], row["metric"]): row for row in results.load("latency", tmp_path)}
    ours = [f"{name}, {way}" for name in ("efficientat-mn04", "tiny") for way in ("fastest backend", "int8")]
    others = ["efficientat-mn04, our front end", "N_S as released (44.1 kHz)", "N_S (44.1 kHz), fastest backend"]
    for system in (pareto.REFERENCE, *ours, *others):
        assert rows["Pareto front", system, "ms for 1.9 s"]["value"] > 0
        assert rows["Pareto front", system, "times real time, batch 8"]["value"] > 0
        assert (("Pareto front", system, "times mn04 as published, batch 8") in rows) == (system != pareto.REFERENCE)
    judged = {system for what, system, metric in rows if metric == "ESC-50 (%)"}
    assert judged == {pareto.REFERENCE, *ours, others[0]}
    for way in ("fastest backend", "int8"):
        quality = rows["Pareto front", f"tiny, {way}", "ESC-50 (%)"]
        assert quality["value"] > 20  # one in ten by chance
        assert re.fullmatch(r"tiny: SHA-256 of the model [0-9a-f]{12}", quality["note"])
    steps = {metric for what, system, metric in rows if (what, system) == ("path, batch 8", "tiny")}
    assert steps == {f"{step} (ms for 1.9 s)" for step in ("decode", "resample", "log-mel", "network")}

    kept: list[bool] = []
    monkeypatch.setattr(pareto, "BATCHES", (1,))
    monkeypatch.setattr(pareto.memory, "keep_memory", lambda: kept.append(True))
    assert pareto.main([*args, "--keep-memory"], root=tmp_path) == 0
    again = {(row["what"], row["metric"]) for row in results.load("latency", tmp_path)}
    assert kept == [True]
    assert ("Pareto front, memory kept", "ms for 1.9 s") in again
    assert ("Pareto front, memory kept", "ESC-50 (%)") not in again
