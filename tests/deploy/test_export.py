"""A file computes what its model does, at lengths that it was not traced with."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from weakaudio.audio.frontend import FRONT_ENDS, FrontEnd, LogMel, get_front_end
from weakaudio.deploy.export import export_onnx
from weakaudio.deploy.onnx_tagger import OnnxTagger
from weakaudio.deploy.product_logmel import ProductLogMel
from weakaudio.errors import CheckpointError, WeakAudioError
from weakaudio.networks import FlashCNN, build_network
from weakaudio.networks.contract import Network
from weakaudio.networks.model import Model
from weakaudio.networks.operators import OPERATORS
from weakaudio.networks.operators.recurrence import gated_linear_attention

Randomise = Callable[[Network], Network]

SMALL: dict[str, dict[str, Any]] = {
    "weakcnn": {"width": 1 / 8, "pooling": "attention"},
    "weakcnn-paper": {"width": 1 / 8, "pooling": "linear-softmax", "coverage": "paper"},
    "mobilenet": {"width": 1 / 8},
    "cnn14": {"width": 1 / 16},
    "flash": {"stages": [("dense", 1, 8)] * 4, "n_features": 16},
    "flash-fine": {"stages": [("dense", 1, 8)] * 4, "n_features": 16, "score_stride": 4, "score_width": 8},
    **{
        f"flash-{name}": {"stages": [(f"dense+{name}", 2, 8)] * 4, "n_features": 16}
        for name in OPERATORS
        if name not in ("dense", "recurrence")
    },
    # Four stages of random recurrences are chaotic: at two minutes their own rounding in float32 is near 1e-4.
    "flash-recurrence": {"stages": [("dense+recurrence", 2, 8), ("dense", 1, 8)] * 2, "n_features": 16},
    "stacked": {"base": "mobilenet", "base_config": {"n_classes": 7, "n_mels": 64, "width": 1 / 8}},
}
# Around the borders of frames, segments and what networks pad to, and up to two minutes.
FRAMES = (1, 31, 32, 63, 64, 127, 128, 700)


def random_model(randomise: Randomise, name: str, front_end: str = "16k") -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mels = {} if name == "stacked" else {"n_mels": get_front_end(front_end).n_mels}
        network = randomise(build_network(name.split("-")[0], n_classes=5, **mels, **SMALL[name]))
    return Model(network, get_front_end(front_end), list("abcde")).eval()


def noise(n_samples: int, n_clips: int = 1) -> torch.Tensor:
    """Loud noise that fades, so that frames differ."""
    generator = torch.Generator().manual_seed(n_samples)
    return torch.randn((n_clips, n_samples), generator=generator) * 0.2 * torch.linspace(1, 0.01, n_samples)


def assert_parity(tagger: OnnxTagger, model: Model, clips: torch.Tensor) -> None:
    with torch.no_grad():
        logmel = model.logmel(clips)[0]
        expected = model.network(logmel)
    found = tagger.scores((clips if tagger.front_end_place == "inside" else logmel).numpy())
    probs = expected.segment_logits.sigmoid().numpy()
    assert np.ptp(probs) > 0.01  # else all would agree
    np.testing.assert_allclose(found.segment_probs, probs, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.clip_probs, expected.clip_probs.numpy(), rtol=0, atol=1e-4)
    scale = float(expected.embeddings.abs().max())
    np.testing.assert_allclose(found.embeddings / scale, expected.embeddings.numpy() / scale, rtol=0, atol=1e-4)
    times = tagger.segment_times(clips.shape[1])
    np.testing.assert_array_equal(times, model.segment_times(clips.shape[1]))
    assert len(times) == found.embeddings.shape[1]
    np.testing.assert_array_equal(tagger.score_times(clips.shape[1]), model.score_times(clips.shape[1]))
    assert len(tagger.score_times(clips.shape[1])) == probs.shape[1]


@pytest.mark.parametrize("name", SMALL)
def test_probabilities_are_those_of_the_model_at_any_length(randomise: Randomise, tmp_path: Path, name: str) -> None:
    model = random_model(randomise, name)
    assert export_onnx(model, tmp_path / "m.onnx") < 1e-4
    tagger = OnnxTagger(tmp_path / "m.onnx", threads=1)
    hop = model.front_end.hop_length
    for n, frames in enumerate(FRAMES):
        for n_samples in (frames * hop - 1, frames * hop):
            assert_parity(tagger, model, noise(n_samples, 1 + n % 3))
    assert_parity(tagger, model, noise(1))
    assert_parity(tagger, model, noise(120 * model.sample_rate))


@pytest.mark.parametrize("front_end", [*FRONT_ENDS, "efficientat-32k/2"])
def test_a_file_with_its_front_end_computes_what_the_model_computes(
    randomise: Randomise, tmp_path: Path, front_end: str
) -> None:
    model = random_model(randomise, "flash", front_end)
    export_onnx(model, tmp_path / "m.onnx")
    tagger = OnnxTagger(tmp_path / "m.onnx", threads=1)
    for n_samples in (1, 2, 500, 511, 512, 513, 1024, 77_777, 30 * model.sample_rate):
        assert_parity(tagger, model, noise(n_samples))


@pytest.mark.parametrize("name", ["flash", "weakcnn-paper"])
def test_a_file_without_a_front_end_takes_log_mels(randomise: Randomise, tmp_path: Path, name: str) -> None:
    model = random_model(randomise, name)
    export_onnx(model, tmp_path / "m.onnx", "outside")
    tagger = OnnxTagger(tmp_path / "m.onnx", threads=1)
    assert (tagger.front_end_place, tagger.input) == ("outside", "logmel")
    for n_samples in (1, 512, 77_777, 120 * model.sample_rate):
        assert_parity(tagger, model, noise(n_samples, 2))


@pytest.mark.parametrize("name", [*FRONT_ENDS, "efficientat-32k/2"])
@settings(max_examples=20)
@example(n_samples=1)
@given(n_samples=st.one_of(st.integers(1, 3000), st.integers(1, 30).map(lambda n: 320 * n)))
def test_a_product_is_the_transform(name: str, n_samples: int) -> None:
    logmel = LogMel(get_front_end(name))
    clips = noise(n_samples, 2)
    expected, found = logmel(clips)[0], ProductLogMel(logmel)(clips)
    torch.testing.assert_close(found / logmel.front_end.gain, expected / logmel.front_end.gain, rtol=0, atol=5e-3)


@pytest.mark.parametrize("n_fft", [2, 6, 14, 90, 400])
def test_a_product_is_the_transform_where_it_is_no_power_of_two(n_fft: int) -> None:
    fe = FrontEnd("odd", 8000, n_fft, hop_length=5, n_mels=1, edges="reflect")
    logmel = LogMel(fe)
    logmel.filters = torch.eye(n_fft // 2 + 1)  # all bins, as mel filters would hide one that is wrong
    logmel.front_end = FrontEnd("odd", 8000, n_fft, hop_length=5, n_mels=n_fft // 2 + 1, edges="reflect")
    clips = noise(77)
    torch.testing.assert_close(ProductLogMel(logmel)(clips), logmel(clips)[0], rtol=0, atol=0.02)


@settings(max_examples=15)
@example(rows=1, slowness=16.0)
@example(rows=64, slowness=16.0)
@example(rows=129, slowness=16.0)
@example(rows=3000, slowness=16.0)  # two minutes, where rows are the most
@given(rows=st.integers(1, 400), slowness=st.sampled_from([1.0, 16.0, 1e6]))
def test_a_product_is_the_recurrence(rows: int, slowness: float) -> None:
    generator = torch.Generator().manual_seed(rows)
    parts = torch.randn((3, 2, 3, rows, 5), generator=generator)
    decays = -torch.rand((2, 2, 3, rows), generator=generator) / slowness
    expected = gated_linear_attention(*parts.double(), *decays.double())
    scale = expected.abs().max()
    found = gated_linear_attention(*parts, *decays, loops=False)
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5, check_dtype=False)


def test_gates_that_are_shut_overflow_nothing() -> None:
    queries, keys, values = torch.randn((3, 1, 2, 200, 5), generator=torch.Generator().manual_seed(0))
    shut = torch.full((1, 2, 200), -200.0)
    own = (queries * keys).sum(3, keepdim=True) * values  # a row reads of itself alone
    for loops in (True, False):
        found = gated_linear_attention(queries, keys, values, shut, shut, loops=loops)
        torch.testing.assert_close(found, own)


def test_a_file_is_one_valid_onnx_of_the_pinned_opset_and_the_same_each_time(
    randomise: Randomise, tmp_path: Path
) -> None:
    for name in ("a.onnx", "b.onnx"):
        export_onnx(random_model(randomise, "flash"), tmp_path / name)
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)
    graph = onnx.load(str(tmp_path / "a.onnx"))
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 17)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


class DecidingFlash(FlashCNN):
    """Halves what clips of more than 20 s sound like, which the trace's example is not."""

    def stage_maps(self, x: torch.Tensor, lengths: torch.Tensor | None) -> list[torch.Tensor]:
        return super().stage_maps(x / 2 if x.shape[2] > 2000 else x, lengths)


def test_a_network_that_tracing_would_change_is_refused(randomise: Randomise, tmp_path: Path) -> None:
    network = randomise(DecidingFlash(5, n_mels=64, **SMALL["flash"]))
    (tmp_path / "m.onnx").write_bytes(b"from before")
    with pytest.raises(WeakAudioError, match=r"^a DecidingFlash cannot be exported: .* differ by"):
        export_onnx(Model(network, "16k", list("abcde")), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"from before"


def test_a_network_that_cannot_be_traced_is_refused_in_one_line(randomise: Randomise, tmp_path: Path) -> None:
    network = randomise(build_network("windowed-cnn", n_classes=5, n_mels=64, width=1 / 8))
    with pytest.raises(WeakAudioError, match=r"^a WindowedCNN cannot be exported: [^\n]+$"):
        export_onnx(Model(network, "16k", list("abcde")), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_one_line(randomise: Randomise, tmp_path: Path) -> None:
    model = random_model(randomise, "flash")
    with pytest.raises(CheckpointError, match=r"m\.pt: an ONNX file's name ends in \.onnx"):
        export_onnx(model, tmp_path / "m.pt")
    with pytest.raises(WeakAudioError, match="front end 'left': expected inside or outside"):
        export_onnx(model, tmp_path / "m.onnx", "left")  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(WeakAudioError, match=r"m\.onnx: cannot be written"):
        export_onnx(model, tmp_path / "file" / "m.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(WeakAudioError, match=r"folder\.onnx: cannot be written"):
        export_onnx(model, tmp_path / "folder.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.onnx"]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_its_packages_the_extra_is_named(
    randomise: Randomise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WeakAudioError, match=rf"^ONNX files need {package}: run `pip install weakaudio\[onnx\]`$"):
        export_onnx(random_model(randomise, "flash"), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(randomise: Randomise, small_disk: Path) -> None:
    with pytest.raises(WeakAudioError, match=r"m\.onnx: cannot be written \(No space left on device\)"):
        export_onnx(random_model(randomise, "flash", "32k"), small_disk / "m.onnx")
    assert list(small_disk.iterdir()) == []


def test_the_model_stays_as_it_is(randomise: Randomise, tmp_path: Path) -> None:
    model = random_model(randomise, "flash")
    model.train()
    before = copy.deepcopy(model.network.state_dict())
    export_onnx(model, tmp_path / "m.onnx")
    after = model.network.state_dict()
    assert model.training
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert before.keys() == after.keys()
