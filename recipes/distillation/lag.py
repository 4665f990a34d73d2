"""Time lag of a student behind its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weakaudio.audio.io import read_audio
from weakaudio.errors import ProtocolError
from weakaudio.inference.embedder import Embedder

_RECORDINGS, _CLIPS = 20, 12  # recordings, each of so many clips in a row
_STEP, _REACH = 0.02, 1.0  # seconds: shifts that are tried
_SHIFTS = np.arange(-round(_REACH / _STEP), round(_REACH / _STEP) + 1) * _STEP
_POSITIVE = 0.2  # probability from which a class counts
_DRAWS = 200  # bootstrap samples of recordings


class Lag(NamedTuple):
    """By how much a student is later than its teacher."""

    seconds: float
    """1 or -1 where it is that much or more, or where the student's output does not depend on the teacher's"""
    spread: float
    """standard deviation over bootstrap samples of recordings, seconds"""
    recordings: int
    """in which the teacher is positive for any class"""


class Course(NamedTuple):
    """Output of a model over a recording."""

    middles: NDArray[np.float64]
    """(S,) of the segments, seconds"""
    probs: NDArray[np.float32]
    """(S, C)"""


def courses(model: str, files: Sequence[Path]) -> list[Course]:
    """Outputs for recordings of a minute each (clips of 5 s in a row), the same for each model; classes change where
    one clip ends and another begins."""
    embedder = Embedder.from_pretrained(model, layer="f2")
    order = np.random.default_rng(0).permutation(len(files))[: _RECORDINGS * _CLIPS]
    found = []
    for first in range(0, len(order), _CLIPS):
        clips = [read_audio(files[n], embedder.sample_rate)[0] for n in order[first : first + _CLIPS]]
        embedding = embedder.embed_array(np.concatenate(clips), embedder.sample_rate)
        found.append(Course(embedding.times.mean(1), embedding.segments))
    return found


def lag(student: Sequence[Course], teacher: Sequence[Course]) -> Lag:
    """Shift of the student's probabilities that minimises the squared difference to the teacher's, summed over time,
    over classes for which the teacher is positive, and over recordings.

    Raises
    ------
    ProtocolError
        The teacher is never positive, or recordings are too short to shift anything.
    """
    found = [_differences(ours, theirs) for ours, theirs in zip(student, teacher, strict=True)]
    sums = np.array([one for one in found if one is not None])
    if not len(sums):
        raise ProtocolError(f"lag: the teacher is never positive, or recordings are shorter than {2 * _REACH:g} s")
    rng = np.random.default_rng(0)
    drawn = [_least(sums[rng.integers(len(sums), size=len(sums))].sum(0)) for _ in range(_DRAWS)]
    return Lag(_least(sums.sum(0)), float(np.std(drawn)), len(sums))


def _differences(student: Course, teacher: Course) -> NDArray[np.float64] | None:
    """Sums of squares by shift; None where there is nothing to compare."""
    first = max(student.middles[0], teacher.middles[0])
    last = min(student.middles[-1], teacher.middles[-1])
    grid = np.arange(first + _REACH, last - _REACH, _STEP)
    positive = np.flatnonzero(teacher.probs.max(0) >= _POSITIVE)
    if not len(grid) or not len(positive):
        return None
    total = np.zeros(len(_SHIFTS))
    for c in positive:
        wanted = np.interp(grid, teacher.middles, teacher.probs[:, c])
        found = np.interp(grid[:, None] + _SHIFTS, student.middles, student.probs[:, c])
        total += np.square(found - wanted[:, None]).sum(0)
    return total


def _least(sums: NDArray[np.float64]) -> float:
    """The shift of the least sum, between steps by the parabola through it and its neighbours."""
    best = int(sums.argmin())
    if best in (0, len(sums) - 1):
        return float(_SHIFTS[best])
    before, at, after = sums[best - 1 : best + 2]
    return float(_SHIFTS[best] + _STEP * 0.5 * (before - after) / (before - 2 * at + after))
