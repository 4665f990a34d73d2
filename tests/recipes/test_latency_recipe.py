"""Figures of the recipes about the search, with stand-ins for measuring and training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recipes import results
from recipes.latency import predicted
from weakaudio.nas.latency_model import Validation
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.search_space import SearchSpace

TINY = SearchSpace(
    operators=(("dense",),) * 4,
    blocks=((1, 2),) * 4,
    channels=((4, 8),) * 4,
    features=(8,),
    longest_mix=1,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "recipes" / "latency").mkdir(parents=True)
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
