"""Figures of the recipes about the search, with stand-ins for measuring and training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from recipes import results
from recipes.latency import law, predicted, proxies
from weakaudio.errors import WeakAudioError
from weakaudio.nas.latency_model import Validation, random_configs
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.scaling_law import Law
from weakaudio.nas.search_space import ArchitectureConfig, SearchSpace
from weakaudio.nas.stores import StageStore

TINY = SearchSpace(
    operators=(("dense",),) * 4,
    blocks=((1, 2),) * 4,
    channels=((4, 8),) * 4,
    features=(8,),
    longest_mix=1,
)


class Training:
    """As `ShortTraining`: a loss by the numbers of blocks and channels, which steps make smaller."""

    batch_size, seconds = 32, 4.0
    asked: list[int] = []  # noqa: RUF012

    def __init__(self, teacher: str, corpora: dict[str, float], steps: int, seed: int = 0, workers: int = 1) -> None:
        self.corpora, self.steps = corpora, steps
        self.settings = {"teacher": teacher, "steps": steps}

    def check(self) -> None: ...

    def __call__(self, config: dict[str, Any]) -> float:
        self.asked.append(self.steps)
        blocks = sum(stage[1] for stage in config["stages"])
        channels = sum(stage[2] for stage in config["stages"])
        return 0.1 + 1 / blocks + 20 / channels + 1 / self.steps


class Stages(Training):
    """As `BlockwiseDistillation`, and blind for channels."""

    def __init__(self, teacher: str, corpora: dict[str, float], steps: int, store: Path) -> None:
        super().__init__(teacher, corpora, steps)

    def __call__(self, config: dict[str, Any]) -> float:
        super().__call__(config)
        return 1 / sum(stage[1] for stage in config["stages"])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes" / "latency").mkdir(parents=True)
    monkeypatch.setattr(Training, "asked", [])
    return tmp_path


def test_errors_are_percent_and_times_are_of_a_clip() -> None:
    found = Validation([{}, {}, {}], np.array([0.9, 2.0, 3.0]), np.array([1.0, 2.0, 4.0]))
    assert predicted.figures(found, 8) == {
        "median error (%)": pytest.approx(10.0),
        "90th percentile (%)": pytest.approx(22.0),
        "common factor": pytest.approx(0.9),
        "median error without it (%)": pytest.approx(100 / 9),
        "fastest (ms a clip)": pytest.approx(125.0),
        "slowest (ms a clip)": pytest.approx(500.0),
    }


def test_a_network_that_cannot_be_scored_is_left_out_and_not_tried_again(root: Path) -> None:
    architectures = [ArchitectureConfig.from_config(config) for config in random_configs(5, space=TINY)]
    tried = []

    def diverges(config: dict[str, Any]) -> float:
        tried.append(config)
        return float("nan") if len(tried) == 2 else float(len(tried))

    proxies_: dict[str, Any] = {"cheap": diverges, proxies.TRUTH: Training("", {}, 600)}
    store = StageStore(root / "scores.json", {})
    table = proxies.score(architectures, proxies_, store)
    assert table["cheap"].isna().tolist() == [False, True, False, False, False]
    pd.testing.assert_frame_equal(proxies.score(architectures, proxies_, StageStore(root / "scores.json", {})), table)
    assert len(tried) == 5
    (row,) = proxies.rows(table, "")
    assert row["n"] == 4
    with pytest.raises(WeakAudioError, match="2 networks could be scored; a rank correlation takes 3"):
        list(proxies.rows(table[:3], ""))


def test_the_error_of_predicted_latency_is_recorded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weakaudio.nas.search_space.SearchSpace", lambda: TINY)
    table = root / "table.json"
    args = ["--table", str(table), "--networks", "3", "--seconds", "0.3", "--threads", "1"]
    assert predicted.main(args, root) == 0
    rows = {(row["system"], row["metric"]): row for row in results.load("latency", root)}
    for batch in ("batch 1", "batch 8"):
        assert rows[batch, "median error (%)"]["n"] == 3
    assert table.exists()


def test_latency_in_int8_has_rows_of_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weakaudio.nas.search_space.SearchSpace", lambda: TINY)
    monkeypatch.setattr("weakaudio.deploy.benchmark._ROUNDS", (1, 1))
    monkeypatch.setattr("weakaudio.nas.int8_profile._SECONDS", 0.0)
    args = ["--table", str(root / "table.json"), "--networks", "2", "--seconds", "0.3", "--threads", "1"]
    assert predicted.main([*args, "--int8", "--every", "2"], root) == 0
    rows = results.load("latency", root)
    assert {row["system"] for row in rows} == {f"int8, frame stride 2, batch {batch}" for batch in (1, 8)}
    table = LatencyTable.load(root / "table.json")
    assert table.device.onnxruntime
    assert {key.operator for key in table.times if key.kind == "front end"} == {"efficientat-32k/2"}


def test_the_law_is_recorded_with_its_error_on_held_out_corners(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law, "ShortTraining", Training)
    out = root / "law"
    args = ["--teacher", "somebody", "--corpus", "a=0.8", "b=0.2", "--steps", "7", "--out", str(out)]
    assert law.main(args, root) == 0
    assert Training.asked == [7] * 12
    assert law.main(args, root) == 0
    assert len(Training.asked) == 12  # nothing is trained twice
    rows = {(row["system"], row["metric"]): row["value"] for row in results.load("latency", root)}
    assert sum("held-out" in metric for _, metric in rows) == 4
    for depth in (1, 2, 3):
        for width in (0.25, 0.5, 0.75, 1):
            system = f"depth {depth:g}, width {width:g}"
            assert rows[system, "predicted loss"] == pytest.approx(rows[system, "loss"], rel=0.05)
    assert "Held-out networks" in (out / "law.html").read_text(encoding="utf-8")


def test_an_error_of_the_law_is_that_of_its_corner() -> None:
    grid = pd.DataFrame([(1.0, 2.0, 5.0, 3e6, 1.0)], columns=["depth", "width", "loss", "parameters", "seconds"])
    held_out = pd.DataFrame([(1.0, 2.0, 5.0, 4.0, -0.2)], columns=["depth", "width", "loss", "predicted", "error"])
    found = {row["metric"]: row["value"] for row in law.rows(grid, Law(1, 2, 1, 4, 1), held_out, "")}
    assert found == {
        "loss": 5.0,
        "parameters (M)": 3.0,
        "predicted loss": pytest.approx(1 + 2 + 2),
        "held-out prediction error (%)": pytest.approx(-20.0),
    }


def seconds_of(config: Mapping[str, Any]) -> float:
    """A millisecond for each block."""
    return sum(stage[1] for stage in config["stages"]) / 1000


def test_proxies_are_correlated_with_long_training(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "SPACE", TINY)
    monkeypatch.setattr(proxies, "ShortTraining", Training)
    monkeypatch.setattr(proxies, "BlockwiseDistillation", Stages)
    monkeypatch.setattr(proxies.LatencyTable, "load", lambda path: path)
    monkeypatch.setattr(proxies, "ClipLatency", lambda *_: seconds_of)
    args = ["--teacher", "somebody", "--corpus", "a=1", "--networks", "12", "--out", str(root / "proxies")]
    args += ["--table", "t.json", "--budget-ms", "6", "--workers", "1"]
    assert proxies.main(args, root) == 0
    assert len(Training.asked) == 3 * 12
    assert proxies.main(args, root) == 0
    assert len(Training.asked) == 3 * 12  # nothing is scored twice
    rows = {row["system"]: row for row in results.load("latency", root)}
    assert rows["short training, 50 steps"]["value"] == pytest.approx(1.0)
    architectures = [architecture.to_config() for architecture in proxies.draw(12, 0, seconds_of, 0.006)]
    assert max(map(seconds_of, architectures)) == 0.006
    stages, whole = Stages("", {}, 1, root), Training("", {}, 200)
    expected = spearmanr(
        [stages(architecture) for architecture in architectures],
        [whole(architecture) for architecture in architectures],
    ).statistic
    found = rows["blockwise distillation, 100 steps per stage"]
    assert found["value"] == pytest.approx(expected)
    assert 0 < expected < 1
    assert found["n"] == 12
