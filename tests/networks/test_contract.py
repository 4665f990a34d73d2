"""The contract of all networks in `NETWORKS`, with each pooling and coverage that they take."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from weakaudio.audio.frontend import LogMel
from weakaudio.audio.geometry import COVERAGES
from weakaudio.errors import LabelError, WeakAudioError
from weakaudio.networks import NETWORKS, Network, Output, build_network
from weakaudio.networks.model import Model
from weakaudio.networks.pooling import POOLINGS, Pooling
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model

Randomise = Callable[..., Network]

RATE = 16000  # of the front end "16k": one frame per 160 samples, one segment per 64 or 32 frames
CHOICES: dict[str, Iterable[object]] = {"pooling": POOLINGS, "coverage": COVERAGES, "score_stride": (None, 4, 16)}
SMALL: dict[str, dict[str, object]] = {
    "weakcnn": {"width": 1 / 8},
    "windowed-cnn": {"width": 1 / 8},
    "mobilenet": {"width": 1 / 8},
    "cnn14": {"width": 1 / 16},
    "flash": {"stages": [("dense", 1, 8)] * 4, "n_features": 16},
    "stacked": {"base": "weakcnn", "base_config": {"n_classes": 4, "n_mels": 64, "width": 1 / 8}},
}


def takes(name: str, argument: str) -> bool:
    return argument in inspect.signature(NETWORKS[name]).parameters


def networks(*choices: str, **fixed: str) -> pytest.MarkDecorator:
    """Each network with all combinations of the choices that it takes, and of `fixed` what it takes."""
    cases = []
    for name in NETWORKS:
        own = [choice for choice in choices if takes(name, choice)]
        rest = {key: value for key, value in fixed.items() if takes(name, key)}
        for values in itertools.product(*(CHOICES[choice] for choice in own)):
            config = {**rest, **dict(zip(own, values, strict=True))}
            cases.append(pytest.param(name, config, id="-".join(map(str, [name, *values]))))
    return pytest.mark.parametrize(("name", "config"), cases)


def tiny(name: str, config: dict[str, str] | None = None, **more: object) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mels = {"n_mels": 64} if takes(name, "n_mels") else {}
        return build_network(name, **{"n_classes": 5, **mels, **SMALL.get(name, {}), **(config or {}), **more})


def clips_of(lengths: list[int]) -> list[Tensor]:
    """White and brown noise in turn, of different lengths."""
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(n, generator=generator) for n in lengths]
    return [clip.cumsum(0) * 0.01 if k % 2 else clip * 0.1 for k, clip in enumerate(clips)]


def assert_same_clip(together: Output, row: int, alone: Output, tolerance: float = 1e-5) -> None:
    for name, mask in (("embeddings", "mask"), ("segment_logits", "score_mask")):
        inside = getattr(together, mask)[row]
        count = int(inside.sum())
        assert inside[:count].all()
        assert getattr(alone, mask).all()
        expected, value = getattr(alone, name)[0], getattr(together, name)[row, :count]
        torch.testing.assert_close(value, expected, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(together.clip_probs[row], alone.clip_probs[0], rtol=0, atol=tolerance)


# Any length from one sample, and lengths at which another frame or segment starts.
seconds = st.integers(1, 6 * RATE)
borders = st.builds(
    lambda frames, off: max(frames * 160 + off, 1),
    st.one_of(st.integers(0, 8).map(lambda k: 64 * k), st.integers(0, 400)),
    st.integers(-2, 2),
)
lengths_of_clips = st.lists(st.one_of(borders, seconds), min_size=2, max_size=3)


@networks("pooling", "coverage", "score_stride")
@settings(max_examples=5)
@example(lengths=[1, 2])
@given(lengths=lengths_of_clips)
def test_a_clip_has_the_same_output_alone_and_in_a_batch(
    randomise: Randomise, name: str, config: dict[str, str], lengths: list[int]
) -> None:
    model = Model(randomise(tiny(name, config)), "16k", list("abcde")).eval()
    clips = clips_of(lengths)
    with torch.no_grad():
        batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        together = model(batch, torch.tensor(lengths))
        for row, clip in enumerate(clips):
            assert_same_clip(together, row, model(clip[None]))


@networks("coverage", "score_stride", pooling="attention")
def test_a_clip_of_one_sample_has_the_same_output_beside_one_of_two_minutes(
    randomise: Randomise, name: str, config: dict[str, str]
) -> None:
    lengths = [120 * RATE, 1, 4 * RATE + 77]
    model = Model(randomise(tiny(name, config)), "16k", list("abcde")).eval()
    clips = clips_of(lengths)
    with torch.no_grad():
        together = model(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor(lengths))
        for row, clip in enumerate(clips):
            assert_same_clip(together, row, model(clip[None]))


@networks("coverage", "score_stride", pooling="attention")
@settings(max_examples=15)
@given(n_frames=st.integers(1, 500), more=st.integers(0, 200))
def test_padding_is_ignored(
    randomise: Randomise, name: str, config: dict[str, str], n_frames: int, more: int
) -> None:
    network = randomise(tiny(name, config))
    logmel = torch.rand(1, n_frames + more, 64, generator=torch.Generator().manual_seed(n_frames))
    with torch.no_grad():
        together = network(logmel, torch.tensor([n_frames]))
        assert_same_clip(together, 0, network(logmel[:, :n_frames]))


@networks("pooling", "coverage", "score_stride")
def test_output_has_the_shapes_of_the_contract(name: str, config: dict[str, str]) -> None:
    network = tiny(name, config).eval()
    lengths = torch.tensor([500, 130, 1])
    output = network(torch.rand(3, 500, 64), lengths)
    segments, steps = network.geometry.n_segments(500), network.score_geometry.n_segments(500)
    assert output.segment_logits.shape == (3, steps, 5)
    assert output.score_mask.sum(1).tolist() == [network.score_geometry.n_segments(n) for n in lengths.tolist()]
    assert output.embeddings.shape == (3, segments, network.n_features)
    assert output.mask.sum(1).tolist() == [network.geometry.n_segments(n) for n in lengths.tolist()]
    assert output.clip_probs.shape == (3, 5)
    assert output.clip_probs.dtype == torch.float32
    embeddings, mask = network.forward_features(torch.rand(3, 500, 64), lengths)
    assert network.forward_head(embeddings).shape == (3, segments, 5)
    assert torch.equal(mask, output.mask)


@networks("coverage", "score_stride")
def test_cached_trunks_can_be_batched_with_others(randomise: Randomise, name: str, config: dict[str, str]) -> None:
    """Cut to the clip's own rows, and zero-padded in another batch."""
    network = randomise(tiny(name, config))
    lengths = torch.tensor([500, 130, 1])
    logmel = torch.rand(3, 500, 64)
    with torch.no_grad():
        x, mask = network.forward_trunk(logmel, lengths)
        missing = mask.shape[1] - mask.sum(1)
        kept = [own[:, : x.shape[2] - less].clone() for own, less in zip(x, missing.tolist(), strict=True)]
        filled = torch.zeros_like(x)
        for n, own in enumerate(kept):
            filled[n, :, : own.shape[1]] = own
        expected, _ = network.forward_features(logmel, lengths)
        again = network.forward_last(filled, mask)
        alone = network.forward_last(kept[1][None].clone(), mask[1:2, : mask[1].sum()])
    torch.testing.assert_close(again[mask], expected[mask], rtol=0, atol=1e-5)
    torch.testing.assert_close(alone[0], expected[1][mask[1]], rtol=0, atol=1e-5)


@networks("pooling", "coverage", "score_stride")
def test_output_is_deterministic(randomise: Randomise, name: str, config: dict[str, str]) -> None:
    logmel, lengths = torch.rand(3, 300, 64), torch.tensor([300, 200, 7])
    first, second = (randomise(tiny(name, config))(logmel, lengths) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@networks("coverage", "score_stride", pooling="attention")
def test_fusing_preserves_the_output(randomise: Randomise, name: str, config: dict[str, str]) -> None:
    network = randomise(tiny(name, config))
    logmel, lengths = torch.rand(3, 431, 64), torch.tensor([431, 200, 7])
    with torch.no_grad():
        before = network(logmel, lengths)
        after = network.fuse()(logmel, lengths)
    for expected, value in zip(before, after, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)


@networks("pooling", "coverage", "score_stride")
def test_config_rebuilds_the_network_also_after_a_new_classifier(
    randomise: Randomise, name: str, config: dict[str, str]
) -> None:
    network = randomise(tiny(name, config))
    logmel = torch.rand(2, 200, 64)
    embeddings = network(logmel).embeddings
    network.reset_classifier(3)
    output = network.eval()(logmel)
    assert output.clip_probs.shape == (2, 3)
    assert torch.equal(output.embeddings, embeddings)
    twin = build_network(name, **network.config).eval()
    twin.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(twin(logmel).clip_probs, output.clip_probs)


@networks(pooling="attention")
def test_every_parameter_receives_a_gradient(name: str, config: dict[str, str]) -> None:
    network = tiny(name, config)
    network(2 * torch.rand(2, 400, 64), torch.tensor([400, 150])).clip_probs.sum().backward()
    idle = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert idle == []


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"n_mels": 0},
        {"n_mels": -64},
        {"n_classes": 0},
        {"n_classes": -1},
        {"width": -1.0},
        {"depth": 0},
        {"coverage": "most"},
        {"pooling": "median"},
        {"heads": 4},
    ],
)
def test_invalid_arguments_are_refused(name: str, wrong: dict[str, object]) -> None:
    """Including arguments of other networks."""
    with pytest.raises(WeakAudioError, match=str(next(iter(wrong.values())))[:5] + "|" + next(iter(wrong))):
        tiny(name, **wrong)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("weakcnn", {"n_mels": 100}),
        ("weakcnn", {"width": 0.01}),
        ("windowed-cnn", {"n_mels": 100}),
        ("windowed-cnn", {"width": 0.01}),
        ("mobilenet", {"width": 0.0}),
        ("cnn14", {"n_mels": 31}),
        ("cnn14", {"width": 0.001}),
    ],
)
def test_sizes_that_leave_no_channels_or_rows_are_refused(name: str, wrong: dict[str, object]) -> None:
    with pytest.raises(WeakAudioError, match=str(next(iter(wrong.values())))):
        tiny(name, **wrong)


def test_an_unknown_network_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(WeakAudioError, match=r"'resnet'.*weakcnn, windowed-cnn"):
        build_network("resnet", n_classes=2)


def test_a_missing_argument_is_refused() -> None:
    with pytest.raises(WeakAudioError, match="n_classes"):
        build_network("weakcnn")


def test_a_model_needs_one_label_per_class() -> None:
    with pytest.raises(LabelError, match="2 labels for a network of 5 classes"):
        Model(tiny("weakcnn"), "16k", ["a", "b"])


@networks("coverage", "score_stride")
@settings(max_examples=15)
@given(n_samples=st.integers(1, 5 * RATE))
def test_a_model_gives_times_of_each_segment(name: str, config: dict[str, str], n_samples: int) -> None:
    model = Model(tiny(name, config), "16k", list("abcde")).eval()
    with torch.no_grad():
        mask = model(torch.zeros(1, n_samples)).mask
    times = model.segment_times(n_samples)
    assert mask.all()
    assert times.shape == (mask.shape[1], 2)
    assert times[0, 0] == 0
    assert (times[:, 0] < times[:, 1]).all()
    assert times.max() <= n_samples / RATE
    with torch.no_grad():
        assert model(torch.zeros(1, n_samples)).score_mask.shape[1] == len(model.score_times(n_samples))


def test_a_model_applies_its_front_end() -> None:
    model, audio = Model(tiny("weakcnn"), "16k", list("abcde")).eval(), torch.randn(2, RATE)
    expected = model.network(*LogMel("16k")(audio))
    assert torch.equal(model(audio).clip_probs, expected.clip_probs)
    assert model.sample_rate == RATE


@networks()
def test_layers_are_all_that_leads_to_the_embedding(name: str, config: dict[str, str]) -> None:
    """Each parameter is in exactly one layer, or in the head."""
    net = tiny(name, config)
    in_layers = [id(p) for layer in net.layers() for p in layer.parameters()]
    assert len(in_layers) == len(set(in_layers))
    embeddings, _ = net.forward_features(torch.randn(2, 200, 64))
    embeddings.square().sum().backward()
    reached = {id(p) for p in net.parameters() if p.grad is not None}
    assert reached == set(in_layers)
    for layer in net.layers()[:-1]:
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
    net.zero_grad()
    embeddings, _ = net.forward_features(torch.randn(2, 200, 64))
    assert embeddings.requires_grad  # from the last layer


def test_a_pooling_is_added_by_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a user would: a class and a line in `POOLINGS`; networks build it and model files hold it by name."""

    class MedianPooling(Pooling):
        def forward(self, probs: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
            return probs.masked_fill(~mask[:, :, None], torch.nan).nanmedian(1).values

    monkeypatch.setitem(POOLINGS, "median", MedianPooling)
    for name in ("weakcnn", "windowed-cnn"):
        model = Model(tiny(name, {"pooling": "median"}), "16k", list("abcde")).eval()
        save_model(model, tmp_path / "model.safetensors")
        output = load_model(tmp_path / "model.safetensors")(torch.randn(1, 5 * RATE))
        expected = output.segment_logits.sigmoid().median(1).values
        torch.testing.assert_close(output.clip_probs, expected, rtol=0, atol=1e-6)
