"""Pictures and GPU rows of the frontier, of made-up figures and on a processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from recipes import results
from recipes.latency import on_gpu, picture
from weakaudio.networks import FlashCNN, MobileNet, Network
from weakaudio.networks.model import Model
from weakaudio.pretrained import save_model

STEPS = {"decode": 1.0, "resample": 2.0, "log-mel": 3.0, "network": 4.0}


def rows() -> list[results.Row]:
    judged = [("a, as published", 93.0, 400.0), ("a, int8", 92.0, 800.0), ("b, int8", 88.0, 1600.0)]
    speed = [{"system": name, "metric": picture.SPEED, "value": value} for name, _, value in judged]
    quality = [{"system": name, "metric": picture.QUALITY, "value": value} for name, value, _ in judged]
    unjudged = {"system": "noise", "metric": picture.SPEED, "value": 1.0}
    steps = [{"system": "b", "metric": f"{step} (ms for 10 s)", "value": value} for step, value in STEPS.items()]
    frontier = [{"what": "frontier", **row} for row in (*speed, *quality, unjudged)]
    return [*frontier, *({"what": "path, batch 8", **row} for row in steps)]


def test_the_picture_shows_each_judged_system_and_each_step() -> None:
    above, below = picture.draw(rows()).axes
    drawn = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in above.lines}
    assert drawn == {(400.0, 93.0), (800.0, 92.0), (1600.0, 88.0)}
    colours = [line.get_color() for line in above.lines]
    markers = [line.get_marker() for line in above.lines]
    assert colours[0] == colours[1] != colours[2]  # by model
    assert markers[0] != markers[1] == markers[2]  # by how it is run
    assert [bar.get_width() for bar in below.patches] == list(STEPS.values())
    assert [bar.get_x() for bar in below.patches] == [0.0, 1.0, 3.0, 6.0]


def test_the_picture_is_drawn_of_what_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "recipes" / "latency").mkdir(parents=True)
    results.record("latency", [{**row, "data": "noise", "command": "none"} for row in rows()], tmp_path)
    picture.main(tmp_path)
    path = tmp_path / "recipes" / "latency" / picture.PICTURE
    first = path.read_bytes()
    assert b"<svg" in first
    picture.main(tmp_path)
    assert path.read_bytes() == first


def test_one_clip_is_timed_with_and_without_graphs_and_a_batch_without(
    tmp_path: Path, randomise: Callable[[Network], Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor, where a stand-in replays."""
    seen: list[tuple[int, ...]] = []

    class Replayed:
        def __init__(self, model: Model, seconds: list[float], batch: int, device: str) -> None:
            assert (seconds, batch, device) == ([0.3], 1, "cpu")

        def __call__(self, waveform: Tensor) -> SimpleNamespace:
            seen.append(tuple(waveform.shape))
            return SimpleNamespace(clip_probs=torch.zeros(1, 5))

    labels, stages = list("abcde"), [("dense", 1, 4), ("dense", 0, 8), ("dense", 0, 8), ("dense", 1, 16)]
    save_model(
        Model(randomise(MobileNet(5, 128, width=1 / 8)), "efficientat-32k", labels), tmp_path / "t.safetensors"
    )
    save_model(Model(randomise(FlashCNN(5, 64, stages, 8)), "16k", labels), tmp_path / "tiny.safetensors")
    monkeypatch.setattr(on_gpu, "SHIPPED", ())
    monkeypatch.setattr(on_gpu, "GraphedModel", Replayed)
    monkeypatch.setattr("weakaudio.deploy.benchmark._ROUNDS", (1, 1))
    (tmp_path / "recipes" / "latency").mkdir(parents=True)
    tiny = str(tmp_path / "tiny.safetensors")
    args = ["--mn04", str(tmp_path / "t.safetensors"), "--model", tiny, "--seconds", "0.3", "--clips", "2"]
    on_gpu.main([*args, "--device", "cpu"], tmp_path)
    found = {(row["system"], row["metric"]): row["value"] for row in results.load("latency", tmp_path)}
    one, many = "ms for 0.3 s", "times real time, batch 2"
    plain = {on_gpu.MN04, tiny}
    assert found.keys() == {
        *((name, metric) for name in plain for metric in (one, many)),
        *((f"{name}, CUDA graph", one) for name in plain),
    }
    assert set(seen) == {(1, 9600), (1, 4800)}  # each at its own rate
    assert min(found.values()) > 0
