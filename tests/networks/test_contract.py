"""What every network promises, under every pooling and coverage."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from weakaudio.audio.logmel import LogMel
from weakaudio.audio.segments import COVERAGES
from weakaudio.errors import LabelError, WeakAudioError
from weakaudio.networks import NETWORKS, Network, Output, build_network
from weakaudio.networks.model import Model
from weakaudio.networks.pooling import POOLINGS

Randomise = Callable[..., Network]

EVERY = pytest.mark.parametrize(
    ("name", "pooling", "coverage"), list(itertools.product(NETWORKS, POOLINGS, COVERAGES))
)
RATE = 16000  # of the front end "16k": a frame each 160 samples, a segment each 64 frames


def tiny(name: str, pooling: str = "mean", coverage: str = "all", **config: object) -> Network:
    arguments = {"n_classes": 5, "n_mels": 64, "width": 1 / 8, "pooling": pooling, "coverage": coverage}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(name, **{**arguments, **config})


def clips_of(lengths: list[int]) -> list[Tensor]:
    """Noise of another level and colour for each clip."""
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(n, generator=generator) for n in lengths]
    return [clip.cumsum(0) * 0.01 if k % 2 else clip * 0.1 for k, clip in enumerate(clips)]


def assert_same_clip(together: Output, row: int, alone: Output, tolerance: float = 1e-5) -> None:
    count = int(together.mask[row].sum())
    assert together.mask[row, :count].all()
    assert alone.mask.all()
    for name in ("embeddings", "segment_logits"):
        expected, value = getattr(alone, name)[0], getattr(together, name)[row, :count]
        torch.testing.assert_close(value, expected, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(together.clip_probs[row], alone.clip_probs[0], rtol=0, atol=tolerance)


# Anything from one sample on, and lengths at which a frame or a segment more begins.
seconds = st.integers(1, 6 * RATE)
borders = st.builds(
    lambda frames, off: max(frames * 160 + off, 1),
    st.one_of(st.integers(0, 8).map(lambda k: 64 * k), st.integers(0, 400)),
    st.integers(-2, 2),
)
lengths_of_clips = st.lists(st.one_of(borders, seconds), min_size=2, max_size=3)


@EVERY
@settings(max_examples=5)
@example(lengths=[1, 2])
@given(lengths=lengths_of_clips)
def test_clip_in_a_batch_is_the_clip_alone(
    randomise: Randomise, name: str, pooling: str, coverage: str, lengths: list[int]
) -> None:
    model = Model(randomise(tiny(name, pooling, coverage)), "16k", list("abcde")).eval()
    clips = clips_of(lengths)
    with torch.no_grad():
        batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        together = model(batch, torch.tensor(lengths))
        for row, clip in enumerate(clips):
            assert_same_clip(together, row, model(clip[None]))


@pytest.mark.parametrize("coverage", COVERAGES)
@pytest.mark.parametrize("name", NETWORKS)
def test_one_sample_beside_two_minutes_is_the_clip_alone(randomise: Randomise, name: str, coverage: str) -> None:
    lengths = [120 * RATE, 1, 4 * RATE + 77]
    model = Model(randomise(tiny(name, "attention", coverage, width=1 / 16)), "16k", list("abcde")).eval()
    clips = clips_of(lengths)
    with torch.no_grad():
        together = model(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor(lengths))
        for row, clip in enumerate(clips):
            assert_same_clip(together, row, model(clip[None]))


@pytest.mark.parametrize("coverage", COVERAGES)
@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=15)
@given(n_frames=st.integers(1, 500), more=st.integers(0, 200))
def test_what_lies_past_the_end_of_a_clip_is_ignored(
    randomise: Randomise, name: str, coverage: str, n_frames: int, more: int
) -> None:
    network = randomise(tiny(name, "attention", coverage))
    logmel = torch.rand(1, n_frames + more, 64, generator=torch.Generator().manual_seed(n_frames))
    with torch.no_grad():
        together = network(logmel, torch.tensor([n_frames]))
        assert_same_clip(together, 0, network(logmel[:, :n_frames]))


@EVERY
def test_shapes_are_those_of_the_contract(name: str, pooling: str, coverage: str) -> None:
    network = tiny(name, pooling, coverage).eval()
    lengths = torch.tensor([500, 130, 1])
    output = network(torch.rand(3, 500, 64), lengths)
    segments = network.geometry.n_segments(500)
    assert output.segment_logits.shape == (3, segments, 5)
    assert output.embeddings.shape == (3, segments, network.n_features)
    assert output.mask.sum(1).tolist() == [network.geometry.n_segments(n) for n in lengths.tolist()]
    assert output.clip_probs.shape == (3, 5)
    assert output.clip_probs.dtype == torch.float32
    embeddings, mask = network.forward_features(torch.rand(3, 500, 64), lengths)
    assert network.forward_head(embeddings).shape == output.segment_logits.shape
    assert torch.equal(mask, output.mask)


@EVERY
def test_same_input_twice_gives_the_same_bits(randomise: Randomise, name: str, pooling: str, coverage: str) -> None:
    logmel, lengths = torch.rand(3, 300, 64), torch.tensor([300, 200, 7])
    first, second = (randomise(tiny(name, pooling, coverage))(logmel, lengths) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("coverage", COVERAGES)
@pytest.mark.parametrize("name", NETWORKS)
def test_fusing_changes_nothing(randomise: Randomise, name: str, coverage: str) -> None:
    network = randomise(tiny(name, coverage=coverage))
    logmel, lengths = torch.rand(3, 431, 64), torch.tensor([431, 200, 7])
    with torch.no_grad():
        before = network(logmel, lengths)
        after = network.fuse()(logmel, lengths)
    for expected, value in zip(before, after, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)


@EVERY
def test_config_rebuilds_the_network_also_after_a_new_classifier(
    randomise: Randomise, name: str, pooling: str, coverage: str
) -> None:
    network = randomise(tiny(name, pooling, coverage))
    logmel = torch.rand(2, 200, 64)
    embeddings = network(logmel).embeddings
    network.reset_classifier(3)
    output = network.eval()(logmel)
    assert output.clip_probs.shape == (2, 3)
    assert torch.equal(output.embeddings, embeddings)
    twin = build_network(name, **network.config).eval()
    twin.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(twin(logmel).clip_probs, output.clip_probs)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_receives_a_gradient(name: str) -> None:
    network = tiny(name, "attention", width=1 / 2)
    network(2 * torch.rand(2, 400, 64), torch.tensor([400, 150])).clip_probs.sum().backward()
    idle = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert idle == []


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"n_mels": 100},
        {"n_mels": 0},
        {"n_mels": -64},
        {"n_classes": 0},
        {"n_classes": -1},
        {"width": 0.01},
        {"width": -1.0},
        {"depth": 0},
        {"coverage": "most"},
        {"pooling": "median"},
        {"heads": 4},
    ],
)
def test_wrong_arguments_are_refused(name: str, wrong: dict[str, object]) -> None:
    with pytest.raises(WeakAudioError, match=str(next(iter(wrong.values())))[:5] + "|" + next(iter(wrong))):
        tiny(name, **wrong)


def test_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(WeakAudioError, match=r"'resnet'.*weakcnn, windowed-cnn"):
        build_network("resnet", n_classes=2)


def test_missing_argument_is_refused() -> None:
    with pytest.raises(WeakAudioError, match="n_classes"):
        build_network("weakcnn")


def test_model_needs_a_label_for_each_class() -> None:
    with pytest.raises(LabelError, match="2 labels for a network of 5 classes"):
        Model(tiny("weakcnn"), "16k", ["a", "b"])


@pytest.mark.parametrize("coverage", COVERAGES)
@given(n_samples=st.integers(1, 5 * RATE))
@settings(max_examples=15)
def test_model_has_a_time_for_each_segment(coverage: str, n_samples: int) -> None:
    model = Model(tiny("weakcnn", coverage=coverage, width=1 / 16), "16k", list("abcde")).eval()
    assert model.segment_times(n_samples).shape == (model(torch.zeros(1, n_samples)).mask.shape[1], 2)


def test_model_applies_its_own_front_end() -> None:
    model, audio = Model(tiny("weakcnn"), "16k", list("abcde")).eval(), torch.randn(2, RATE)
    expected = model.network(*LogMel("16k")(audio))
    assert torch.equal(model(audio).clip_probs, expected.clip_probs)
    assert model.sample_rate == RATE
