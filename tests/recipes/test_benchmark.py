"""The benchmark runs at a tiny size and every figure comes out; speed is nothing a test can promise."""

from __future__ import annotations

import math

import pytest
import torch

from recipes.benchmark import run
from recipes.benchmark.compare import QUICK, Comparison
from weakaudio.audio.logmel import FRONT_ENDS

WHATS = {
    "front end paper-44k",
    "front end 16k",
    "front end parts",
    "inference",
    "training step",
    "packing",
    "reading",
}


def test_quick_mode_measures_everything() -> None:
    threads = torch.get_num_threads()
    found = run.measure(QUICK)
    assert torch.get_num_threads() == threads
    assert {row["what"] for row in found} == WHATS
    for row in found:
        assert math.isfinite(row["value"]), row
        assert row["value"] > 0, row
    for what in WHATS:
        metrics = [row["metric"] for row in found if row["what"] == what]
        assert metrics.count(run.SPEED) == metrics.count(run.RATIO) + 1  # the reference has no ratio


def test_ratio_is_the_median_of_rounds() -> None:
    comparison = Comparison("w", 10.0, "ref", "d", [2.0, 4.0, 2.0], {"ours": 10.0}, {"ours": [2.0, 4.0, 3.0]})
    reference, speed, ratio = run.rows(comparison)
    assert (reference["value"], speed["value"]) == (5.0, 10.0)
    assert (ratio["value"], ratio["spread"], ratio["n"]) == (3.0, 0.5, 3)


@pytest.mark.parametrize("preset", ["paper-44k", "16k"])
def test_presets_of_the_benchmark_exist(preset: str) -> None:
    assert preset in FRONT_ENDS
