"""What a run writes while it trains: checkpoints that are always whole, and a table of its epochs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from weakaudio.data.manifest import write_table

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


class EpochLog(Callback):
    """A table of epochs; its rows travel in the checkpoints, so resuming neither loses nor doubles one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._begun = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._begun = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            **{name: float(value) for name, value in sorted(trainer.callback_metrics.items())},
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
