"""The timeline of segments that may overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.audio.geometry import COVERAGES, Coverage, SegmentGeometry, frame_count, timeline


@given(
    hop=st.integers(1, 80),
    overlap=st.integers(1, 4),
    coverage=st.sampled_from(COVERAGES),
    n_samples=st.integers(1, 100000),
    rate=st.sampled_from([16000, 22050, 44100]),
    seed=st.integers(0, 99),
)
def test_a_piece_scores_the_mean_of_the_segments_over_it(
    hop: int, overlap: int, coverage: Coverage, n_samples: int, rate: int, seed: int
) -> None:
    geometry = SegmentGeometry(hop * overlap, hop, coverage)
    times = geometry.times(frame_count(n_samples, 160), 160 / rate, n_samples / rate)
    scores = np.random.default_rng(seed).random((len(times), 3))
    pieces, edges = timeline(scores, times)
    assert edges[0] == 0
    assert edges[-1] == pytest.approx(times[-1, 1], abs=1e-6)
    assert (np.diff(edges) > 0).all()
    assert pieces.shape == (len(edges) - 1, 3)
    for score, begin, end in zip(pieces, edges[:-1], edges[1:], strict=True):
        over = [own for own, (s, e) in zip(scores, times, strict=True) if s < end - 1e-6 and e > begin + 1e-6]
        np.testing.assert_allclose(score, sum(over) / len(over), rtol=1e-12)


def test_every_piece_of_the_papers_geometry_lasts_a_hop_until_the_end_of_the_clip() -> None:
    times = SegmentGeometry(128, 64).times(frame_count(50000, 160), 0.01, 3.125)
    pieces, edges = timeline(np.array([[1.0], [0.0], [0.5], [0.0]]), times)
    assert edges.tolist() == [0, 0.64, 1.28, 1.92, 2.56, 3.125]
    assert pieces[:, 0].tolist() == [1.0, 0.5, 0.25, 0.25, 0.0]


def test_segments_that_do_not_overlap_are_pieces_bit_by_bit() -> None:
    scores = np.random.default_rng(0).random((9, 4), dtype=np.float32)
    pieces, _ = timeline(scores, SegmentGeometry(32, 32).times(32 * 9, 0.01, 2.875))
    np.testing.assert_array_equal(pieces, scores)
