"""The lag of a student behind its teacher is measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf

from recipes.distillation import lag as lag_module
from recipes.distillation.lag import Course, lag
from weakaudio.errors import ProtocolError
from weakaudio.inference.embedder import Embedding


def course(rng: np.random.Generator, hop: float, late: float, blur: float) -> Course:
    """A minute in which sounds of three classes begin and end; a fourth is never positive."""
    middles = np.arange(0.0, 60.0, hop)
    starts = rng.uniform(0, 55, (3, 8))
    at = middles[:, None, None] - late
    edges = [1 / (1 + np.exp(-(at - start) / blur)) for start in (starts, starts + 2.5)]
    probs = (edges[0] - edges[1]).max(2)
    return Course(middles, np.column_stack([probs, np.full(len(middles), 0.01)]).astype(np.float32))


@pytest.mark.parametrize("late", [-0.31, -0.16, 0.0, 0.07, 0.4])
@pytest.mark.parametrize("hop", [0.32, 0.64])
def test_the_lag_is_measured(late: float, hop: float) -> None:
    """Also with segments twice as long, and with a student whose onsets are less sharp."""
    students = [course(np.random.default_rng(seed), hop, late, 0.4) for seed in range(8)]
    teachers = [course(np.random.default_rng(seed), 0.32, 0.0, 0.25) for seed in range(8)]
    found = lag(students, teachers)
    assert found.seconds == pytest.approx(late, abs=0.02)
    assert found.spread < 0.02
    assert found.recordings == 8


def test_the_spread_is_that_over_recordings() -> None:
    """Half of the recordings 0.2 s late: half of that, more or less by which of them are drawn."""
    students = [course(np.random.default_rng(seed), 0.32, 0.2 * (seed % 2), 0.25) for seed in range(8)]
    teachers = [course(np.random.default_rng(seed), 0.32, 0.0, 0.25) for seed in range(8)]
    found = lag(students, teachers)
    assert found.seconds == pytest.approx(0.1, abs=0.05)
    assert 0.02 < found.spread < 0.06  # 0.1 / sqrt(8) = 0.035, if lags were to add up


@pytest.mark.parametrize("said", [0.0, 0.3])
def test_a_constant_student_has_the_greatest_shift(said: float) -> None:
    teacher = course(np.random.default_rng(0), 0.32, 0.0, 0.25)
    found = lag([Course(teacher.middles, np.full_like(teacher.probs, said))], [teacher])
    assert abs(found.seconds) == pytest.approx(1.0)


def test_a_lag_beyond_the_range_is_the_greatest_shift() -> None:
    rngs = [np.random.default_rng(0) for _ in range(2)]
    found = lag([course(rngs[0], 0.32, 2.0, 0.25)], [course(rngs[1], 0.32, 0.0, 0.25)])
    assert tuple(found) == pytest.approx((1.0, 0.0, 1))


def test_recordings_without_positives_of_the_teacher_do_not_count() -> None:
    positive = [course(np.random.default_rng(seed), 0.32, 0.0, 0.25) for seed in range(3)]
    silent = Course(positive[0].middles, np.full_like(positive[0].probs, 0.1))
    found = lag([*positive, silent], [*positive, silent])
    assert found == lag(positive, positive)
    assert tuple(found) == pytest.approx((0.0, 0.0, 3), abs=1e-4)


@pytest.mark.parametrize("seconds", [1.5, 60.0])
def test_without_positives_or_overlap_there_is_an_error(seconds: float) -> None:
    middles = np.arange(0.0, seconds, 0.32)
    positive = np.full((len(middles), 2), 0.9 if seconds < 2 else 0.1, np.float32)
    with pytest.raises(ProtocolError, match="the teacher is never positive, or recordings are shorter than 2 s"):
        lag([Course(middles, positive)], [Course(middles, positive)])


def test_clips_are_joined_and_segments_have_centre_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model gets the same recordings, at its own rate."""
    files = [tmp_path / f"{n}.wav" for n in range(30)]
    for n, path in enumerate(files):
        sf.write(path, np.full(800, n / 100), 8000)
    positive: list[np.ndarray] = []

    class Stand(SimpleNamespace):
        def embed_array(self, audio: np.ndarray, sample_rate: int) -> Embedding:
            positive.append(audio)
            assert sample_rate == self.sample_rate
            return Embedding(np.ones((2, 3), np.float32), np.array([[0.0, 1.0], [0.5, 2.0]]), np.ones(3, np.float32))

    def stand(name: str, layer: str) -> Stand:
        assert layer == "f2"
        return Stand(sample_rate=int(name))

    monkeypatch.setattr(lag_module.Embedder, "from_pretrained", stand)
    first, again, other = (lag_module.courses(rate, files) for rate in ("8000", "8000", "16000"))
    assert [len(audio) for audio in positive] == 2 * [9600, 9600, 4800] + [19200, 19200, 9600]
    assert all(np.array_equal(one, two) for one, two in zip(positive[:3], positive[3:6], strict=True))
    clips = np.concatenate(positive[:3]).reshape(-1, 800)
    assert sorted(np.round(100 * clips.mean(1)).astype(int)) == list(range(30))
    for course in (*first, *again, *other):
        assert course.middles.tolist() == [0.5, 1.25]
        assert course.probs.shape == (2, 3)
