from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weakaudio.audio.geometry import COVERAGES
from weakaudio.networks import Network, WeakCNN, WindowedCNN


@pytest.mark.parametrize("coverage", COVERAGES)
@settings(max_examples=8)
@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=2))
def test_it_equals_a_loop_over_windows(randomise: Callable[..., Network], coverage: str, lengths: list[int]) -> None:
    windowed = randomise(WindowedCNN(4, n_mels=64, width=1 / 8, coverage=coverage))
    plain = WeakCNN(4, n_mels=64, width=1 / 8, coverage=coverage).eval()
    plain.load_state_dict(windowed.state_dict())
    logmel = torch.rand(len(lengths), max(lengths), 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = windowed(logmel, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            segments = windowed.geometry.n_segments(length)
            assert int(output.mask[row].sum()) == segments
            for k in range(segments):
                window = logmel[row : row + 1, 64 * k : min(64 * k + 128, length)]
                expected = plain(window)
                assert expected.mask.shape == (1, 1)
                torch.testing.assert_close(output.embeddings[row, k], expected.embeddings[0, 0], rtol=0, atol=1e-5)
                torch.testing.assert_close(
                    output.segment_logits[row, k], expected.segment_logits[0, 0], rtol=0, atol=1e-5
                )


def test_windows_are_independent(randomise: Callable[..., Network]) -> None:
    network = randomise(WindowedCNN(4, n_mels=64, width=1 / 8))
    logmel = torch.rand(1, 640, 64)
    changed = logmel.clone()
    changed[:, 320] += 3.0  # in segments 4 (256 .. 384) and 5 (320 .. 448) only; 3 ends at 320
    with torch.no_grad():
        difference = (network(logmel).embeddings - network(changed).embeddings).abs().amax((0, 2))
    assert difference.nonzero().flatten().tolist() == [4, 5]
