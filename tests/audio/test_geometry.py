from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.audio.geometry import (
    COVERAGES,
    Coverage,
    SegmentGeometry,
    frame_count,
    halve,
    length_mask,
    timeline,
)

coverages = st.sampled_from(COVERAGES)
GEOMETRY = {coverage: SegmentGeometry(span=128, hop=64, coverage=coverage) for coverage in COVERAGES}


@given(st.integers(0, 10**7), st.integers(1, 1000))
def test_frames_are_the_multiples_of_the_hop(n_samples: int, hop: int) -> None:
    assert frame_count(n_samples, hop) == len(range(0, n_samples + 1, hop))
    assert frame_count(torch.tensor([n_samples]), hop).tolist() == [frame_count(n_samples, hop)]


@given(st.integers(1, 50000), coverages)
def test_segments_are_the_output_of_six_poolings_and_a_kernel_of_two(n_frames: int, coverage: str) -> None:
    left = n_frames
    for _ in range(6):
        left = left // 2 + (left % 2 if coverage == "all" else 0)
    assert GEOMETRY[coverage].n_segments(n_frames) == max(left - 1, 1)


@given(st.lists(st.integers(1, 10**6), min_size=1), coverages)
def test_counts_of_a_batch_equal_those_of_its_clips(lengths: list[int], coverage: str) -> None:
    geometry = GEOMETRY[coverage]
    assert geometry.segment_counts(torch.tensor(lengths)).tolist() == [geometry.n_segments(n) for n in lengths]
    assert halve(torch.tensor(lengths), coverage).tolist() == [halve(n, coverage) for n in lengths]


@pytest.mark.parametrize(("n_frames", "expected"), [(896, 13), (862, 12), (431, 5), (128, 1), (127, 1), (192, 2)])
def test_segments_of_the_paper(n_frames: int, expected: int) -> None:
    assert GEOMETRY["paper"].n_segments(n_frames) == expected


@given(st.integers(1, 50000))
def test_every_frame_is_in_a_segment_and_no_segment_is_empty(n_frames: int) -> None:
    geometry = GEOMETRY["all"]
    seen = np.zeros(n_frames, dtype=bool)
    for k in range(geometry.n_segments(n_frames)):
        assert k * geometry.hop < n_frames
        seen[k * geometry.hop : k * geometry.hop + geometry.span] = True
    assert seen.all()


clips = {
    "n_samples": st.integers(1, 10**7),
    "rate_and_hop": st.sampled_from([(16000, 160), (32000, 320), (44100, 512)]),
}


@given(**clips, coverage=coverages)
def test_times_increase_and_stay_inside_the_clip(
    n_samples: int, rate_and_hop: tuple[int, int], coverage: str
) -> None:
    rate, hop = rate_and_hop
    n_frames = frame_count(n_samples, hop)
    times = GEOMETRY[coverage].times(n_frames, hop / rate, n_samples / rate)
    assert times.shape == (GEOMETRY[coverage].n_segments(n_frames), 2)
    assert times.min() >= 0
    assert times.max() <= n_samples / rate
    assert (np.diff(times[:, 0]) > 0).all()
    assert (np.diff(times[:, 1]) >= 0).all()
    assert (times[:, 0] < times[:, 1]).all()


@given(**clips)
def test_every_sample_is_in_a_segment(n_samples: int, rate_and_hop: tuple[int, int]) -> None:
    rate, hop = rate_and_hop
    times = GEOMETRY["all"].times(frame_count(n_samples, hop), hop / rate, n_samples / rate)
    assert times[0, 0] == 0
    assert times[-1, 1] == n_samples / rate
    assert (times[1:, 0] <= times[:-1, 1]).all()


def test_times_of_a_known_clip() -> None:
    """10 s at 16 kHz with hop 160: 1001 frames, a segment of 1.28 s every 0.64 s."""
    times = GEOMETRY["all"].times(1001, 0.01, 10.0)
    assert len(times) == 15
    np.testing.assert_allclose(times[0], [0, 1.28])
    np.testing.assert_allclose(times[1], [0.64, 1.92])
    np.testing.assert_allclose(times[-1], [8.96, 10.0])


@given(st.lists(st.integers(0, 20), min_size=1), st.integers(0, 25))
def test_mask_is_true_inside_each_row(lengths: list[int], size: int) -> None:
    expected = [[position < length for position in range(size)] for length in lengths]
    assert length_mask(torch.tensor(lengths), size).tolist() == expected


def test_centred_segments_start_half_a_span_earlier() -> None:
    """Segment k is centred on frame 32 k; the first and the last also cover the ends of the clip."""
    centred = SegmentGeometry(span=32, hop=32, lead=16)
    times = centred.times(1001, 0.01, 10.0)
    assert times.shape == (32, 2)
    np.testing.assert_allclose(times[:2], [[0, 0.16], [0.16, 0.48]])
    np.testing.assert_allclose(times[-1], [9.76, 10.0])


@given(**clips)
def test_centred_segments_cover_the_clip_without_gaps(n_samples: int, rate_and_hop: tuple[int, int]) -> None:
    rate, hop = rate_and_hop
    times = SegmentGeometry(32, 32, lead=16).times(frame_count(n_samples, hop), hop / rate, n_samples / rate)
    assert times[0, 0] == 0
    assert times[-1, 1] == n_samples / rate
    np.testing.assert_allclose(times[1:, 0], times[:-1, 1])
    assert (np.diff(times, axis=0) >= 0).all()


@given(
    hop=st.integers(1, 80),
    overlap=st.integers(1, 4),
    coverage=coverages,
    n_samples=st.integers(1, 100000),
    rate=st.sampled_from([16000, 22050, 44100]),
    seed=st.integers(0, 99),
)
def test_the_score_of_an_interval_is_the_mean_of_the_segments_that_cover_it(
    hop: int, overlap: int, coverage: Coverage, n_samples: int, rate: int, seed: int
) -> None:
    geometry = SegmentGeometry(hop * overlap, hop, coverage)
    times = geometry.times(frame_count(n_samples, 160), 160 / rate, n_samples / rate)
    scores = np.random.default_rng(seed).random((len(times), 3))
    means, edges = timeline(scores, times)
    assert edges[0] == 0
    assert edges[-1] == pytest.approx(times[-1, 1], abs=1e-6)
    assert (np.diff(edges) > 0).all()
    assert means.shape == (len(edges) - 1, 3)
    for score, start, end in zip(means, edges[:-1], edges[1:], strict=True):
        covering = [row for row, (s, e) in zip(scores, times, strict=True) if s < end - 1e-6 and e > start + 1e-6]
        np.testing.assert_allclose(score, sum(covering) / len(covering), rtol=1e-12)


def test_intervals_of_half_overlapping_segments_last_one_hop() -> None:
    times = SegmentGeometry(128, 64).times(frame_count(50000, 160), 0.01, 3.125)
    means, edges = timeline(np.array([[1.0], [0.0], [0.5], [0.0]]), times)
    assert edges.tolist() == [0, 0.64, 1.28, 1.92, 2.56, 3.125]
    assert means[:, 0].tolist() == [1.0, 0.5, 0.25, 0.25, 0.0]


def test_scores_of_segments_without_overlap_are_unchanged() -> None:
    scores = np.random.default_rng(0).random((9, 4), dtype=np.float32)
    means, _ = timeline(scores, SegmentGeometry(32, 32).times(32 * 9, 0.01, 2.875))
    np.testing.assert_array_equal(means, scores)
