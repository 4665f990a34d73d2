from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from weakaudio.data.corpus import Corpus
from weakaudio.data.datamodule import Batch, ClipDataModule
from weakaudio.errors import ProtocolError
from weakaudio.evaluation.corpus import evaluate
from weakaudio.networks import Network
from weakaudio.training.lightning_module import TaggingModule
from weakaudio.training.losses import LOSSES

LABELS = ["onset", "macro_average"]
TINY: dict[str, Any] = {"network_config": {"width": 0.0625}, "front_end": "16k"}


def trainer(folder: Path, **options: Any) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return lightning.Trainer(accelerator="cpu", logger=False, default_root_dir=folder, **quiet, **options)


def batch(*n_samples: int) -> Batch:
    """Clips of noise, all positive."""
    torch.manual_seed(0)
    lengths = torch.tensor(n_samples)
    inside = torch.arange(max(n_samples)) < lengths[:, None]
    waveform = 0.1 * torch.randn(inside.shape) * inside
    return Batch(waveform, lengths, torch.ones(len(lengths), 2), torch.arange(len(lengths)))


class Rates(lightning.Callback):
    """Learning rate of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_validation_measures_all_clips_together(
    tones: Path, tmp_path: Path, randomise: Callable[[Network], Network]
) -> None:
    """Not batch by batch: mean average precision is no mean of batches."""
    tagger = TaggingModule(LABELS, **TINY)
    randomise(tagger.model.network)
    data = ClipDataModule(str(tones), batch_seconds=8, workers=0)
    logged = trainer(tmp_path).validate(tagger, data, verbose=False)[0]
    clip = evaluate(tagger.model, Corpus(tones), {"split": "val"}, None).clip
    assert logged["val_mAP"] == pytest.approx(clip.mean_ap)
    assert logged["val_mAUC"] == pytest.approx(clip.mean_auc)
    assert logged["val_lwlrap"] == pytest.approx(clip.lwlrap)


@pytest.mark.parametrize("warmup", [0.25, 0.5])
def test_the_learning_rate_rises_over_the_warmup_and_falls_to_0(warmup: float, tones: Path, tmp_path: Path) -> None:
    rates = Rates()
    tagger = TaggingModule(LABELS, **TINY, learning_rate=0.01, warmup=warmup)
    fit = trainer(tmp_path, max_epochs=4, callbacks=[rates], limit_val_batches=0)
    fit.fit(tagger, ClipDataModule(str(tones), batch_seconds=8, workers=0))
    steps, top = len(rates.seen), int(np.argmax(rates.seen))
    assert steps == fit.estimated_stepping_batches
    assert rates.seen[top] == pytest.approx(0.01, rel=0.05)
    assert top == pytest.approx(warmup * steps, abs=1)
    assert (np.diff(rates.seen[: top + 1]) > 0).all()
    assert (np.diff(rates.seen[top:]) < 0).all()
    assert rates.seen[-1] < 1e-4


@pytest.mark.parametrize(("network", "loss"), [("weakcnn", "weak"), ("windowed-cnn", "slat")])
def test_a_step_minimises_the_loss_named(network: str, loss: str) -> None:
    tagger = TaggingModule(LABELS, network, loss=loss, **TINY)  # type: ignore[arg-type]
    clips = batch(40000, 32000)
    expected = LOSSES[loss](tagger.model(clips.waveform, clips.lengths), clips.targets)
    assert float(tagger.training_step(clips, 0)) == pytest.approx(float(expected))


@pytest.mark.parametrize("network", ["weakcnn", "windowed-cnn"])
@pytest.mark.parametrize("n_samples", [1, 9000, 20000])
def test_a_batch_of_a_single_segment_trains(network: str, n_samples: int) -> None:
    """Batch normalisation would have one value, and no variance, for each channel."""
    tagger = TaggingModule(LABELS, network, **TINY)
    tagger.training_step(batch(n_samples), 0).backward()
    gradients = [parameter.grad for parameter in tagger.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    tagger.training_step(batch(40000), 0)
    assert tagger.model.training


def test_a_corpus_at_a_different_sample_rate_is_refused(tones: Path, tmp_path: Path) -> None:
    tagger = TaggingModule(LABELS, front_end="paper-44k", network_config={"width": 0.0625})
    with pytest.raises(ProtocolError, match=r"16000 Hz, front end 'paper-44k' takes 44100 Hz"):
        trainer(tmp_path).validate(tagger, ClipDataModule(str(tones), workers=0), verbose=False)


@pytest.mark.parametrize(
    "options",
    [
        {"mixup_alpha": 0},
        {"focal_gamma": -1},
        {"time_mask": -1},
        {"label_smoothing": 1.5},
        {"teacher_weight": 2},
        {"warmup": 0},
    ],
)
def test_invalid_values_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=next(iter(options))):
        TaggingModule(LABELS, **TINY, **options)
