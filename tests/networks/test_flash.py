from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from weakaudio.errors import WeakAudioError
from weakaudio.networks import FlashCNN, MobileNet, Network
from weakaudio.networks.model import Model
from weakaudio.networks.operators import OPERATORS
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model

STAGES = (("dense", 1, 4), ("dense", 0, 8), ("dense", 2, 8), ("dense", 1, 16))


def tiny(**config: object) -> FlashCNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FlashCNN(5, 64, **{"stages": STAGES, "n_features": 12, **config})  # type: ignore[arg-type]


# Each operator in all stages, and mixtures of operators.
ARCHITECTURES = {
    **{name: [(name, 1, 4), (name, 1, 6), (name, 2, 8), (name, 1, 8)] for name in OPERATORS},
    "alternating convolutions": [
        ("large-kernel+dense", 3, 4),
        ("inverted", 0, 8),
        ("frequency+inverted", 2, 8),
        STAGES[3],
    ],
    "mixed": [
        STAGES[0],
        ("inverted", 1, 6),
        ("dense+attention+frequency", 3, 8),
        ("recurrence+dense", 2, 40),
    ],
}
each_architecture = pytest.mark.parametrize("stages", ARCHITECTURES.values(), ids=list(ARCHITECTURES))
LOCAL = [name for name in ARCHITECTURES if name not in ("attention", "recurrence", "mixed")]


def test_maps_halve_and_there_is_one_embedding_per_32_frames(randomise: Callable[..., Network]) -> None:
    net = randomise(tiny())
    maps, embeddings, mask, lengths = net.forward_maps(torch.randn(2, 100, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 4, 25, 16), (2, 8, 13, 8), (2, 8, 7, 4), (2, 16, 4, 2)]
    assert embeddings.shape == (2, 4, 12)
    assert mask.all()
    assert lengths.tolist() == [100, 100]


def test_a_segment_is_centred_on_its_time_and_has_a_finite_receptive_field(randomise: Callable[..., Network]) -> None:
    """Only segments around an impulse change; so times are correct, and processing in blocks can be exact."""
    net = randomise(tiny())
    n_segments, struck = 64, 32
    quiet = torch.zeros(1, 32 * n_segments, 64)
    click = quiet.clone()
    click[0, 32 * struck] = 1.0
    with torch.inference_mode():
        difference = (net.forward_features(click)[0] - net.forward_features(quiet)[0]).abs().amax(2)[0]
    changed = torch.nonzero(difference > 1e-7)[:, 0]
    assert changed.min() >= struck - 10
    assert changed.max() <= struck + 10
    assert difference.argmax() in (struck - 1, struck, struck + 1)
    for network, front_end in ((net, "16k"), (MobileNet(5, width=0.1), "efficientat-32k")):
        middles = Model(network, front_end, list("abcde")).segment_times(200_000).mean(1)[1:-1]
        np.testing.assert_allclose(np.diff(middles), 0.32)
        np.testing.assert_allclose(middles[0], 0.32)  # around frame 32


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"n_mels": 65}, "multiple of 32"),
        ({"stages": STAGES[:3]}, "4 stages, got 3"),
        ({"stages": (*STAGES[:3], ("magic", 1, 4))}, "operator 'magic': unknown; there are dense, inverted"),
        ({"stages": (*STAGES[:3], ("dense+", 1, 4))}, "operator '': unknown"),
        ({"stages": (*STAGES[:3], ("dense + attention", 1, 4))}, "operator 'dense ': unknown"),
        ({"stages": (*STAGES[:3], (7, 1, 4))}, "operator '7': unknown"),
        ({"stages": (*STAGES[:3], ("dense", 1, 0))}, "1 blocks and 0 channels"),
        ({"n_features": 0}, "0 features"),
        ({"score_stride": 5}, "score_stride 5: expected"),
        ({"score_stride": 32}, "score_stride 32: expected"),
    ],
)
def test_an_invalid_architecture_is_refused(config: dict[str, object], words: str) -> None:
    with pytest.raises(WeakAudioError, match=words):
        FlashCNN(**{"n_classes": 5, "n_mels": 64, "stages": STAGES, "n_features": 12, **config})  # type: ignore[arg-type]


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_scores_finer_than_embeddings_are_centred_and_see_no_further_than_the_context(
    randomise: Callable[..., Network], stride: int
) -> None:
    """From each step of a segment; so that a recording can be scored in blocks."""
    net, segment = randomise(tiny(score_stride=stride, score_width=8)), 30
    ratio = 32 // stride
    for step in (segment * ratio - ratio // 2, segment * ratio, segment * ratio + ratio // 2 - 1):
        logmel = torch.randn(1, 60 * 32, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        net(logmel).segment_logits[0, step].square().sum().backward()
        assert logmel.grad is not None
        seen = torch.nonzero(logmel.grad[0].abs().amax(1))[:, 0]
        start = net.geometry.hop * segment - net.geometry.lead
        assert net.context is not None
        assert seen.min() >= start - net.context
        assert seen.max() < start + net.geometry.span + net.context
        assert abs(int(logmel.grad[0].square().sum(1).argmax()) - stride * step) <= 4 * stride
    times = Model(net, "16k", list("abcde")).score_times(200_000)
    np.testing.assert_allclose(times.mean(1)[1:-1], 0.01 * stride * np.arange(1, len(times) - 1))
    assert (times[1:, 0] == times[:-1, 1]).all()


def test_a_new_classifier_scores_in_the_steps_of_the_embeddings(randomise: Callable[..., Network]) -> None:
    net = randomise(tiny(score_stride=4))
    net.reset_classifier(2)
    assert net.score_geometry == net.geometry
    assert net(torch.randn(1, 100, 64)).segment_logits.shape == (1, 4, 2)


def test_blocks_alternate_between_operators() -> None:
    stages = [("dense+attention", 3, 4), ("inverted+dense", 0, 4), ("frequency+dense", 1, 4), ("dense", 2, 4)]
    net = tiny(stages=stages)
    built = [[type(block) for block in blocks] for blocks in net.stages]
    expected = [["dense", "attention", "dense"], [], ["frequency"], ["dense", "dense"]]
    assert built == [[OPERATORS[name] for name in names] for names in expected]


@each_architecture
@settings(max_examples=4)
@example(n_frames=[1, 2])
@example(n_frames=[3000, 1, 70])  # several chunks of a recurrence
@given(n_frames=st.lists(st.integers(1, 500), min_size=2, max_size=3))
def test_a_clip_has_the_same_output_alone_and_in_a_batch(
    randomise: Callable[..., Network], stages: list[tuple[str, int, int]], n_frames: list[int]
) -> None:
    """Up to float32 rounding at the scale of the embeddings, and to 1e-11 in float64."""
    net, lengths = randomise(tiny(stages=stages)), torch.tensor(n_frames)
    logmel = torch.randn(len(n_frames), max(n_frames) + 5, 64, generator=torch.Generator().manual_seed(0))
    alone = [logmel[row : row + 1, :length] for row, length in enumerate(n_frames)]
    with torch.no_grad():
        together = net(logmel, lengths)
        for row, clip in enumerate(alone):
            own = net(clip)
            near = 1e-5 * max(float(own.embeddings.abs().max()), 1.0)
            torch.testing.assert_close(together.clip_probs[row], own.clip_probs[0], rtol=0, atol=1e-5)
            found = together.embeddings[row][together.mask[row]]
            torch.testing.assert_close(found, own.embeddings[0], rtol=0, atol=near)
        embeddings, mask = net.double().forward_features(logmel.double(), lengths)
        for row, clip in enumerate(alone):
            expected, _ = net.forward_features(clip.double())
            torch.testing.assert_close(embeddings[row][mask[row]], expected[0], rtol=0, atol=1e-11)


@each_architecture
def test_context_is_the_receptive_field(
    randomise: Callable[..., Network], stages: list[tuple[str, int, int]]
) -> None:
    net, segment = randomise(tiny(stages=stages)), 30
    logmel = torch.randn(1, 60 * 32, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    net.forward_features(logmel)[0][0, segment].square().sum().backward()
    assert logmel.grad is not None
    seen = torch.nonzero(logmel.grad[0].abs().amax(1))[:, 0]
    if net.context is None:
        assert (int(seen.min()), int(seen.max())) == (0, 60 * 32 - 1)
    else:
        start = net.geometry.hop * segment - net.geometry.lead
        end = start + net.geometry.span - 1
        assert start - seen.min() <= net.context
        assert seen.max() - end <= net.context
        assert max(start - seen.min(), seen.max() - end) >= net.context - 2  # nor is it wider than needed


def test_context_is_finite_if_all_blocks_are_local() -> None:
    contexts = {name: tiny(stages=stages).context for name, stages in ARCHITECTURES.items()}
    assert [name for name, context in contexts.items() if context is not None] == LOCAL
    # of 2 blocks none is attention
    assert tiny(stages=[("dense", 1, 4)] * 3 + [("dense+inverted+attention", 2, 4)]).context is not None


@each_architecture
def test_fusing_preserves_the_output(randomise: Callable[..., Network], stages: list[tuple[str, int, int]]) -> None:
    """Embeddings in float64, as float32 rounding differs between kernels."""
    net = randomise(tiny(stages=stages))
    logmel, lengths = torch.randn(3, 431, 64), torch.tensor([431, 200, 7])

    def embeddings() -> torch.Tensor:
        maps, mask = net.forward_stages(logmel.double(), lengths)
        return net.forward_last(maps[-1], mask)[mask]

    with torch.no_grad():
        probs = net(logmel, lengths).clip_probs
        net.double()
        before = embeddings()
        net.fuse()
        torch.testing.assert_close(embeddings(), before, rtol=0, atol=1e-9)
        torch.testing.assert_close(net.float()(logmel, lengths).clip_probs, probs, rtol=0, atol=1e-4)


@each_architecture
def test_every_parameter_receives_a_gradient_also_in_bfloat16(stages: list[tuple[str, int, int]]) -> None:
    net = tiny(stages=stages)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(torch.randn(2, 400, 64), torch.tensor([400, 150]))
    assert output.clip_probs.dtype == torch.float32
    output.clip_probs.sum().backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@each_architecture
def test_a_saved_network_has_the_same_output(
    randomise: Callable[..., Network], stages: list[tuple[str, int, int]], tmp_path: Path
) -> None:
    model = Model(randomise(tiny(stages=stages)), "16k", list("abcde"))
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    audio = 0.1 * torch.randn(2, 8000)
    with torch.no_grad():
        assert torch.equal(again(audio).embeddings, model(audio).embeddings)


@pytest.mark.parametrize("name", ["weakaudio-base", "weakaudio-small"])
def test_shipped_weights_keep_their_names_and_architecture(name: str) -> None:
    """Computed from the names of their tensors alone."""
    model = load_model(name)
    weights = model.network.state_dict()
    logmel = torch.randn(1, 150, model.front_end.n_mels, generator=torch.Generator().manual_seed(0))

    def conv_norm(x: Tensor, key: str, stride: int = 1, padding: int = 1) -> Tensor:
        y = F.conv2d(x, weights.pop(f"{key}.conv.weight"), None, stride, padding)
        numbers = [weights.pop(f"{key}.norm.{part}") for part in ("running_mean", "running_var", "weight", "bias")]
        weights.pop(f"{key}.norm.num_batches_tracked")
        return F.batch_norm(y, *numbers)

    with torch.no_grad():
        x = logmel[:, None]
        for n, (operator, count, _) in enumerate(model.network.config["stages"]):
            assert operator == "dense"
            x = conv_norm(x, f"entries.{n}", 4 if n == 0 else 2, 3 if n == 0 else 1).relu()
            for k in range(count):
                y = conv_norm(x, f"stages.{n}.{k}.first").relu()
                x = (x + conv_norm(y, f"stages.{n}.{k}.second")).relu()
        expected = conv_norm(x, "last", padding=0).relu()[..., 0].transpose(1, 2)
        embeddings, _ = model.network.forward_features(logmel)
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-5)
    assert list(weights) == ["classifier.weight", "classifier.bias"]
