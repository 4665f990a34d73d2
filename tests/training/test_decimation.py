from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.audio.frontend import FRONT_ENDS, LogMel, decimated, get_front_end
from weakaudio.errors import WeakAudioError
from weakaudio.networks.contract import Features
from weakaudio.training.distillation import decimate, decimate_features


@given(
    name=st.sampled_from(["16k", "32k", "panns-32k", "efficientat-32k"]),
    frame_stride=st.integers(2, 5),
    n_samples=st.integers(1, 9000),
)
def test_a_decimated_front_end_computes_every_kth_frame(name: str, frame_stride: int, n_samples: int) -> None:
    waveform = 0.1 * torch.randn(2, n_samples, generator=torch.Generator().manual_seed(0))
    whole, _ = LogMel(name)(waveform)
    few, n_frames = LogMel(decimated(get_front_end(name), frame_stride))(waveform)
    assert n_frames.tolist() == [few.shape[1]] * 2
    torch.testing.assert_close(few, whole[:, ::frame_stride], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_front_ends_are_found_by_their_names(name: str) -> None:
    preset = get_front_end(name)
    assert get_front_end(name) == decimated(preset, 1) == preset
    assert get_front_end(f"{name}/3") == decimated(preset, 3)
    assert decimated(preset, 3).hop_length == 3 * preset.hop_length
    assert decimated(decimated(preset, 3), 2) == decimated(preset, 6) == get_front_end(f"{name}/6")


@pytest.mark.parametrize("name", ["32k/1", "32k/0", "32k/-2", "32k/", "32k/two", "32k/2/2", "33k/2", "33k", "/2"])
def test_invalid_names_of_front_ends_are_refused(name: str) -> None:
    with pytest.raises(WeakAudioError, match="front end "):
        get_front_end(name)


def test_a_frame_stride_below_1_is_refused() -> None:
    with pytest.raises(WeakAudioError, match="frame stride 0"):
        decimated(get_front_end("32k"), 0)


@given(rows=st.integers(1, 20), frame_stride=st.integers(1, 6))
def test_decimated_rows_are_means_around_every_kth_row(rows: int, frame_stride: int) -> None:
    x = torch.randn(2, 3, rows, 4, generator=torch.Generator().manual_seed(rows))
    found = decimate(x, frame_stride)
    assert found.shape[2] == -(-rows // frame_stride)
    for n in range(found.shape[2]):
        # A row reaches half a row to both sides, a mean k/2 rows: the weight is their overlap.
        inside = [min(1.0, frame_stride / 2 + 0.5 - abs(row - n * frame_stride)) for row in range(rows)]
        weights = torch.tensor(inside).clamp_min(0.0)
        expected = (x * weights[:, None]).sum(2) / weights.sum()
        torch.testing.assert_close(found[:, :, n], expected)


@pytest.mark.parametrize("frame_stride", [2, 3, 4])
def test_decimation_does_not_shift_in_time(frame_stride: int) -> None:
    """A ramp has the position of each row as its value."""
    ramp = torch.arange(24.0)[None, None, :, None]
    reach = frame_stride // 2
    inner = slice(-(-reach // frame_stride), -1)
    assert decimate(ramp, frame_stride)[0, 0, inner, 0].tolist() == ramp[0, 0, ::frame_stride, 0][inner].tolist()


def test_all_features_of_a_teacher_get_the_students_resolution() -> None:
    embeddings = torch.arange(10.0).reshape(1, 5, 2)
    features = Features(
        [torch.ones(1, 3, 40, 4), torch.ones(1, 2, 5, 2)],
        embeddings,
        torch.ones(1, 5, dtype=torch.bool),
        torch.tensor([157]),
    )
    maps, means, mask, lengths = decimate_features(features, 2)
    assert lengths.tolist() == [79]
    assert [x.shape[2] for x in maps] == [20, 3]
    torch.testing.assert_close(means, torch.tensor([[[2 / 3, 5 / 3], [4.0, 5.0], [22 / 3, 25 / 3]]]))
    assert mask.tolist() == [[True] * 3]
