from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.audio.geometry import COVERAGES, SegmentGeometry, frame_count, frame_counts, halve, halves, length_mask

coverages = st.sampled_from(COVERAGES)
GEOMETRY = {coverage: SegmentGeometry(span=128, hop=64, coverage=coverage) for coverage in COVERAGES}


@given(st.integers(0, 10**7), st.integers(1, 1000))
def test_frames_are_the_multiples_of_the_hop(n_samples: int, hop: int) -> None:
    assert frame_count(n_samples, hop) == len(range(0, n_samples + 1, hop))
    assert frame_counts(torch.tensor([n_samples]), hop).tolist() == [frame_count(n_samples, hop)]


@given(st.integers(1, 50000), coverages)
def test_segments_are_what_six_poolings_and_a_kernel_of_two_leave(n_frames: int, coverage: str) -> None:
    left = n_frames
    for _ in range(6):
        left = left // 2 + (left % 2 if coverage == "all" else 0)
    assert GEOMETRY[coverage].n_segments(n_frames) == max(left - 1, 1)


@given(st.lists(st.integers(1, 10**6), min_size=1), coverages)
def test_counts_of_a_batch_are_those_of_its_clips(lengths: list[int], coverage: str) -> None:
    geometry = GEOMETRY[coverage]
    assert geometry.segment_counts(torch.tensor(lengths)).tolist() == [geometry.n_segments(n) for n in lengths]
    assert halves(torch.tensor(lengths), coverage).tolist() == [halve(n, coverage) for n in lengths]


@pytest.mark.parametrize(("n_frames", "expected"), [(896, 13), (862, 12), (431, 5), (128, 1), (127, 1), (192, 2)])
def test_segments_of_the_paper(n_frames: int, expected: int) -> None:
    assert GEOMETRY["paper"].n_segments(n_frames) == expected


@given(st.integers(1, 50000))
def test_every_frame_is_in_a_segment_and_every_segment_has_frames(n_frames: int) -> None:
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


def test_segments_that_are_centred_begin_half_a_span_earlier() -> None:
    """Segment k is around frame 32 k; the first and the last stand for the ends of the clip as well."""
    centred = SegmentGeometry(span=32, hop=32, lead=16)
    times = centred.times(1001, 0.01, 10.0)
    assert times.shape == (32, 2)
    np.testing.assert_allclose(times[:2], [[0, 0.16], [0.16, 0.48]])
    np.testing.assert_allclose(times[-1], [9.76, 10.0])


@given(**clips)
def test_centred_segments_follow_each_other_from_end_to_end(n_samples: int, rate_and_hop: tuple[int, int]) -> None:
    rate, hop = rate_and_hop
    times = SegmentGeometry(32, 32, lead=16).times(frame_count(n_samples, hop), hop / rate, n_samples / rate)
    assert times[0, 0] == 0
    assert times[-1, 1] == n_samples / rate
    np.testing.assert_allclose(times[1:, 0], times[:-1, 1])
    assert (np.diff(times, axis=0) >= 0).all()
