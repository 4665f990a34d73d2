from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from weakaudio.errors import ProtocolError
from weakaudio.transfer.compare import paired_bootstrap
from weakaudio.transfer.cross_validation import FoldScores


def scores(predictions: NDArray[Any]) -> FoldScores:
    return FoldScores({}, predictions, np.unique(predictions), np.zeros((1, 1), dtype=np.int64))


def test_a_difference_has_the_interval_of_plain_resampling(rng: np.random.Generator) -> None:
    y = np.arange(400) % 4
    first = np.where(rng.random(400) < 0.9, y, -1)
    second = np.where(rng.random(400) < 0.8, y, -1)
    found = paired_bootstrap(scores(first), scores(second), y)
    gain = (first == y).astype(float) - (second == y)
    assert found.difference == pytest.approx(gain.mean())
    drawn = [gain[rng.integers(400, size=400)].mean() for _ in range(4000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=0.005)
    assert found.high == pytest.approx(high, abs=0.005)
    assert found.p_value == pytest.approx(2 * np.mean(np.array(drawn) <= 0), abs=0.01)
    back = paired_bootstrap(scores(second), scores(first), y)
    assert back.difference == -found.difference
    assert "p = " in str(found)


def test_equal_systems_do_not_differ() -> None:
    y = np.arange(40) % 4
    found = paired_bootstrap(scores(y), scores(y), y)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_clips_of_one_recording_are_resampled_together(rng: np.random.Generator) -> None:
    """The interval from 20 recordings of 20 clips is wider than from 400 recordings."""
    y = np.arange(400) % 4
    recording = np.arange(400) // 20
    first, second = y.copy(), y.copy()
    second[rng.permutation(20)[:6, None] * 20 + np.arange(20)] = -1
    alone = paired_bootstrap(scores(first), scores(second), y)
    grouped = paired_bootstrap(scores(first), scores(second), y, sources=recording)
    assert grouped.difference == alone.difference == pytest.approx(0.3)
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_unfit_predictions_are_refused() -> None:
    y = np.arange(4)
    with pytest.raises(ProtocolError, match="4 and 3 predictions for 4 clips"):
        paired_bootstrap(scores(y), scores(y[:3]), y)
    with pytest.raises(ProtocolError, match="from one recording"):
        paired_bootstrap(scores(y), scores(y), y, sources=["a"] * 4)
