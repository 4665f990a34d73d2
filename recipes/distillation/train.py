"""Teach a network what another one hears, on mixtures of unlabelled recordings.

    python -m recipes.distillation.train --config recipes/distillation/base.yaml --out runs/base

A run that is found in the folder goes on from its last epoch. With more `epochs` it is prolonged; the `cooldown`,
over which the learning rate falls to 0, is the end of it.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, TQDMProgressBar

from weakaudio import __version__
from weakaudio.data.mixtures import Mixtures, mixture_loader
from weakaudio.errors import ProtocolError, WeakAudioError
from weakaudio.files import FolderLock
from weakaudio.networks.runtime import find_precision
from weakaudio.pretrained import load_model, model_checksum, save_model
from weakaudio.training.callbacks import EVERY_EPOCH, AtomicCheckpointIO, Averaging, EpochLog
from weakaudio.training.distillation import Distiller

MODEL, METRICS, CONFIG = "model.safetensors", "metrics.csv", "config.json"


def train(
    out: str,
    teacher: str,
    corpora: dict[str, float],
    network: str,
    network_config: dict[str, Any],
    epochs: int,
    cooldown: int = 0,
    seconds: float = 4.0,
    batch_size: int = 32,
    epoch_steps: int = 400,
    learning_rate: float = 2e-3,
    warmup: int = 500,
    decay: float = 0.999,
    precision: str = "auto",
    every: int = 1,
    start: str | None = None,
    seed: int = 0,
    workers: int = 1,
    accelerator: str = "auto",
) -> Path:
    """Train; returns the path of the model, which is also written after each epoch.

    Parameters
    ----------
    out
        Folder of the run: `model.safetensors` (averaged weights), `metrics.csv`, `last.ckpt`, `config.json`.
    teacher
        Name or path of a model.
    corpora
        Folders of corpora of `weakaudio prepare unlabelled`, and how often each is drawn from.
    network, network_config
        Of the student.
    epochs
        Of the whole training; after each the model is validated and written, and a run can go on.
    epoch_steps
        Steps of an epoch: what a crash costs at most.
    warmup
        Steps at the beginning, over which the learning rate rises.
    cooldown
        Epochs at the end, over which it falls to 0.
    seconds, batch_size
        Length of a mixture, and how many a step has.
    learning_rate
        Of AdamW, at its highest.
    decay
        Of the exponential moving average of the weights.
    precision, accelerator
        As Lightning's Trainer has them; precision "auto" is bf16-mixed where bfloat16 is native, else 32-true.
    every
        The student hears every k-th frame of the teacher's log-mel.
    start
        Name or path of a model with whose weights the student begins.
    seed
        Of weights and mixtures.
    workers
        Processes that mix.

    Raises
    ------
    WeakAudioError
        The folder holds a run that was begun otherwise, or `Distiller` or `Mixtures` refuses.
    """
    precision = find_precision(precision, accelerator)
    asked = {
        "teacher": teacher,
        "corpora": corpora,
        "network": network,
        "network_config": network_config,
        "seconds": seconds,
        "batch_size": batch_size,
        "epoch_steps": epoch_steps,
        "learning_rate": learning_rate,
        "warmup": warmup,
        "decay": decay,
        "precision": precision,
        "every": every,
        "start": start,
        "seed": seed,
    }
    lightning.seed_everything(seed, verbose=False)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_other_run(folder / CONFIG, asked)
    steps = epochs * epoch_steps
    distiller = Distiller(
        teacher,
        network,
        network_config,
        steps,
        learning_rate,
        warmup,
        cooldown * epoch_steps,
        frame_stride=every,
        init_from=start,
    )
    heard = Mixtures(corpora, seconds, steps * batch_size, seed, {"split": "train"})
    kept = Mixtures(corpora, seconds, 4 * batch_size, seed + 1, {"split": "val"})
    last = ModelCheckpoint(folder, filename="last", **EVERY_EPOCH)
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=epochs,
        gradient_clip_val=5.0,
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        callbacks=[TQDMProgressBar(refresh_rate=20)],
        enable_checkpointing=False,  # Lightning's own
    )
    found = folder / "last.ckpt"
    averaging, log = Averaging("ema", decay).callbacks(), EpochLog(folder / METRICS)
    # In this order: the checkpoint holds the rows of the log, and what is exported is the newest checkpoint.
    export = _Export(found, folder / MODEL, asked)
    trainer.callbacks.extend([*averaging, log, last, export])  # type: ignore[attr-defined]
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    lock = FolderLock(folder)
    try:
        trainer.fit(
            distiller,
            mixture_loader(heard, batch_size, epoch_steps, workers),
            mixture_loader(kept, batch_size, workers=0),
            ckpt_path=str(found) if found.is_file() else None,
        )
        export.write(distiller)  # a run that was killed before it did has nothing left to train
    finally:
        lock.release()
    return folder / MODEL


def _refuse_other_run(path: Path, asked: dict[str, Any]) -> None:
    """A run goes on only as it was begun; what it is asked for is kept beside it."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else asked
    for name, value in json.loads(json.dumps(asked)).items():
        if known.get(name) != value:
            raise ProtocolError(
                f"{path.parent}: holds a run with {name} {known.get(name)}, now it is {value}; go on as it was "
                "begun, or give another folder"
            )
    path.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")


class _Export(Checkpoint):
    """Writes the student of the newest checkpoint, whose weights are averaged, as a model file.

    A `Checkpoint`, as Lightning calls those after all others, in their order.
    """

    def __init__(self, checkpoint: Path, path: Path, asked: dict[str, Any]) -> None:
        self.checkpoint, self.path, self.asked = checkpoint, path, asked

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Distiller)
        self.write(pl_module)

    def write(self, distiller: Distiller) -> None:
        saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        prefix = "model."
        state = {name.removeprefix(prefix): x for name, x in saved["state_dict"].items() if name.startswith(prefix)}
        model = copy.deepcopy(distiller.model).cpu()
        model.load_state_dict(state, strict=True)
        model.metadata = {
            "weakaudio": __version__,
            "training": f"distilled from {Path(self.asked['teacher']).stem}, {saved['global_step']} steps",
            "teacher_checksum": model_checksum(distiller.teacher),
            **self._start(),
            "corpora": {Path(folder).name: weight for folder, weight in self.asked["corpora"].items()},
            **{name: self.asked[name] for name in ("seconds", "batch_size", "learning_rate", "decay", "seed")},
        }
        save_model(model, self.path)

    def _start(self) -> dict[str, Any]:
        """What the student began with, and how that had been trained."""
        if not self.asked["start"]:
            return {}
        start = load_model(self.asked["start"])
        history = {name: start.metadata[name] for name in ("name", "training", "start") if name in start.metadata}
        return {"start": {**history, "checksum": model_checksum(start)}}


if __name__ == "__main__":
    try:
        print(auto_cli(train, as_positional=False))
    except WeakAudioError as error:
        sys.exit(f"train: {error}")
