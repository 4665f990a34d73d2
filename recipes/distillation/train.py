"""Distil a network from another one, on mixtures of unlabelled recordings.

    python -m recipes.distillation.train --config recipes/distillation/base.yaml --out runs/base

A run that is found in the folder resumes after its last epoch. With more `epochs` it is prolonged; it ends with the
`cooldown`, over which the learning rate falls to 0.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Annotated, Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, TQDMProgressBar

from recipes.command import command
from weakaudio import __version__
from weakaudio.data.corpus import Corpus
from weakaudio.data.mixtures import Mixtures, mixture_loader
from weakaudio.errors import ProtocolError
from weakaudio.files import FolderLock
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_precision
from weakaudio.pretrained.checkpoint import model_checksum, save_model
from weakaudio.pretrained.registry import load_model
from weakaudio.settings import differences
from weakaudio.training.callbacks import EVERY_EPOCH, AtomicCheckpointIO, Averaging, EpochLog
from weakaudio.training.distillation import Distiller
from weakaudio.training.soft_targets import write_sound_targets

MODEL, METRICS, CONFIG = "model.safetensors", "metrics.csv", "config.json"
_MAY_CHANGE = ("out", "epochs", "cooldown", "workers", "accelerator")  # between the commands of one run


def train(
    out: Annotated[str, "folder of the run: `model.safetensors` (averaged weights), `metrics.csv`, `last.ckpt`"],
    teacher: Annotated[str, "name or path of a model"],
    corpora: Annotated[
        dict[str, float], "corpora of `weakaudio prepare unlabelled`, and how often each is drawn from"
    ],
    network: Annotated[str, "of the student"],
    network_config: Annotated[dict[str, Any], "of the student"],
    epochs: Annotated[int, "of the complete training; after each the model is validated and written"],
    cooldown: Annotated[int, "epochs at the end, over which the learning rate falls to 0"] = 0,
    seconds: Annotated[float, "length of a mixture"] = 4.0,
    batch_size: Annotated[int, "mixtures per step"] = 32,
    epoch_steps: Annotated[int, "steps per epoch: what a crash costs at most"] = 400,
    learning_rate: Annotated[float, "peak of the learning rate of AdamW"] = 0.002,
    warmup: Annotated[int, "steps at the beginning, over which the learning rate rises"] = 500,
    decay: Annotated[float, "of the exponential moving average of the weights"] = 0.999,
    precision: Annotated[str, "as for Lightning's Trainer, or auto: bf16-mixed where it is native"] = "auto",
    over_time: Annotated[bool, "with a target over time beside each mixture: a student with `score_stride`"] = False,
    every: Annotated[int, "frame stride: the student gets every k-th frame of the teacher's log-mel"] = 1,
    start: Annotated[str | None, "name or path of a model to initialise the student from"] = None,
    seed: Annotated[int, "of weights and mixtures"] = 0,
    workers: Annotated[int, "processes that mix"] = 1,
    accelerator: Annotated[str, "as for Lightning's Trainer"] = "auto",
) -> Path:
    """Train; returns the path of the model, which is also written after each epoch.

    Raises
    ------
    WeakAudioError
        The folder holds a run with other settings, or `Distiller` or `Mixtures` refuses.
    """
    asked = {name: value for name, value in locals().items() if name not in _MAY_CHANGE}
    lightning.seed_everything(seed, verbose=False)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    asked["precision"] = precision = _find_precision(folder / CONFIG, precision, accelerator)
    _refuse_other_run(folder / CONFIG, asked)
    steps = epochs * epoch_steps
    schedule = (steps, learning_rate, warmup, cooldown * epoch_steps)
    distiller = Distiller(teacher, network, network_config, *schedule, frame_stride=every, init_from=start)
    timed: dict[str, Any] = {}
    if over_time:
        timed["targets"] = [sound_targets(distiller.teacher, corpus) for corpus in corpora]
        timed["times"] = distiller.model.score_times(round(seconds * distiller.model.sample_rate))
    training = Mixtures(corpora, seconds, steps * batch_size, seed, {"split": "train"}, **timed)
    validation = Mixtures(corpora, seconds, 4 * batch_size, seed + 1, {"split": "val"}, **timed)
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
    # In this order: the checkpoint holds the rows of the log, and the newest checkpoint is exported.
    export = _Export(found, folder / MODEL, asked)
    trainer.callbacks.extend([*averaging, log, last, export])  # type: ignore[attr-defined]
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    lock = FolderLock(folder)
    try:
        trainer.fit(
            distiller,
            mixture_loader(training, batch_size, epoch_steps, workers),
            mixture_loader(validation, batch_size, workers=0),
            ckpt_path=str(found) if found.is_file() else None,
        )
        export.write(distiller)  # of a run that was killed before its last export
    finally:
        lock.release()
    return folder / MODEL


def sound_targets(teacher: Model, corpus: str) -> Path:
    """The teacher's targets of the sounds of a corpus, computed once and kept beside them."""
    path = Path(corpus) / f"targets-{model_checksum(teacher)[:12]}.h5"
    if not path.is_file():
        write_sound_targets(teacher, Corpus(corpus), path)
    return path


def _find_precision(path: Path, precision: str, accelerator: str) -> str:
    """What "auto" means for a run: the precision it began in, also if it is resumed on another machine."""
    if precision == "auto" and path.is_file():
        precision = json.loads(path.read_text(encoding="utf-8")).get("precision", precision)
    return find_precision(precision, accelerator)


def _refuse_other_run(path: Path, asked: dict[str, Any]) -> None:
    """Refuse a folder with a run of other settings; those of a new run are written there."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else asked
    if different := "; ".join(differences({name: known.get(name) for name in asked}, json.loads(json.dumps(asked)))):
        raise ProtocolError(
            f"{path.parent}: the run in this folder was made with other settings ({different}); give those, or "
            "another folder"
        )
    path.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")


class _Export(Checkpoint):
    """Writes the student of the newest checkpoint, whose weights are averaged, as a model file.

    A `Checkpoint`, because Lightning calls those after all other callbacks, in their order.
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
        """The model that the student was initialised from, and its training."""
        if not self.asked["start"]:
            return {}
        start = load_model(self.asked["start"])
        history = {name: start.metadata[name] for name in ("name", "training", "start") if name in start.metadata}
        return {"start": {**history, "checksum": model_checksum(start)}}


main = command()(train)

if __name__ == "__main__":
    raise SystemExit(main())
