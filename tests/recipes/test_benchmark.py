"""The benchmark runs at a tiny size and every figure comes out; its speed cannot be tested."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from recipes import results
from recipes.benchmark import compare, run

WHATS = {"front end paper-44k", "front end 16k", "inference", "training step"}


def test_quick_mode_measures_everything_and_records_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    found = list(run.main.function(quick=True))
    assert torch.get_num_threads() == threads
    assert {row["what"] for row in found} == WHATS
    for row in found:
        assert math.isfinite(row["value"]), row
        assert row["value"] > 0, row
        results._validate({**row, "command": "run it"})
    for what in WHATS:
        metrics = [row["metric"] for row in found if row["what"] == what]
        references = [row for row in found if row["what"] == what and "(reference)" in row["system"]]
        assert len(references) == 1
        speeds, ratios = metrics.count("audio s/s"), metrics.count("times the reference")
        assert speeds == ratios + 1  # a reference has no ratio


def test_ratio_is_the_median_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = torch.tensor([[2.0, 1.0], [4.0, 1.0], [3.0, 1.0]]).numpy()
    monkeypatch.setattr(compare, "time_rounds", lambda *_, **__: seconds)
    jobs: dict[str, compare.Job] = {"theirs": lambda: None, "ours": lambda: None}
    scale = run.Scale(clips=1, seconds=6.0)
    reference, speed, ratio = run.rows("w", scale, jobs)
    assert (reference["value"], speed["value"]) == (2.0, 6.0)
    assert (ratio["value"], ratio["spread"], ratio["n"]) == (3.0, 0.5, 3)
