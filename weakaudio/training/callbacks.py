"""Callbacks of training: checkpoints, averages of weights, a table of epochs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import pandas as pd
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from torch.optim.swa_utils import get_ema_avg_fn, get_swa_avg_fn

from weakaudio.errors import ProtocolError
from weakaudio.files import atomic_write, write_table

# Arguments of every `ModelCheckpoint` here.
EVERY_EPOCH: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best epoch when the run's folder has been moved (Lightning's own would forget it)."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["best_model_score"] is None:  # stopped before the first validation
            return
        path = self.format_checkpoint_name({})
        moved = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
        super().load_state_dict({**state_dict, **moved, "best_k_models": {path: state_dict["best_model_score"]}})


class MidEpochCheckpoint(ModelCheckpoint):
    """Writes at intervals within an epoch, after whole optimiser steps; another callback writes at its end."""

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if whole_step and not trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


@dataclass
class Averaging:
    """Average of the weights over training steps, which is validated and exported in place of the last weights.

    Parameters
    ----------
    kind
        "ema": exponential moving average; "swa": arithmetic mean (arXiv 1803.05407); or "none".
    decay
        Decay of the exponential moving average per step, in [0, 1).
    start
        Fraction of all steps after which the arithmetic mean begins, in [0, 1).
    """

    kind: Literal["none", "ema", "swa"] = "none"
    decay: float = 0.999
    start: float = 0.75

    def __post_init__(self) -> None:
        if not (0 <= self.decay < 1 and 0 <= self.start < 1):
            raise ProtocolError(f"averaging: decay and start must be in [0, 1), got {self.decay} and {self.start}")

    def callbacks(self) -> list[Callback]:
        """The callback that averages, if any."""
        if self.kind == "ema":
            return [_Average(avg_fn=get_ema_avg_fn(self.decay))]
        return [_ArithmeticMean(self.start)] if self.kind == "swa" else []


class _Average(WeightAveraging):
    """Keeps the average on the training device: Lightning reads the model's before the model is moved there."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


class _ArithmeticMean(_Average):
    """Until averaging begins, the newest weights are copied, validated, and can be the best."""

    def __init__(self, start: float) -> None:
        super().__init__(avg_fn=get_swa_avg_fn())  # torch's default fails on integer buffers on a GPU
        self._start, self._first = start, 0.0

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._first = self._start * trainer.estimated_stepping_batches

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        if step_idx <= self._first:
            assert self._average_model is not None
            self._average_model.n_averaged.zero_()  # the next update copies the weights
        return True


class EpochLog(Callback):
    """Writes a table with one row an epoch. Checkpoints hold its rows, so resuming neither loses nor repeats one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._begun = 0.0  # start of the epoch on the monotonic clock, less the time before it was resumed

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": time.monotonic() - self._begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._begun = time.monotonic() - state_dict["seconds"]

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._begun = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
            **{
                name: float(value)
                for name, value in sorted(trainer.callback_metrics.items())
                if name.startswith(("train_", "val_"))
            },
            "seconds": time.monotonic() - self._begun,
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            write_table(pd.DataFrame(self.rows), self.path)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically. Lightning moves them from the system's temporary folder; where that is another
    file system, moving is copying, and a killed process leaves half a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_write(path) as partial:
            torch.save(checkpoint, partial)
