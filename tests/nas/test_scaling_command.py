"""`weakaudio search law`, on a few sounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_stand_ins import CLIPS, GIVEN, measured, one_line
from table_stand_ins import CPU, HERE, made_up

from weakaudio.deploy.benchmark import describe
from weakaudio.nas.latency_model import ClipLatency
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.proxies import ShortTraining
from weakaudio.nas.scaling_law import Law, network_config

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("small")


LAW = Law(floor=2.0, a=0.6, alpha=0.8, b=0.9, beta=0.5)
GRID = ("--depth", "1", "--depth", "2", "--depth", "3", "--width", "0.25", "--width", "0.5", "--width", "1")


class LawfulTraining:
    """Loss as the law has it; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, proxy: ShortTraining, config: dict[str, Any]) -> float:
        self.asked.append(config)
        for depth in (1, 2, 3):
            for width in (0.25, 0.5, 1):
                if network_config(depth, width) == config:
                    return float(LAW.predict(depth, width))
        raise AssertionError(config)


@pytest.fixture
def lawful(run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, LawfulTraining]:
    """`search law` without training."""
    training = LawfulTraining()
    monkeypatch.setattr(ShortTraining, "__call__", lambda proxy, config: training(proxy, config))
    monkeypatch.setattr("weakaudio.nas.profile.measure_component", lambda key, **given: made_up(key))
    LatencyTable(describe(CPU)).save(tmp_path / "table.json")

    def call(*options: str | Path) -> tuple[int, str, str]:
        given = (
            "--table",
            "table.json",
            "--teacher",
            root / "teacher.safetensors",
            *CLIPS,
            "--corpus",
            root / "corpus",
        )
        return run("search", "law", *given, *GRID, "-o", "law", *options)

    return call, training


def test_a_law_names_the_best_network_for_each_budget(lawful: tuple[Run, LawfulTraining], tmp_path: Path) -> None:
    call, training = lawful
    code, out, err = call("--budget-ms", "50", "--budget-ms", "1000")
    assert (code, err.strip()) == (0, "")
    assert len(training.asked) == 9
    grid = [(depth, width) for depth in (1, 2, 3) for width in (0.25, 0.5, 1)]
    latency = ClipLatency(LatencyTable.load("table.json"), *GIVEN)
    within = [point for point in grid if latency(network_config(*point)) <= 0.05]
    assert 0 < len(within) < 9
    first, *named = out.strip().splitlines()
    assert "9 networks" in first
    assert "-> law/law.html" in first
    best = (min(within, key=lambda point: LAW.predict(*point)), (3, 1))
    for (depth, width), budget, line in zip(best, (50, 1000), named, strict=True):
        config = network_config(depth, width)
        assert line.startswith(
            f"within {budget} ms: depth {depth:g}, width {width:g} with {1000 * latency(config):.3g}"
        )
        assert f"a predicted loss of {LAW.predict(depth, width):.4g}: " in line
        assert json.loads(line[line.index("{") :]) == config
    page = (tmp_path / "law" / "law.html").read_text()
    assert page.count("<img") == 2
    assert "2 + 0.6 D^-0.8 + 0.9 W^-0.5" in page
    assert call("--budget-ms", "40")[0] == 0
    assert len(training.asked) == 9  # the grid is kept
    assert "was made with other settings" in one_line(call("--steps", "7", "--budget-ms", "40"))


def test_a_budget_nothing_meets_is_an_error_before_training(lawful: tuple[Run, LawfulTraining]) -> None:
    call, training = lawful
    said = one_line(call("--budget-ms", "1"))
    assert "nothing meets a budget of 1 ms; the nearest is depth 1, width 0.25 with" in said
    assert training.asked == []


def test_grids_and_corpora_that_give_no_law_are_one_line(
    run: Run, lawful: tuple[Run, LawfulTraining], root: Path, tmp_path: Path
) -> None:
    call, training = lawful
    assert "0 steps" in one_line(call("--steps", "0"))
    assert "expected numbers above 0" in one_line(call("--depth", "-1"))
    given = ("--table", "table.json", "--teacher", root / "teacher.safetensors", "-o", "law")
    few = ("--depth", "1", "--depth", "2", "--depth", "1.0")
    assert "2 depths and 4 widths" in one_line(run("search", "law", *given, "--corpus", root / "corpus", *few))
    assert "corpora at 16000 Hz" in one_line(run("search", "law", *given, "--corpus", root / "slow"))
    measured(HERE).save(tmp_path / "table.json")
    assert "measured on another device" in one_line(call())
    assert training.asked == []
