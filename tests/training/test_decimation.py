from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.audio.frontend import FRONT_ENDS, LogMel, decimated, get_front_end
from weakaudio.errors import WeakAudioError
from weakaudio.networks.contract import Features
from weakaudio.training.decimation import decimate_features, thin


@given(
    name=st.sampled_from(["16k", "32k", "panns-32k", "efficientat-32k"]),
    every=st.integers(2, 5),
    n_samples=st.integers(1, 9000),
)
def test_a_thinned_front_end_gives_every_kth_frame(name: str, every: int, n_samples: int) -> None:
    waveform = 0.1 * torch.randn(2, n_samples, generator=torch.Generator().manual_seed(0))
    whole, _ = LogMel(name)(waveform)
    few, n_frames = LogMel(decimated(get_front_end(name), every))(waveform)
    assert n_frames.tolist() == [few.shape[1]] * 2
    torch.testing.assert_close(few, whole[:, ::every], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_front_ends_are_found_by_their_names(name: str) -> None:
    preset = get_front_end(name)
    assert get_front_end(name) == decimated(preset, 1) == preset
    assert get_front_end(f"{name}/3") == decimated(preset, 3)
    assert decimated(preset, 3).hop_length == 3 * preset.hop_length
    assert decimated(decimated(preset, 3), 2) == decimated(preset, 6) == get_front_end(f"{name}/6")


@pytest.mark.parametrize("name", ["32k/1", "32k/0", "32k/-2", "32k/", "32k/two", "32k/2/2", "33k/2", "33k", "/2"])
def test_names_of_no_front_end_are_refused(name: str) -> None:
    with pytest.raises(WeakAudioError, match="front end "):
        get_front_end(name)


def test_fewer_than_every_frame_is_refused() -> None:
    with pytest.raises(WeakAudioError, match="every 0-th frame"):
        decimated(get_front_end("32k"), 0)


@given(rows=st.integers(1, 20), every=st.integers(1, 6))
def test_rows_are_means_around_every_kth_of_what_is_there(rows: int, every: int) -> None:
    x = torch.randn(2, 3, rows, 4, generator=torch.Generator().manual_seed(rows))
    found = thin(x, every)
    assert found.shape[2] == -(-rows // every)
    for n in range(found.shape[2]):
        # A row reaches half a row to both sides, a mean k/2 rows: so much of each is in it.
        inside = [min(1.0, every / 2 + 0.5 - abs(row - n * every)) for row in range(rows)]
        weights = torch.tensor(inside).clamp_min(0.0)
        expected = (x * weights[:, None]).sum(2) / weights.sum()
        torch.testing.assert_close(found[:, :, n], expected)


@pytest.mark.parametrize("every", [2, 3, 4])
def test_what_a_teacher_says_does_not_move_in_time(every: int) -> None:
    """Of a ramp each row is its own place."""
    ramp = torch.arange(24.0)[None, None, :, None]
    reach = every // 2
    inner = slice(-(-reach // every), -1)
    assert thin(ramp, every)[0, 0, inner, 0].tolist() == ramp[0, 0, ::every, 0][inner].tolist()


def test_all_that_a_teacher_gives_has_the_student_s_resolution() -> None:
    embeddings = torch.arange(10.0).reshape(1, 5, 2)
    features = Features(
        [torch.ones(1, 3, 40, 4), torch.ones(1, 2, 5, 2)], embeddings, torch.ones(1, 5, dtype=torch.bool)
    )
    maps, means, mask = decimate_features(features, 2)
    assert [x.shape[2] for x in maps] == [20, 3]
    torch.testing.assert_close(means, torch.tensor([[[2 / 3, 5 / 3], [4.0, 5.0], [22 / 3, 25 / 3]]]))
    assert mask.tolist() == [[True] * 3]
