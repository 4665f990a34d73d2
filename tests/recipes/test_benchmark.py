"""The benchmark runs at a tiny size and every figure comes out; its speed cannot be tested."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from recipes import results
from recipes.benchmark import compare, run

WHATS = {
    "front end paper-44k",
    "front end 16k",
    "inference",
    "training step",
    "training switches",
    "loading 16 kHz",
    "loading 44.1 kHz",
}


def test_quick_mode_measures_everything_and_records_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    found = list(run.main.function(quick=True))
    assert torch.get_num_threads() == threads
    assert {row["what"] for row in found} == {*WHATS, "start"}
    assert [row["system"] for row in found if row["what"] == "start"] == list(run.PROCESSES)
    for row in found:
        assert math.isfinite(row["value"]), row
        assert row["value"] > 0, row
        results._validate({**row, "command": "run it"})
    for what in WHATS:
        metrics = [row["metric"] for row in found if row["what"] == what]
        references = [row for row in found if row["what"] == what and "(reference)" in row["system"]]
        assert len(references) == (3 if what.startswith("loading") else 1)
        speeds, ratios = metrics.count("audio s/s"), metrics.count("times the reference")
        assert speeds == ratios + len(references)  # a reference has no ratio


def test_ratio_is_the_median_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = torch.tensor([[2.0, 1.0], [4.0, 1.0], [3.0, 1.0]]).numpy()
    monkeypatch.setattr(compare, "time_rounds", lambda *_, **__: seconds)
    jobs: dict[str, compare.Job] = {"theirs": lambda: None, "ours": lambda: None}
    reference, speed, ratio = compare.compare("w", compare.Scale(clips=1, seconds=6.0), jobs)
    assert (reference["value"], speed["value"]) == (2.0, 6.0)
    assert (ratio["value"], ratio["spread"], ratio["n"]) == (3.0, 0.5, 3)
    reference, *_ = compare.compare("w", compare.Scale(), jobs, latency=True)
    assert reference["value"] == 3000.0


@pytest.mark.parametrize("workers", [0, 1])
def test_both_loaders_yield_the_same_batches(workers: int, tmp_path: Path) -> None:
    corpus = run.write_corpus(tmp_path, 8000, compare.QUICK)
    files, store = run.loaders(corpus, compare.QUICK.audio_seconds, workers)
    (corpus / "store").rename(corpus / "elsewhere")  # one loader has opened only its index, the other needs it
    read = list(files)
    (corpus / "elsewhere").rename(corpus / "store")
    for ours, theirs in zip(store, read, strict=True):
        assert ours.waveform.abs().max() > 0
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)
    assert sum(len(batch.clips) for batch in read) == 30
