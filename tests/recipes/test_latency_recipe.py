"""What the recipes of the search record, with stand-ins for measuring and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import spearmanr

from recipes import results
from recipes.latency import foretold, law, proxies
from weakaudio.latency.genome import Space
from weakaudio.search.law import Law

TINY = Space(
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

    def __init__(self, teacher: str, corpora: dict[str, float], steps: int, workers: int = 1) -> None:
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

    def __init__(self, teacher: str, corpora: dict[str, float], store: Path, steps: int) -> None:
        super().__init__(teacher, corpora, steps)

    def __call__(self, config: dict[str, Any]) -> float:
        super().__call__(config)
        return 1 / sum(stage[1] for stage in config["stages"])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes" / "latency").mkdir(parents=True)
    monkeypatch.setattr(Training, "asked", [])
    return tmp_path


def test_the_error_of_foretold_latency_is_recorded(root: Path) -> None:
    table = root / "table.json"
    args = ["--table", str(table), "--networks", "3", "--seconds", "0.3", "--threads", "1"]
    foretold.main(args, root, TINY)
    rows = {(row["system"], row["metric"]): row for row in results.load("latency", root)}
    for batch in ("batch 1", "batch 8"):
        assert 0 <= rows[batch, "median error (%)"]["value"] <= rows[batch, "90th percentile (%)"]["value"]
        assert 0 < rows[batch, "fastest (ms a clip)"]["value"] <= rows[batch, "slowest (ms a clip)"]["value"]
        assert rows[batch, "median error (%)"]["n"] == 3
    assert table.exists()


def test_the_law_is_recorded_with_the_corners_it_did_not_see(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law, "ShortTraining", Training)
    out = root / "law"
    args = ["--teacher", "somebody", "--corpus", "a=0.8", "b=0.2", "--steps", "7", "--out", str(out)]
    law.main(args, root)
    assert Training.asked == [7] * 9
    law.main(args, root)
    assert len(Training.asked) == 9  # nothing is trained twice
    rows = {(row["system"], row["metric"]): row["value"] for row in results.load("latency", root)}
    assert sum("did not see" in metric for _, metric in rows) == 4
    for depth in (0.5, 1, 2):
        for width in (0.25, 0.5, 1):
            system = f"depth {depth:g}, width {width:g}"
            assert rows[system, "loss by the law"] == pytest.approx(rows[system, "loss"], rel=0.05)
    assert "did not see" in (out / "law.html").read_text(encoding="utf-8")


def test_an_error_of_the_law_is_that_of_its_corner() -> None:
    grid = pd.DataFrame([(1.0, 2.0, 5.0, 3e6, 1.0)], columns=["depth", "width", "loss", "parameters", "seconds"])
    held_out = pd.DataFrame([(1.0, 2.0, 5.0, 4.0, -0.2)], columns=["depth", "width", "loss", "predicted", "error"])
    found = {row["metric"]: row["value"] for row in law.rows(grid, Law(1, 2, 1, 4, 1), held_out, "")}
    assert found == {
        "loss": 5.0,
        "parameters (M)": 3.0,
        "loss by the law": pytest.approx(1 + 2 + 2),
        "error of a law that did not see it (%)": pytest.approx(-20.0),
    }


def test_proxies_are_correlated_with_long_training(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "ShortTraining", Training)
    monkeypatch.setattr(proxies, "BlockwiseDistillation", Stages)
    args = ["--teacher", "somebody", "--corpus", "a=1", "--networks", "12", "--out", str(root / "proxies")]
    proxies.main(args, root, TINY)
    assert len(Training.asked) == 3 * 12
    proxies.main(args, root, TINY)
    assert len(Training.asked) == 3 * 12  # nothing is scored twice
    rows = {row["system"]: row for row in results.load("latency", root)}
    assert rows["training, 100 steps"]["value"] == pytest.approx(1.0)
    genomes = [genome.to_config() for genome in proxies.networks(12, TINY, 0)]
    assert len({str(genome) for genome in genomes}) == 12
    stages, whole = Stages("", {}, root, 1), Training("", {}, 600)
    expected = spearmanr([stages(genome) for genome in genomes], [whole(genome) for genome in genomes]).statistic
    found = rows["stages by themselves, 150 steps each"]
    assert found["value"] == pytest.approx(expected)
    assert 0 < expected < 1
    assert found["n"] == 12
