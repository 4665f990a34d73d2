"""The contract of all operators, and each one against plain loops."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import plain_operators
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from weakaudio.networks.layers import clear, fold_norms
from weakaudio.networks.operators import OPERATORS, Operator
from weakaudio.networks.operators.recurrence import gated_linear_attention

Randomise = Callable[[nn.Module], Operator]
each_operator = pytest.mark.parametrize("name", OPERATORS)


@pytest.fixture(scope="session")
def make(randomise: Randomise) -> Callable[..., Operator]:
    """An operator in eval mode whose weights and statistics all carry signal."""

    def build(name: str, channels: int = 8, n_mels: int = 4) -> Operator:
        operator = randomise(OPERATORS[name](channels, n_mels))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for key, parameter in operator.named_parameters(recurse=False):
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
                assert key in ("scale", "shift")
        return operator

    return build


def maps(*shape: int, seed: int = 0) -> Tensor:
    """Channels-last maps, as in a network."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


@each_operator
@pytest.mark.parametrize(("channels", "n_mels", "rows"), [(3, 1, 1), (8, 4, 7), (40, 2, 70), (70, 2, 130)])
def test_output_equals_plain_loops(
    make: Callable[..., Operator], name: str, channels: int, n_mels: int, rows: int
) -> None:
    if channels > 8 and name not in ("attention", "recurrence"):  # for their heads and chunks
        channels, rows = 8, 9
    operator, x = make(name, channels, n_mels), maps(1, channels, rows, n_mels)
    with torch.no_grad():
        y = operator(x, None)
    expected = plain_operators.plain(name, operator, x[0].double().numpy())
    assert y.shape == x.shape
    np.testing.assert_allclose(y[0], expected, rtol=1e-4, atol=2e-5)


@each_operator
@settings(max_examples=8)
@example(lengths=[1, 2])
@example(lengths=[1, 200, 63])
@given(lengths=st.lists(st.integers(1, 150), min_size=2, max_size=3))
def test_a_clip_has_the_same_output_alone_and_in_a_batch_and_padding_is_zero(
    make: Callable[..., Operator], name: str, lengths: list[int]
) -> None:
    operator, counts = make(name), torch.tensor(lengths)
    x = clear(maps(len(lengths), 8, max(lengths) + 3, 4), counts)
    with torch.no_grad():
        together = operator(x, counts)
        assert torch.equal(together, clear(together, counts))
        for row, length in enumerate(lengths):
            alone = operator(x[row : row + 1, :, :length], None)
            torch.testing.assert_close(together[row, :, :length], alone[0], rtol=0, atol=1e-5)


@each_operator
def test_reach_is_the_receptive_field(make: Callable[..., Operator], name: str) -> None:
    """In both directions exactly; None: from one end of a clip to the other."""
    operator, x = make(name), maps(1, 8, 161, 4)
    other = x.clone()
    other[:, :, 80] += 3 * maps(1, 8, 1, 4, seed=1)[:, :, 0]
    with torch.no_grad():
        changed = (operator(other, None) - operator(x, None)).abs().amax((0, 1, 3))
    if operator.reach is None:
        assert (changed > 0).all()
    else:
        assert torch.nonzero(changed)[:, 0].tolist() == list(range(80 - operator.reach, 81 + operator.reach))


@each_operator
def test_it_is_residual(name: str) -> None:
    """With a zero gain in its last normalisation it is the identity, or a ReLU."""
    operator, x = OPERATORS[name](8, 4).eval(), maps(2, 8, 20, 4).abs()
    last = [layer for layer in operator.modules() if isinstance(layer, nn.BatchNorm2d)][-1]
    nn.init.zeros_(last.weight)
    assert torch.equal(operator(x, torch.tensor([20, 20])), x)


@each_operator
@pytest.mark.parametrize("channels", [8, 70])
def test_folding_preserves_the_output(make: Callable[..., Operator], name: str, channels: int) -> None:
    operator, x = make(name, channels), maps(2, channels, 80, 4)
    folded = copy.deepcopy(operator)
    fold_norms(folded)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    lengths = torch.tensor([80, 5])
    with torch.no_grad():
        torch.testing.assert_close(folded(x, lengths), operator(x, lengths), rtol=0, atol=1e-4)


@each_operator
def test_every_parameter_receives_a_gradient(name: str) -> None:
    operator, x, lengths = OPERATORS[name](40, 4), maps(2, 40, 90, 4), torch.tensor([90, 1])
    x = clear(x, lengths).requires_grad_()
    operator(x, lengths).square().sum().backward()
    assert [key for key, p in operator.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert x.grad is not None
    assert all(p.grad.isfinite().all() for p in [x, *operator.parameters()] if p.grad is not None)


@each_operator
def test_bfloat16_is_near_float32(make: Callable[..., Operator], name: str) -> None:
    operator, lengths = make(name, 32), torch.tensor([100, 37])
    x = clear(maps(2, 32, 100, 4), lengths)
    with torch.no_grad():
        expected = operator(x, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            y = operator(x.bfloat16(), lengths)
    assert y.isfinite().all()
    assert (y.float() - expected).square().mean() < 1e-3 * expected.square().mean()


@each_operator
def test_maps_stay_channels_last(make: Callable[..., Operator], name: str) -> None:
    """Otherwise the next convolution copies the map or runs a slower kernel."""
    with torch.inference_mode():
        y = make(name)(maps(2, 8, 20, 4), None)
    assert y.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=30)
@example(rows=1, chunk=1, slow=0.0, seed=0)
@example(rows=129, chunk=64, slow=1e4, seed=0)
@given(
    rows=st.integers(1, 150),
    chunk=st.integers(1, 80),
    slow=st.sampled_from([0.0, 1e-3, 0.1, 3.0, 1e4]),
    seed=st.integers(0, 9),
)
def test_chunked_recurrence_equals_row_by_row(rows: int, chunk: int, slow: float, seed: int) -> None:
    """With gates from 1 (no decay) to 0 (no memory)."""
    generator = torch.Generator().manual_seed(seed)
    queries, keys, values = torch.randn(3, 1, 2, rows, 4, generator=generator)
    decays = -slow * torch.rand(2, 1, 2, rows, generator=generator)
    y = gated_linear_attention(queries, keys, values, decays[0], decays[1], chunk)
    arrays = [x[0].double().numpy() for x in (queries, keys, values, *decays)]
    expected = plain_operators.gated_linear_attention(*arrays)
    np.testing.assert_allclose(y[0], expected, rtol=0, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


def test_extreme_gates_have_finite_gradients() -> None:
    logits = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4]).repeat(40).requires_grad_()
    decays = nn.functional.logsigmoid(logits)[None, None]
    x = torch.randn(3, 1, 1, 200, 4, generator=torch.Generator().manual_seed(0))
    gated_linear_attention(*x, decays, decays).square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_recurrence_takes_linear_time() -> None:
    def products(rows: int) -> int:
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            OPERATORS["recurrence"](32, 2).eval()(maps(1, 32, rows, 2), None)
        return counter.get_total_flops()

    assert products(1024) == 4 * products(256) > 0


def test_only_the_frequency_operator_distinguishes_frequencies(make: Callable[..., Operator]) -> None:
    """A plain convolution maps a shifted pattern to the shifted output."""
    x = torch.zeros(2, 8, 5, 16)
    pattern = maps(1, 8, 3, 3)[0]
    x[0, :, 1:4, 3:6] = pattern
    x[1, :, 1:4, 9:12] = pattern
    low, high = slice(3, 6), slice(9, 12)  # far from the edges, which differ
    with torch.no_grad():
        moved = {name: make(name, 8, 16)(x, None) for name in ("dense", "frequency")}
    same = {name: torch.allclose(y[0, ..., low], y[1, ..., high], atol=1e-6) for name, y in moved.items()}
    assert same == {"dense": True, "frequency": False}
