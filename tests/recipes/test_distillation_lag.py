"""A student that says the same, later, is found out."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.distillation.lag import Course, lag
from weakaudio.errors import ProtocolError


def course(rng: np.random.Generator, hop: float, late: float, blur: float) -> Course:
    """Of a minute in which sounds of three classes begin and end; a fourth is never heard."""
    middles = np.arange(0.0, 60.0, hop)
    starts = rng.uniform(0, 55, (3, 8))
    at = middles[:, None, None] - late
    edges = [1 / (1 + np.exp(-(at - start) / blur)) for start in (starts, starts + 2.5)]
    probs = (edges[0] - edges[1]).max(2)
    return Course(middles, np.column_stack([probs, np.full(len(middles), 0.01)]).astype(np.float32))


@pytest.mark.parametrize("late", [-0.31, -0.16, 0.0, 0.07, 0.4])
@pytest.mark.parametrize("hop", [0.32, 0.64])
def test_it_is_found_by_how_much(late: float, hop: float) -> None:
    """Also by segments twice as long, and of a student that is less sure of where things begin."""
    students = [course(np.random.default_rng(seed), hop, late, 0.4) for seed in range(8)]
    teachers = [course(np.random.default_rng(seed), 0.32, 0.0, 0.25) for seed in range(8)]
    assert lag(students, teachers) == pytest.approx(late, abs=0.02)


def test_where_nothing_is_heard_there_is_no_lag() -> None:
    deaf = Course(np.arange(0.0, 60.0, 0.32), np.zeros((188, 2), np.float32))
    with pytest.raises(ProtocolError, match="the teacher hears nothing"):
        lag([deaf], [deaf])
