"""`weakaudio train`: LightningCLI with our model and data, a log, checkpoints, resumption and the export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from weakaudio import __version__
from weakaudio.data.dataset import ClipDataModule
from weakaudio.pretrained import save_model
from weakaudio.training.tagger import Tagger


class TrainCLI(LightningCLI):
    """`model`, `data`, `trainer` and `seed_everything` as in any LightningCLI, and `out`, the folder of the run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", type=str, required=True, help="folder of the run; a run found there is resumed")
        parser.link_arguments("data.labels", "model.labels", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        out = str(self.config["out"])
        trainer = self.config["trainer"]
        trainer["default_root_dir"] = out
        if trainer["logger"] is None:
            trainer["logger"] = [CSVLogger(out, name="", version="log"), TensorBoardLogger(out, name="", version="tb")]


def train(args: ArgsType = None) -> Path:
    """Train as the command line says; returns the path of the exported model.

    The run's folder holds `config.yaml`, `log/metrics.csv`, `tb/` (TensorBoard), `checkpoints/` (`best.ckpt` by
    validation mAP, `last.ckpt` of the newest whole epoch) and at the end `model.safetensors`, the best model. If
    there is a `last.ckpt`, the run goes on from it and ends as if it had never stopped.
    """
    cli = TrainCLI(
        Tagger,
        ClipDataModule,
        args=args,
        run=False,
        seed_everything_default=0,
        save_config_callback=SaveConfigCallback,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"benchmark": False, "num_sanity_val_steps": 0, "log_every_n_steps": 1},
    )
    out = Path(cli.config["out"])
    checkpoint = ModelCheckpoint(
        out / "checkpoints", filename="best", monitor="val_mAP", mode="max", save_last=True,
        enable_version_counter=False,
    )  # fmt: skip
    callbacks: Sequence[Callback] = (checkpoint, LearningRateMonitor("epoch"), TQDMProgressBar())
    cli.trainer.callbacks.extend(callbacks)
    last = out / "checkpoints" / "last.ckpt"
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=str(last) if last.is_file() else None)
    if cli.trainer.interrupted:
        raise KeyboardInterrupt
    return export(cli.trainer, cli.model, checkpoint, out / "model.safetensors")


def export(trainer: lightning.Trainer, tagger: Tagger, checkpoint: ModelCheckpoint, path: Path) -> Path:
    """Write the best checkpoint of a finished run as a self-describing model file."""
    best = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=True)
    tagger.load_state_dict(best["state_dict"], strict=True)
    data: ClipDataModule = trainer.datamodule  # type: ignore[attr-defined]
    tagger.model.notes.update(
        {
            "weakaudio": __version__,
            "corpus": data.corpus.root.name,
            "train": data.train,
            "val": data.val,
            "epochs": trainer.current_epoch,
            "best_epoch": int(best["epoch"]) + 1,
            "val_mAP": float(checkpoint.best_model_score or 0.0),
            "hyperparameters": {k: v for k, v in tagger.hparams.items() if k != "labels"},
        }
    )
    save_model(tagger.model, path)
    return path
