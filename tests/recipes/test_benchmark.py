"""The benchmark runs at a tiny size and every figure comes out; speed is nothing a test can promise."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.benchmark import loading, padding, run, start
from recipes.benchmark.compare import QUICK, Comparison
from recipes.results import Row
from weakaudio.audio.frontend import FRONT_ENDS

WHATS = {
    "front end paper-44k",
    "front end 16k",
    "front end parts",
    "inference",
    "training step",
    "training switches",
    "packing",
    "reading",
    "loading 16 kHz",
    "loading 44.1 kHz",
}
SEGMENTS = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=3, num_segs=3, num_unique_labels=2, num_positive_labels=4
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"
--ZhevVpy1s, 50.000, 60.000, "/m/012xff"
-0SdAVK79lg, 0.000, 5.000, "/m/0155w"
"""


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    """A list of three segments, of 10, 10 and 5 s."""
    (tmp_path / "train_segments.csv").write_text(SEGMENTS)
    return tmp_path / "train_segments.csv"


def test_quick_mode_measures_everything(segments: Path) -> None:
    threads = torch.get_num_threads()
    found = run.measure(QUICK, segments)
    assert torch.get_num_threads() == threads
    assert {row["what"] for row in found} == {*WHATS, padding.WHAT, start.WHAT}
    assert {row["data"].split()[-1] for row in found if row["what"] == padding.WHAT} == {"s", "train_segments.csv"}
    assert [row["system"] for row in found if row["what"] == start.WHAT] == list(start.WAYS)
    found = [row for row in found if row["what"] != padding.WHAT]
    for row in found:
        assert math.isfinite(row["value"]), row
        assert row["value"] > 0, row
    for what in WHATS:
        metrics = [row["metric"] for row in found if row["what"] == what]
        references = [row for row in found if row["what"] == what and "(reference)" in row["system"]]
        assert len(references) == (3 if what.startswith("loading") else 1)
        assert metrics.count(run.SPEED) == metrics.count(run.RATIO) + len(references)  # a reference has no ratio


def test_the_command_is_recorded_as_it_was_given(segments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else figures stand beside a command that gives others."""
    kept: list[Row] = []
    monkeypatch.setattr(run, "record", lambda recipe, rows: kept.extend(rows))
    monkeypatch.setattr(run, "measure", lambda scale, segments: padding.measure(segments))
    run.main(["--segments", str(segments)])
    assert len(kept) == 8
    assert {row["command"] for row in kept} == {f"python -m recipes.benchmark.run --segments {segments}"}
    run.main(["--quick"])
    assert len(kept) == 8


def test_ratio_is_the_median_of_rounds() -> None:
    comparison = Comparison("w", 10.0, "ref", "d", [2.0, 4.0, 2.0], {"ours": 10.0}, {"ours": [2.0, 4.0, 3.0]})
    reference, speed, ratio = run.rows(comparison)
    assert (reference["value"], speed["value"]) == (5.0, 10.0)
    assert (ratio["value"], ratio["spread"], ratio["n"]) == (3.0, 0.5, 3)


@pytest.mark.parametrize("preset", ["paper-44k", "16k"])
def test_presets_of_the_benchmark_exist(preset: str) -> None:
    assert preset in FRONT_ENDS


@pytest.mark.parametrize("workers", [0, 1])
def test_both_loaders_yield_the_same_batches(workers: int, tmp_path: Path) -> None:
    corpus = loading.write_corpus(tmp_path, 8000, QUICK)
    files, store = loading.loaders(corpus, QUICK.audio_seconds, workers)
    (corpus / "store").rename(corpus / "elsewhere")  # the one has opened only its head, and the other needs it
    read = list(files)
    (corpus / "elsewhere").rename(corpus / "store")
    for ours, theirs in zip(store, read, strict=True):
        assert ours.waveform.abs().max() > 0
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)
    assert sum(len(batch.clips) for batch in read) == 30


def test_padding_of_audioset_like_lengths_is_under_5_percent(segments: Path) -> None:
    made, listed = padding.measure(), padding.measure(segments)
    assert listed[: len(made)] == made
    assert max(row["value"] for row in made if row["system"] == "bucket") < 5
    assert min(row["value"] for row in made if "reference" in row["system"]) > 5
    of_list = [row["value"] for row in listed[len(made) :]]
    assert of_list == pytest.approx([100 / 6, 100 / 6, 0, 0])  # 5 of 30 s if all are together


def test_random_batches_keep_the_budget_and_have_every_clip_once(rng: np.random.Generator) -> None:
    lengths = rng.integers(1, 40, 500)
    batches = padding.draw_batches(lengths, 60, rng)
    assert Counter(n for batch in batches for n in batch) == Counter(range(500))
    sizes = [len(batch) * lengths[batch].max() for batch in batches]
    assert max(sizes) <= 60
    full = [(len(a) + 1) * max(*lengths[a], lengths[b[0]]) for a, b in pairwise(batches)]
    assert min(full) > 60
    assert padding.padding(lengths, batches) == pytest.approx(1 - lengths.sum() / sum(sizes))
    assert padding.padding(np.array([3, 1]), [[0, 1]]) == pytest.approx(1 / 3)
    assert padding.draw_batches(np.array([99]), 60, rng) == [[0]]
