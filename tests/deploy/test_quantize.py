"""Files in 8 bits are smaller and give nearly the same scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from weakaudio_data_prep.synthetic import KINDS, background, synthesise

from weakaudio.audio.io import write_wav
from weakaudio.deploy.export import FRONT_END, export_onnx
from weakaudio.deploy.onnx_tagger import OnnxTagger
from weakaudio.deploy.quantize import compare, export_int8, quantize
from weakaudio.errors import AudioError, CheckpointError, WeakAudioError
from weakaudio.networks import FlashCNN, Network, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.registry import load_model

Audio = NDArray[np.float32]
Randomise = Callable[[Network], Network]

STAGES = (("dense", 1, 16), ("inverted", 1, 16), ("large-kernel", 1, 32), ("frequency", 1, 32))


def sounds(sample_rate: int, seconds: float = 1.0) -> list[Audio]:
    """Of each of twelve kinds, before noise."""
    rng = np.random.default_rng(0)
    clips = [synthesise(kind, rng, seconds, sample_rate) for kind in KINDS]
    return [(clip + background(rng, len(clip), sample_rate)).astype(np.float32) for clip in clips]


@pytest.fixture(scope="module")
def model(randomise: Randomise) -> Model:
    return Model(randomise(FlashCNN(5, 64, STAGES, 64)), "16k", list("abcde")).eval()


@pytest.fixture(scope="module")
def whole(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.onnx"
    export_onnx(model, path)
    return path


@pytest.fixture(scope="module")
def small(whole: Path) -> Path:
    path = whole.with_name("int8.onnx")
    quantize(whole, path, sounds(16000)[::2])
    return path


def test_the_shipped_model_loses_little_in_8_bits(tmp_path: Path) -> None:
    model = load_model("weakaudio-small")
    for n, clip in enumerate(sounds(model.sample_rate, 2.0)):
        write_wav(tmp_path / f"{n:02}.wav", clip, model.sample_rate)
    found = export_int8(model, tmp_path / "int8.onnx", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{n:02}.wav" for n in range(12)), "int8.onnx"]
    assert found.sizes[1] == (tmp_path / "int8.onnx").stat().st_size < 0.55 * found.sizes[0]
    assert found.n_clips == 6
    assert found.same_top >= 5 / 6
    assert 0 < found.mean < found.largest < 0.1
    assert OnnxTagger(tmp_path / "int8.onnx").precision == "int8"


def test_finer_scores_are_computed_in_8_bits_too(randomise: Randomise, tmp_path: Path) -> None:
    network = randomise(FlashCNN(5, 64, STAGES, 64, score_stride=4, score_width=16))
    export_onnx(Model(network, "16k", list("abcde")), tmp_path / "whole.onnx")
    quantize(tmp_path / "whole.onnx", tmp_path / "int8.onnx", sounds(16000)[::2])
    taggers = [OnnxTagger(tmp_path / f"{name}.onnx") for name in ("whole", "int8")]
    for clip in sounds(16000)[1::2]:
        (exact, times), (rounded, same) = (tagger.segments(clip, 16000) for tagger in taggers)
        np.testing.assert_array_equal(times, same)
        assert exact.shape == rounded.shape == (len(times), 5)
        assert np.abs(exact - rounded).mean() < 0.02 < np.ptp(exact)


def test_what_is_said_of_two_files_is_so(whole: Path, small: Path) -> None:
    clips = sounds(16000)[1::2]
    found = compare(whole, small, clips)
    a, b = (np.stack([OnnxTagger(path).tag(clip, 16000) for clip in clips]) for path in (whole, small))
    difference = np.abs(a - b)
    assert found.largest == pytest.approx(difference.max(), rel=1e-4)
    assert found.mean == pytest.approx(difference.mean(), rel=1e-4)
    assert found.same_top == np.mean([x.argmax() == y.argmax() for x, y in zip(a, b, strict=True)])
    assert found.sizes == (whole.stat().st_size, small.stat().st_size)
    assert found.largest < 0.05 < np.ptp(a, axis=0).max()
    same = compare(whole, whole, clips)
    assert (same.largest, same.mean, same.same_top) == (0.0, 0.0, 1.0)
    assert str(same).endswith("the top class is the same in 100% of 6 clips")


def test_convolutions_compute_in_8_bits_and_the_rest_does_not(small: Path) -> None:
    graph = onnx.load(str(small)).graph
    quantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 10
    assert all(set(node.input[:2]) <= quantised for node in convolutions)
    front_end = [node for node in graph.node if node.name.startswith(f"/{FRONT_END}/")]
    assert {"MatMul", "Log"} <= {node.op_type for node in front_end}
    heads = [node for node in graph.node if node.op_type == "Gemm" or set(node.output) & {"segment_probs"}]
    assert heads
    for node in (*front_end, *heads):
        assert not set(node.input) & quantised


def test_facts_and_times_stay(whole: Path, small: Path) -> None:
    before, after = OnnxTagger(whole), OnnxTagger(small)
    assert (before.precision, after.precision) == ("float32", "int8")
    for fact in ("labels", "sample_rate", "checksum", "front_end", "front_end_place", "metadata"):
        assert getattr(after, fact) == getattr(before, fact)
    for n_samples in (1, 511, 100_000):
        clip = 0.1 * np.random.default_rng(0).standard_normal(n_samples).astype(np.float32)
        probs, times = after.segments(clip, 16000)
        assert (len(probs), times.tolist()) == (len(times), before.segments(clip, 16000)[1].tolist())
        assert np.isfinite(probs).all()


def test_a_file_that_takes_log_mels_too(model: Model, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "whole.onnx", "outside")
    clips = sounds(16000)
    quantize(tmp_path / "whole.onnx", tmp_path / "int8.onnx", clips[::2])
    found = compare(tmp_path / "whole.onnx", tmp_path / "int8.onnx", clips[1::2])
    assert 0 < found.largest < 0.05


def test_only_a_file_in_float32_and_only_with_clips(whole: Path, small: Path, tmp_path: Path) -> None:
    clips = sounds(16000)[:2]
    out = tmp_path / "out.onnx"
    with pytest.raises(WeakAudioError, match=r"whole\.onnx: no clips to calibrate the ranges of activations"):
        quantize(whole, out, [])
    with pytest.raises(CheckpointError, match=r"int8\.onnx: is in int8 already; export the model again"):
        quantize(small, out, clips)
    with pytest.raises(CheckpointError, match=r"none\.onnx: no such file"):
        quantize(tmp_path / "none.onnx", out, clips)
    with pytest.raises(CheckpointError, match=r"out\.pt: an ONNX file's name ends in \.onnx"):
        quantize(whole, tmp_path / "out.pt", clips)
    with pytest.raises(WeakAudioError, match="no clips to compare them on"):
        compare(whole, small, [])
    assert list(tmp_path.iterdir()) == []


def test_files_of_different_models_are_not_compared(whole: Path, randomise: Randomise, tmp_path: Path) -> None:
    other = Model(randomise(WeakCNN(3, n_mels=64, width=1 / 16)), "16k", list("abc"))
    export_onnx(other, tmp_path / "other.onnx")
    with pytest.raises(CheckpointError, match=r"other\.onnx: its classes or front end are not those of"):
        compare(whole, tmp_path / "other.onnx", sounds(16000)[:1])


def test_a_folder_needs_two_recordings_and_bad_ones_are_reported(model: Model, tmp_path: Path) -> None:
    folder, out = tmp_path / "recordings", tmp_path / "out.onnx"
    with pytest.raises(AudioError, match="no such folder"):
        export_int8(model, out, folder)
    folder.mkdir()
    write_wav(folder / "a.wav", sounds(16000)[0], 16000)
    (folder / "b.wav").write_bytes(b"no audio")
    with (
        pytest.warns(UserWarning, match=r"left out: \S+b\.wav: not audio"),
        pytest.raises(AudioError, match="1 readable recordings; give a few dozen, and at least two"),
    ):
        export_int8(model, out, folder)
    assert not out.exists()
    write_wav(folder / "c.wav", sounds(8000)[1], 8000)
    with pytest.warns(UserWarning, match=r"left out: \S+b\.wav"):
        found = export_int8(model, out, folder)
    assert found.n_clips == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "recordings"]
