"""`weakaudio export` as its user runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from weakaudio_data_prep.synthetic import KINDS, synthesise

import weakaudio.cli.export  # noqa: F401
from weakaudio.audio.io import write_wav
from weakaudio.deploy.onnx_tagger import OnnxTagger
from weakaudio.networks import FlashCNN, Network, WindowedCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model

Run = Callable[..., tuple[int, str, str]]

STAGES = (("dense", 1, 8), ("dense", 1, 8), ("dense", 1, 8), ("dense", 1, 8))


@pytest.fixture(scope="module")
def model(randomise: Callable[[Network], Network]) -> Model:
    return Model(randomise(FlashCNN(3, 64, STAGES, 32)), "16k", ["dog", "rain", "saw"]).eval()


@pytest.fixture(scope="module")
def file(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "tiny.safetensors"
    save_model(model, path)
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for n, kind in enumerate(list(KINDS)[:4]):
        write_wav(folder / f"{n}.wav", synthesise(kind, rng, 1.0, 22050), 22050)
    return folder


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_a_model_becomes_a_file(run: Run, model: Model, file: Path, tmp_path: Path, place: str) -> None:
    out = tmp_path / "new" / "m.onnx"
    options = () if place == "inside" else ("--front-end", "outside")
    code, text, err = run("export", file, "-o", out, *options)
    assert (code, err) == (0, "")
    assert text.startswith("3 classes, 16000 Hz, ")
    assert f"{out.stat().st_size / 1e6:.1f} MB; probabilities differ from the model's by " in text
    assert text.endswith(f"-> {out}\n")
    assert [path.name for path in out.parent.iterdir()] == ["m.onnx"]
    waveform = 0.1 * torch.randn((1, 20_000), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logmel = model.logmel(waveform)[0]
        expected = model(waveform).clip_probs
    tagger = OnnxTagger(out)
    assert tagger.labels == ["dog", "rain", "saw"]
    found = tagger.scores((waveform if place == "inside" else logmel).numpy()).clip_probs
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_in_8_bits_it_says_what_is_lost(run: Run, file: Path, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    code, text, _ = run("export", file, "-o", out, "--int8", "--calibrate", recordings)
    assert code == 0
    assert f"MB -> {out.stat().st_size / 1e6:.1f} MB; clip probabilities differ by " in text
    assert f"% of 2 clips -> {out}" in text
    assert OnnxTagger(out).precision == "int8"
    assert list(tmp_path.iterdir()) == [out]


def test_a_recording_that_cannot_be_read_is_one_line(run: Run, file: Path, recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for path in recordings.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.wav").write_bytes(b"RIFF")
    code, text, err = run("export", file, "-o", "m.onnx", "--int8", "--calibrate", folder)
    assert (code, "of 2 clips" in text) == (0, True)
    assert f"weakaudio: warning: left out: {folder / 'broken.wav'}: " in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "m.pt"), "m.pt: an ONNX file's name ends in .onnx"),
        (("-o", "m.onnx", "--int8"), "--int8 and --calibrate FOLDER go together"),
        (("-o", "m.onnx", "--calibrate", "."), "--int8 and --calibrate FOLDER go together"),
        (("-o", "m.onnx", "--int8", "--calibrate", "nowhere"), "nowhere: no such folder"),
        (("-o", "m.pt", "--int8", "--calibrate", "."), "m.pt: an ONNX file's name ends in .onnx"),
        (("-o", "m.onnx", "--int8", "--calibrate", "."), "no audio"),
        (("-o", "file/m.onnx"), "file/m.onnx: cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    run: Run, file: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    (tmp_path / "file").touch()
    code, out, err = run("export", file, *options)
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()  # after what is left of a bar
    assert line.startswith("weakaudio: ")
    assert words in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_models_that_cannot_be_exported_are_one_line(
    run: Run, randomise: Callable[[Network], Network], tmp_path: Path
) -> None:
    code, out, err = run("export", "no-such-model", "-o", "m.onnx")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no-such-model" in err
    network = randomise(WindowedCNN(3, n_mels=64, width=1 / 8))
    save_model(Model(network, "16k", ["dog", "rain", "saw"]), tmp_path / "windowed.safetensors")
    code, out, err = run("export", "windowed.safetensors", "-o", "m.onnx")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("weakaudio: a WindowedCNN cannot be exported: ")
    assert [path.name for path in tmp_path.iterdir()] == ["windowed.safetensors"]
