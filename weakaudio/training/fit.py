"""`weakaudio train`: a LightningCLI with log, checkpoints, resumption and export of the best model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
import yaml
from lightning.fabric.connector import _PRECISION_INPUT
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from weakaudio import __version__
from weakaudio.data.datamodule import ClipDataModule
from weakaudio.errors import ProtocolError
from weakaudio.files import FolderLock
from weakaudio.networks.runtime import find_precision
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.settings import differences
from weakaudio.training.callbacks import (
    EVERY_EPOCH,
    AtomicCheckpointIO,
    Averaging,
    BestCheckpoint,
    EpochLog,
    MidEpochCheckpoint,
)
from weakaudio.training.lightning_module import TaggingModule

CONFIG, MODEL, METRICS = "config.yaml", "model.safetensors", "log/metrics.csv"
LAST = "checkpoints/last.ckpt"

# Settings that decide the result of a run, which cannot be resumed with other values.
_DECISIVE = (
    "seed_everything",
    "model.",
    "averaging.",
    "teacher",
    "data.train.",
    "data.val.",
    "data.batch_seconds",
    "data.seed",
    "data.balanced",
    "data.augment",
    "trainer.callbacks",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.val_check_interval",
    "trainer.overfit_batches",
    "trainer.gradient_clip_algorithm",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.precision",
    "trainer.gradient_clip_val",
    "trainer.accumulate_grad_batches",
    "trainer.limit_train_batches",
    "trainer.limit_val_batches",
    "trainer.check_val_every_n_epoch",
)


class _Trainer(lightning.Trainer):
    """Lightning's Trainer, whose parser also takes the precision "auto"; `TrainCLI` says which one that is."""

    def __init__(
        self, *args: Any, precision: _PRECISION_INPUT | Literal["auto"] | None = "auto", **kwargs: Any
    ) -> None:
        super().__init__(*args, precision=precision, **kwargs)  # type: ignore[arg-type]


class TrainCLI(LightningCLI):
    """A LightningCLI with the options `out`, `averaging`, `teacher` and `checkpoint_minutes` as well."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", type=str, required=True, help="folder of the run; a run in it is resumed")
        parser.add_argument("--averaging", type=Averaging, default=Averaging(), help="average of the weights")
        parser.add_argument("--teacher", type=str | None, default=None, help="a model, or a file of soft targets")
        parser.add_argument(
            "--checkpoint_minutes", type=float, default=5.0, help="interval of checkpoints within an epoch"
        )
        parser.link_arguments("data.labels", "model.labels", apply_on="instantiate")
        parser.link_arguments("teacher", "model.teacher")

    def before_instantiate_classes(self) -> None:
        trainer, out = self.config["trainer"], Path(self.config["out"])
        trainer["default_root_dir"] = self.config["out"]
        if trainer["precision"] == "auto":
            trainer["precision"] = _find_precision(out, str(trainer["accelerator"]))


def train(args: Sequence[str] | Mapping[str, Any]) -> Path:
    """Train a network as `weakaudio train` does; returns the path of the exported model.

    The run's folder holds `config.yaml`, `log/metrics.csv` (one row an epoch), `tb/` (TensorBoard), `checkpoints/`
    (`best.ckpt` by validation mAP, `last.ckpt` a few minutes old at most) and, at the end, `model.safetensors`, the
    best model. A folder with a `last.ckpt` is resumed from it, also in the middle of an epoch, and ends as if it had
    never stopped. On several devices each processes a share of the clips.

    Parameters
    ----------
    args
        Command-line arguments, as in `["--config", "weak.yaml", "--out", "runs/mine"]`, or settings as a nested
        mapping, as in `{"model": {"front_end": "16k"}, "data": {"root": "CORPUS"}, "out": "runs/mine"}`.

    Raises
    ------
    ProtocolError
        The run in the folder has other settings, or the corpus another sample rate than the front end.
    """
    _silence()
    cli = TrainCLI(
        TaggingModule,
        ClipDataModule,
        trainer_class=_Trainer,
        args=dict(args) if isinstance(args, Mapping) else list(args),
        run=False,
        seed_everything_default=0,
        parser_kwargs={"allow_abbrev": False},
        save_config_callback=_SaveConfig,
        save_config_kwargs={"save_to_log_dir": False},
        trainer_defaults={
            "benchmark": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_checkpointing": False,  # Lightning's default callback; see below
            "use_distributed_sampler": False,  # the loader shares batches out itself
        },
    )
    out = Path(cli.config["out"])
    trainer = cli.trainer
    if cli.config["trainer.logger"] is None:
        trainer.loggers = [TensorBoardLogger(out, name="", version="tb")]
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    best = BestCheckpoint(out / "checkpoints", filename="best", monitor="val_mAP", mode="max", **EVERY_EPOCH)
    last = ModelCheckpoint(out / "checkpoints", filename="last", **EVERY_EPOCH)
    interval = timedelta(minutes=cli.config["checkpoint_minutes"])
    within = MidEpochCheckpoint(
        out / "checkpoints", filename="last", train_time_interval=interval, enable_version_counter=False
    )
    callbacks: list[Callback] = [LearningRateMonitor("epoch")] if trainer.loggers else []
    callbacks += cli.config_init["averaging"].callbacks()
    # `last` comes last, so that it holds the log's rows and the state of `best`.
    trainer.callbacks.extend([*callbacks, EpochLog(out / METRICS), best, within, last])  # type: ignore[attr-defined]
    resumed = out / LAST
    if resumed.is_file():
        _refuse_other_run(cli, out)
    with ExitStack() as stack:
        if trainer.is_global_zero:
            out.mkdir(parents=True, exist_ok=True)
            stack.callback(FolderLock(out).release)
        trainer.fit(cli.model, cli.datamodule, ckpt_path=str(resumed) if resumed.is_file() else None)
        if trainer.is_global_zero:
            export(trainer, cli.model, best, out / MODEL)
        trainer.strategy.barrier()
    return out / MODEL


def export(trainer: lightning.Trainer, tagger: TaggingModule, checkpoint: ModelCheckpoint, path: Path) -> Path:
    """Write the best checkpoint of a finished run as a model file."""
    best = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=True)
    tagger.load_state_dict(best["state_dict"], strict=True)
    data: ClipDataModule = trainer.datamodule  # type: ignore[attr-defined]
    tagger.model.metadata.update(
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


def _silence() -> None:
    """Silence Lightning's tips and two warnings about intended behaviour."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


class _SaveConfig(SaveConfigCallback):
    """Writes the configuration into the run's folder instead of the logger's."""

    def save_config(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, folder / CONFIG, skip_none=False, overwrite=True)


def _find_precision(out: Path, accelerator: str) -> str | None:
    """Resolve precision "auto" for a run; a resumed run keeps its precision, also on another machine."""
    here = find_precision("auto", accelerator)
    if not ((out / CONFIG).is_file() and (out / LAST).is_file()):
        return here
    began: str | None = yaml.safe_load((out / CONFIG).read_text(encoding="utf-8"))["trainer"]["precision"]
    if (began or "32-true") != here:
        rank_zero_info(f"{out}: resumes in {began or '32-true'}, as it began; a new run would be in {here} here")
    return began


def _refuse_other_run(cli: TrainCLI, out: Path) -> None:
    if not (out / CONFIG).is_file():
        return
    saved = yaml.safe_load((out / CONFIG).read_text(encoding="utf-8"))
    now = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))
    if different := [each for each in differences(saved, now) if each.startswith(_DECISIVE)]:
        raise ProtocolError(
            f"{out}: the run in this folder was made with other settings ({'; '.join(different)}); resume it with "
            f"those that it was started with ({out / CONFIG}), or give another folder"
        )
