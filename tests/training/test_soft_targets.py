"""Soft targets: a teacher's probabilities, computed or stored, reach the loss of their clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from weakaudio.cli import app
from weakaudio.data.corpus import Corpus
from weakaudio.data.datamodule import ClipDataset, clip_loader
from weakaudio.data.mixtures import SoundTargets
from weakaudio.errors import CheckpointError, LabelError, ProtocolError, WeakAudioError
from weakaudio.networks import build_network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model
from weakaudio.training.fit import train
from weakaudio.training.lightning_module import TaggingModule
from weakaudio.training.losses import weak_loss
from weakaudio.training.soft_targets import open_teacher, write_soft_targets, write_sound_targets

LABELS = ["onset", "macro_average"]
TINY: dict[str, Any] = {"network_config": {"width": 0.0625}, "front_end": "16k"}


def teacher(folder: Path, labels: list[str] = LABELS, front_end: str = "16k") -> Path:
    torch.manual_seed(5)
    n_mels = {"16k": 64, "paper-44k": 128}[front_end]
    network = build_network("weakcnn", n_classes=len(labels), n_mels=n_mels, width=0.0625)
    save_model(Model(network, front_end, labels), folder / "teacher.safetensors")
    return folder / "teacher.safetensors"


@pytest.fixture
def dataset(tones: Path) -> ClipDataset:
    return ClipDataset(Corpus(tones), {"split": "train"})


def test_soft_targets_are_the_scores_of_the_model(tones: Path, dataset: ClipDataset, tmp_path: Path) -> None:
    path = teacher(tmp_path)
    assert write_soft_targets(load_model(path), Corpus(tones), tmp_path / "soft.h5", {}) == 36
    model = load_model(path)
    seen = 0
    for batch in clip_loader(dataset, 8.0, seed=0):
        expected = torch.cat(
            [model(w[None, :n], n[None]).clip_probs for w, n in zip(batch.waveform, batch.lengths, strict=True)]
        ).detach()
        for name, tolerance in ((path, 1e-5), (tmp_path / "soft.h5", 1e-3)):
            answers = open_teacher(name, dataset, LABELS)(batch)
            assert not answers.requires_grad
            torch.testing.assert_close(answers, expected, atol=tolerance, rtol=0)
        seen += len(expected)
    assert seen == len(dataset)


def test_the_loss_is_a_weighted_sum_over_labels_and_teacher(dataset: ClipDataset, tmp_path: Path) -> None:
    batch = next(iter(clip_loader(dataset, 8.0, seed=0)))
    tagger = TaggingModule(LABELS, **TINY, teacher_weight=0.3)
    tagger._soft_targets = open_teacher(teacher(tmp_path), dataset, LABELS)
    output = tagger.model(batch.waveform, batch.lengths)
    taught = load_model(tmp_path / "teacher.safetensors")(batch.waveform, batch.lengths).clip_probs.detach()
    expected = 0.7 * weak_loss(output, batch.targets) + 0.3 * weak_loss(output, taught)
    tagger.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    tagger._rng = lambda _: np.random.default_rng(0)  # type: ignore[method-assign]
    assert float(tagger.training_step(batch, 0).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_student_alone_with_its_teacher_becomes_like_it(tones: Path, tmp_path: Path) -> None:
    """The teacher is sure of one class and of the other's absence, whatever the labels, which are half and half."""
    path = teacher(tmp_path)
    model = load_model(path)
    with torch.no_grad():
        model.network.classifier.weight.zero_()
        model.network.classifier.bias.copy_(torch.tensor([6.0, -6.0]))
    save_model(model, path)
    write_soft_targets(model, Corpus(tones), tmp_path / "soft.h5", {"split": "train"})
    options = [
        *("--model.front_end=16k", "--model.network_config={width: 0.0625}", "--model.learning_rate=0.02"),
        *(f"--data.root={tones}", "--data.workers=0", "--data.batch_seconds=8", "--trainer.accelerator=cpu"),
        *("--trainer.max_epochs=8", "--model.teacher_weight=1.0"),
    ]
    dataset = ClipDataset(Corpus(tones), {"split": "train"})
    distance = {}
    for name in (str(path), str(tmp_path / "soft.h5"), None):
        out = tmp_path / f"{Path(name or 'none').stem}"
        model = load_model(train([*options, f"--out={out}", *([f"--teacher={name}"] if name else [])]))
        # Newest, as the best of them on labels means nothing here.
        newest = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        model.load_state_dict({key: newest[f"model.{key}"] for key in model.state_dict()})
        batch = next(iter(clip_loader(dataset, 60.0)))
        answers = open_teacher(path, dataset, LABELS)(batch)
        with torch.no_grad():
            distance[name] = float((model(batch.waveform, batch.lengths).clip_probs - answers).abs().mean())
    assert max(distance[str(path)], distance[str(tmp_path / "soft.h5")]) < distance[None] / 2


@pytest.mark.parametrize("labels", [LABELS[::-1], ["onset"], ["onset", "macro_average", "third"]])
def test_other_classes_are_refused(labels: list[str], tones: Path, dataset: ClipDataset, tmp_path: Path) -> None:
    path = teacher(tmp_path, labels)
    write_soft_targets(load_model(path), Corpus(tones), tmp_path / "soft.h5", {})
    for name in (path, tmp_path / "soft.h5"):
        with pytest.raises(LabelError, match=f"its {len(labels)} classes are not the 2 of the corpus"):
            open_teacher(name, dataset, LABELS)


def test_a_run_with_an_unfit_teacher_stops_before_training(tones: Path, tmp_path: Path) -> None:
    path = teacher(tmp_path, LABELS[::-1])
    options = ["--model.front_end=16k", f"--data.root={tones}", "--trainer.accelerator=cpu"]
    with pytest.raises(LabelError, match="the first that differs: 'macro_average' and 'onset'"):
        train([*options, f"--teacher={path}", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_different_sample_rate_is_refused_with_advice(tones: Path, dataset: ClipDataset, tmp_path: Path) -> None:
    path = teacher(tmp_path, front_end="paper-44k")
    with pytest.raises(ProtocolError, match="weakaudio teach"):
        open_teacher(path, dataset, LABELS)
    with pytest.raises(ProtocolError, match="16000 Hz, the model takes 44100 Hz"):
        write_soft_targets(load_model(path), Corpus(tones), tmp_path / "soft.h5", {})


def test_a_clip_without_soft_targets_is_named(tones: Path, dataset: ClipDataset, tmp_path: Path) -> None:
    write_soft_targets(load_model(teacher(tmp_path)), Corpus(tones), tmp_path / "soft.h5", {"split": "val"})
    with pytest.raises(ProtocolError, match=r"no soft targets of 12 clips, the first is 0\.wav"):
        open_teacher(tmp_path / "soft.h5", dataset, LABELS)


@pytest.mark.parametrize("fault", ["missing", "text", "cut", "empty", "version"])
def test_malformed_files_are_refused_by_name(fault: str, tones: Path, dataset: ClipDataset, tmp_path: Path) -> None:
    path = tmp_path / "soft.h5"
    if fault == "text":
        path.write_text("not HDF5")
    elif fault == "empty":
        h5py.File(path, "w").close()
    elif fault != "missing":
        write_soft_targets(load_model(teacher(tmp_path)), Corpus(tones), path, {})
        if fault == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            with h5py.File(path, "a") as file:
                file.attrs["format_version"] = 99
    with pytest.raises(CheckpointError, match=r"soft\.h5"):
        open_teacher(path, dataset, LABELS)


def test_soft_targets_are_written_to_h5_only(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(WeakAudioError, match=r"end in \.h5"):
        write_soft_targets(load_model(teacher(tmp_path)), Corpus(tones), tmp_path / "soft.npz", {})


def test_the_command_writes_the_file(tones: Path, dataset: ClipDataset, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["teach", str(teacher(tmp_path)), str(tones), "--out", str(tmp_path / "s.h5")])
    assert result.exit_code == 0
    assert "12 clips ->" in result.output
    open_teacher(tmp_path / "s.h5", dataset, LABELS)


def test_targets_of_sounds_are_the_greater_of_two_views_of_each_excerpt(tones: Path, tmp_path: Path) -> None:
    corpus, model = Corpus(tones), load_model(teacher(tmp_path))
    write_sound_targets(model, corpus, tmp_path / "t.h5", batch=5)
    found = SoundTargets(tmp_path / "t.h5", corpus.store)
    assert found.labels == LABELS
    for clip in (0, 1, 35):
        sound = corpus.store.audio(clip)
        alone = np.pad(sound, (0, max(32000 - len(sound), 0)))
        repeated = np.resize(np.concatenate([sound, np.zeros(8000, np.float32)]), 80000)
        with torch.no_grad():
            views = [model(torch.from_numpy(view)[None]).clip_probs[0].numpy() for view in (alone, repeated)]
        np.testing.assert_allclose(found(clip, 0, len(sound)), np.maximum(*views), atol=1e-3)
    with pytest.raises(ProtocolError, match="clips at 16000 Hz, the model takes 44100"):
        write_sound_targets(load_model(teacher(tmp_path, front_end="paper-44k")), corpus, tmp_path / "u.h5")
