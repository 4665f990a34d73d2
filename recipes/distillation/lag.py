"""How much later a student says what its teacher says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weakaudio.audio.io import read_audio
from weakaudio.errors import ProtocolError
from weakaudio.inference.embedding import Embedder

_RECORDINGS, _CLIPS = 20, 12  # recordings of so many clips, one after the other
_STEP, _REACH = 0.02, 1.0  # seconds: shifts that are tried
_HEARD = 0.2  # probability from which on a class counts


class Course(NamedTuple):
    """What a model says over time of a recording."""

    middles: NDArray[np.float64]
    """(S,) of the segments, seconds"""
    probs: NDArray[np.float32]
    """(S, C)"""


def courses(model: str, files: Sequence[Path]) -> list[Course]:
    """Of some recordings, the same ones for each model, of a minute each if clips are of 5 s: where one clip ends and
    another begins, what is heard changes."""
    embedder = Embedder.from_pretrained(model, layer="f2")
    order = np.random.default_rng(0).permutation(len(files))[: _RECORDINGS * _CLIPS]
    found = []
    for first in range(0, len(order), _CLIPS):
        clips = [read_audio(files[n], embedder.sample_rate)[0] for n in order[first : first + _CLIPS]]
        embedding = embedder.embed_array(np.concatenate(clips), embedder.sample_rate)
        found.append(Course(embedding.times.mean(1), embedding.segments))
    return found


def lag(student: Sequence[Course], teacher: Sequence[Course]) -> float:
    """Seconds by which a student's probabilities must come earlier to differ least from the teacher's: by the sum of
    squares over time, over classes that the teacher hears, and over recordings.

    Raises
    ------
    ProtocolError
        The teacher hears nothing, or recordings are too short to shift anything.
    """
    shifts = np.arange(-round(_REACH / _STEP), round(_REACH / _STEP) + 1) * _STEP
    total = np.zeros(len(shifts))
    for ours, theirs in zip(student, teacher, strict=True):
        first, last = max(ours.middles[0], theirs.middles[0]), min(ours.middles[-1], theirs.middles[-1])
        grid = np.arange(first + _REACH, last - _REACH, _STEP)
        if not len(grid):
            continue
        for c in np.flatnonzero(theirs.probs.max(0) >= _HEARD):
            wanted = np.interp(grid, theirs.middles, theirs.probs[:, c])
            said = np.interp(grid[:, None] + shifts, ours.middles, ours.probs[:, c])
            total += np.square(said - wanted[:, None]).sum(0)
    if not total.any():
        raise ProtocolError("lag: the teacher hears nothing, or recordings are shorter than 2 s")
    best = int(total.argmin())
    if best in (0, len(shifts) - 1):
        return float(shifts[best])
    before, at, after = total[best - 1 : best + 2]
    return float(shifts[best] + _STEP * 0.5 * (before - after) / (before - 2 * at + after))
