"""What a run writes while it trains: checkpoints that are always whole, and a table of its epochs."""

from __future__ import annotations

import os
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
from weakaudio.files import write_table

# Arguments of every `ModelCheckpoint` here.
EVERY_EPOCH: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}


class BestCheckpoint(ModelCheckpoint):
    """Remembers the best epoch also when the run's folder has moved since (Lightning would forget it)."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["best_model_score"] is None:  # stopped before the first validation
            return
        path = self.format_checkpoint_name({})
        here = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
        super().load_state_dict({**state_dict, **here, "best_k_models": {path: state_dict["best_model_score"]}})


class MidEpochCheckpoint(ModelCheckpoint):
    """Writes every few minutes, after whole optimizer steps, within epochs; their ends are another's."""

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
    """Average the weights of several steps: the average is validated, and is what the run leaves.

    Parameters
    ----------
    kind
        "ema", the exponential moving average; "swa", the plain average (arXiv 1803.05407); or "none".
    decay
        Of the exponential moving average, each step.
    start
        Part of all steps after which the plain average begins, in [0, 1).
    """

    kind: Literal["none", "ema", "swa"] = "none"
    decay: float = 0.999
    start: float = 0.75

    def __post_init__(self) -> None:
        if not (0 <= self.decay < 1 and 0 <= self.start < 1):
            raise ProtocolError(f"averaging: decay and start are in [0, 1), got {self.decay} and {self.start}")

    def callbacks(self) -> list[Callback]:
        """What averages, if anything."""
        if self.kind == "ema":
            return [_MovingAveraging(self.decay)]
        return [_PlainAveraging(self.start)] if self.kind == "swa" else []


class _OnDevice(WeightAveraging):
    """The average lies where training is: Lightning asks for the device before the model has been moved there."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


class _MovingAveraging(_OnDevice):
    def __init__(self, decay: float) -> None:
        super().__init__(avg_fn=get_ema_avg_fn(decay))


class _PlainAveraging(_OnDevice):
    """Until the average begins, it is the newest weights: they are validated, and can be the best."""

    def __init__(self, start: float) -> None:
        super().__init__(avg_fn=get_swa_avg_fn())  # torch's own default fails on whole-number buffers of a GPU
        self._start, self._first = start, 0.0

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._first = self._start * trainer.estimated_stepping_batches

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        if step_idx <= self._first:
            assert self._average_model is not None
            self._average_model.n_averaged.zero_()  # of none, the next average is a copy
        return True


class EpochLog(Callback):
    """A table of epochs; its rows travel in the checkpoints, so resuming neither loses nor doubles one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._begun = 0.0  # of the epoch, had it not been stopped

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


class WholeFiles(TorchCheckpointIO):
    """Writes beside and renames. Lightning writes into the system's temporary folder and moves; if that is on
    another file system, the move is a copy, and a kill leaves half of it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        torch.save(checkpoint, beside)
        os.replace(beside, path)
