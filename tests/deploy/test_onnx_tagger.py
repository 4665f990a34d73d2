"""An ONNX file as its user has it: audio in, scores and times out, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from weakaudio_data_prep.synthetic import synthesise

from weakaudio.audio.io import read_audio, resample, write_wav
from weakaudio.deploy.export import export_onnx
from weakaudio.deploy.onnx_file import KEY
from weakaudio.deploy.onnx_tagger import OnnxTagger
from weakaudio.errors import AudioError, CheckpointError, WeakAudioError
from weakaudio.inference.embedder import Embedder
from weakaudio.networks import FlashCNN, Network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import model_checksum
from weakaudio.pretrained.registry import load_model

LABELS = ["dog", "rain", "saw"]
STAGES = (("dense", 1, 4), ("dense", 1, 4), ("dense", 1, 8), ("dense", 1, 8))


@pytest.fixture(scope="module")
def model(randomise: Callable[[Network], Network]) -> Model:
    return Model(randomise(FlashCNN(3, 64, STAGES, 8)), "16k", LABELS, {"licence": "MIT"}).eval()


@pytest.fixture(scope="module")
def file(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    export_onnx(model, path)
    return path


@pytest.fixture(scope="module")
def tagger(file: Path) -> OnnxTagger:
    return OnnxTagger(file, threads=1)


@pytest.fixture(scope="module")
def audio() -> NDArray[np.float32]:
    """3.3 s at 44.1 kHz, without silence: there log-mels hang on the last bits of float32."""
    return synthesise("whistle", np.random.default_rng(0), 3.3, 44100)


def changed(file: Path, out: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of an ONNX file whose metadata were changed."""
    graph = onnx.load(str(file))
    (entry,) = graph.metadata_props
    assert entry.key == KEY
    header = json.loads(entry.value)
    change(header)
    entry.value = json.dumps(header)
    onnx.save(graph, str(out))
    return out


# --- audio to scores


def test_a_file_says_what_it_is(model: Model, tagger: OnnxTagger) -> None:
    assert (tagger.labels, tagger.sample_rate, tagger.metadata) == (LABELS, 16000, {"licence": "MIT"})
    assert (tagger.precision, tagger.front_end_place, tagger.input) == ("float32", "inside", "waveform")
    assert tagger.checksum == model_checksum(model)
    assert tagger.front_end == model.front_end.to_dict()


def test_audio_at_any_rate_gives_what_the_model_gives(
    model: Model, tagger: OnnxTagger, audio: NDArray[np.float32]
) -> None:
    embedder = Embedder(model)
    for samples, rate in ((audio, 44100), (resample(audio, 44100, 16000), 16000), (audio[:1], 44100)):
        found = embedder.embed_array(samples, rate)
        with torch.no_grad():
            expected = model(torch.from_numpy(resample(samples, rate, 16000))[None])
        probs, times = tagger.segments(samples, rate)
        embeddings, also = tagger.embed(samples, rate)
        scale = np.abs(found.segments).max()
        np.testing.assert_allclose(embeddings / scale, found.segments / scale, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(times, found.times)
        np.testing.assert_array_equal(times, also)
        np.testing.assert_allclose(probs, expected.segment_logits[0].sigmoid(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(tagger.tag(samples, rate), expected.clip_probs[0], rtol=0, atol=1e-4)


def test_float64_is_float32(tagger: OnnxTagger, audio: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(tagger.tag(audio.astype(np.float64), 44100), tagger.tag(audio, 44100))


def test_a_batch_is_its_clips(tagger: OnnxTagger) -> None:
    batch = 0.1 * np.random.default_rng(0).standard_normal((3, 20_000)).astype(np.float32)
    together = tagger.scores(batch)
    for n, clip in enumerate(batch):
        for own, value in zip(tagger.scores(clip[None]), together, strict=True):
            np.testing.assert_allclose(own[0], value[n], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (np.zeros((2, 100), np.float32), 16000, r"audio of shape \(2, 100\) and type float32: expected mono"),
        (np.zeros(100, np.int16), 16000, "type int16.*divide 16-bit integers by 32768"),
        (np.zeros(0, np.float32), 16000, "no samples"),
        (np.array([0.0, np.nan]), 16000, "1 of 2 samples are NaN"),
        (np.array([0.0, 1e300]), 16000, "1e\\+300"),
        (np.zeros(100), 0, "a sample rate of 0 Hz"),
        (np.zeros(100), -16000, "a sample rate of -16000 Hz"),
    ],
)
def test_audio_that_cannot_be_used_is_refused(
    tagger: OnnxTagger, samples: NDArray[Any], rate: int, words: str
) -> None:
    for method in (tagger.tag, tagger.segments, tagger.embed):
        with pytest.raises(AudioError, match=words):
            method(samples, rate)


@pytest.mark.parametrize(
    "batch", [np.zeros(100, np.float32), np.zeros((1, 100)), np.zeros((0, 100), np.float32), np.zeros((1, 9, 64))]
)
def test_batches_of_another_shape_or_type_are_refused(tagger: OnnxTagger, batch: NDArray[Any]) -> None:
    with pytest.raises(
        WeakAudioError, match=r"m\.onnx: a waveform of shape .*: expected float32 of shape \(clips, s"
    ):
        tagger.scores(batch)


def test_a_file_that_takes_log_mels_says_so(model: Model, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "m.onnx", "outside")
    tagger = OnnxTagger(tmp_path / "m.onnx")
    with pytest.raises(WeakAudioError, match="takes log-mels, not audio: export the model with its front end inside"):
        tagger.tag(np.zeros(100), 16000)
    with pytest.raises(WeakAudioError, match=r"a logmel of shape \(1, 100\).*expected float32 of shape \(clips, f"):
        tagger.scores(np.zeros((1, 100), np.float32))
    with pytest.raises(WeakAudioError, match=r"a logmel of shape \(1, 40, 63\): ONNX Runtime fails \([^\n]+\)$"):
        tagger.scores(np.zeros((1, 40, 63), np.float32))
    assert tagger.scores(np.zeros((1, 40, 64), np.float32)).clip_probs.shape == (1, 3)


# --- what is no file of ours


def test_a_file_that_is_cut_short_anywhere_is_refused(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    for size in (0, 1, 100, len(content) // 2, len(content) - 3000, len(content) - 100, len(content) - 1):
        (tmp_path / "cut.onnx").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"^\S+cut\.onnx: [^\n]+$"):
            OnnxTagger(tmp_path / "cut.onnx")


def test_what_is_no_exported_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.onnx: no such file"):
        OnnxTagger(tmp_path / "none.onnx")
    with pytest.raises(CheckpointError, match="no such file"):
        OnnxTagger(tmp_path)
    (tmp_path / "text.onnx").write_text("dog, rain, saw")
    with pytest.raises(CheckpointError, match=r"text\.onnx: not an ONNX file"):
        OnnxTagger(tmp_path / "text.onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n"])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), str(tmp_path / "relu.onnx"))
    with pytest.raises(CheckpointError, match="that `weakaudio export` did not write"):
        OnnxTagger(tmp_path / "relu.onnx")


@pytest.mark.parametrize(
    "damage",
    [
        *({key: None} for key in ("labels", "sample_rate", "front_end", "front_end_place", "geometry")),
        {"labels": LABELS[:2]},
        {"labels": "abc"},
        {"labels": [1, 2, 3]},
        {"sample_rate": 0},
        {"sample_rate": -16000},
        {"sample_rate": "16000"},
        {"front_end": {}},
        {"front_end_place": "outside"},
        {"front_end_place": "beneath"},
        {"geometry": {"span": 32, "hop": 0, "coverage": "all", "lead": 16}},
    ],
    ids=str,
)
def test_damaged_metadata_are_refused(file: Path, tmp_path: Path, damage: dict[str, Any]) -> None:
    path = changed(file, tmp_path / "m.onnx", lambda header: header.update(damage))
    with pytest.raises(CheckpointError, match=r"m\.onnx: its metadata are damaged \([^\n]+; export the model again$"):
        OnnxTagger(path)


def test_metadata_that_lack_a_fact_are_refused(file: Path, tmp_path: Path) -> None:
    header = json.loads(onnx.load(str(file)).metadata_props[0].value)
    for key in header.keys() - {"weakaudio", "score_geometry"}:
        path = changed(file, tmp_path / "m.onnx", lambda header, key=key: header.pop(key))
        with pytest.raises(CheckpointError, match=f"its metadata are damaged.*{key}"):
            OnnxTagger(path)


def test_a_file_from_before_finer_scores_is_read(file: Path, tmp_path: Path) -> None:
    old = OnnxTagger(changed(file, tmp_path / "m.onnx", lambda header: header.pop("score_geometry")))
    np.testing.assert_array_equal(old.score_times(77_777), old.segment_times(77_777))


def test_a_file_of_format_1_is_read(file: Path, tmp_path: Path) -> None:
    def to_format_1(header: dict[str, Any]) -> None:
        header.update(format_version=1, notes=header.pop("metadata"))

    old, new = OnnxTagger(changed(file, tmp_path / "m.onnx", to_format_1)), OnnxTagger(file)
    assert (old.metadata, old.checksum, old.labels) == (new.metadata, new.checksum, new.labels)


def test_another_format_is_named_with_the_remedy(file: Path, tmp_path: Path) -> None:
    path = changed(file, tmp_path / "m.onnx", lambda header: header.update(format_version=9))
    with pytest.raises(CheckpointError, match="written in format 9, this release reads formats up to 2; export the"):
        OnnxTagger(path)


def test_without_onnxruntime_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(WeakAudioError, match=r"need onnxruntime: run `pip install weakaudio\[onnx\]`"):
        OnnxTagger(file)


def test_no_threads_are_refused(file: Path) -> None:
    with pytest.raises(WeakAudioError, match="0 threads: at least 1"):
        OnnxTagger(file, threads=0)


# --- without torch

WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchaudio", "onnx"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Refuse())
import numpy as np
import weakaudio
from weakaudio.deploy.onnx_tagger import OnnxTagger

tagger = OnnxTagger(sys.argv[1])
audio, rate = weakaudio.read_audio(sys.argv[2])
probs, times = tagger.segments(audio, rate)
embeddings, _ = tagger.embed(audio, rate)
np.savez(sys.argv[3], clip=tagger.tag(audio, rate), probs=probs, times=times, embeddings=embeddings)
print(*tagger.labels[:3], sep="; ")
"""


def test_the_shipped_model_runs_on_onnxruntime_alone(tmp_path: Path) -> None:
    model = load_model("weakaudio-small")
    export_onnx(model, tmp_path / "small.onnx")
    rng = np.random.default_rng(0)
    sounds = [synthesise(kind, rng, 2.1, 44100) for kind in ("bird", "siren", "knock")]
    write_wav(tmp_path / "sounds.wav", np.concatenate(sounds), 44100)
    found = tmp_path / "found.npz"
    program = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, tmp_path / "small.onnx", tmp_path / "sounds.wav", found],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (program.returncode, program.stderr) == (0, "")
    assert program.stdout.strip() == "; ".join(model.labels[:3])
    audio, _ = read_audio(tmp_path / "sounds.wav", model.sample_rate)
    with torch.inference_mode():
        expected = model(torch.from_numpy(audio)[None])
    with np.load(found) as without:
        assert expected.clip_probs.max() > 0.1
        np.testing.assert_allclose(without["clip"], expected.clip_probs[0], rtol=0, atol=1e-4)
        np.testing.assert_allclose(without["probs"], expected.segment_logits[0].sigmoid(), rtol=0, atol=1e-4)
        np.testing.assert_array_equal(without["times"], model.segment_times(len(audio)))
        scale = float(expected.embeddings.abs().max())
        np.testing.assert_allclose(without["embeddings"] / scale, expected.embeddings[0] / scale, rtol=0, atol=1e-4)
    # At two minutes, too, for which there is no more to load.
    minutes = 0.1 * torch.randn((1, 120 * model.sample_rate), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(minutes)
    scores = OnnxTagger(tmp_path / "small.onnx", threads=1).scores(minutes.numpy())
    np.testing.assert_allclose(scores.clip_probs, expected.clip_probs, rtol=0, atol=1e-4)
    np.testing.assert_allclose(scores.segment_probs, expected.segment_logits.sigmoid(), rtol=0, atol=1e-4)
