"""Learning rates over the steps of a training."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR


def one_cycle(optimizer: Optimizer, learning_rate: float, steps: int, warmup: float) -> dict[str, Any]:
    """Rises to `learning_rate` over the first part `warmup` of the steps, then falls to 0, both along a cosine
    (arXiv 1708.07120, without its cycle of momentum).

    Returns the optimiser and its schedule as `LightningModule.configure_optimizers` does.
    """
    schedule = OneCycleLR(
        optimizer, learning_rate, steps, pct_start=warmup, cycle_momentum=False, final_div_factor=1e3
    )
    return _by_step(optimizer, schedule)


def warmup_stable_decay(optimizer: Optimizer, steps: int, warmup: int, lr_decay: int) -> dict[str, Any]:
    """Scales the optimiser's rate by `trapezoid`; returns both as `LightningModule.configure_optimizers` does."""
    return _by_step(optimizer, LambdaLR(optimizer, lambda step: trapezoid(step, steps, warmup, lr_decay)))


def trapezoid(step: int, steps: int, warmup: int, lr_decay: int) -> float:
    """Factor in (0, 1] of the learning rate at a step (from 0): rises linearly over `warmup` steps, stays at 1, and
    falls linearly towards 0 over the last `lr_decay` of all `steps` (arXiv 2405.18392). 0 leaves out either slope."""
    rising = (step + 1) / max(warmup, 1)
    falling = (steps - step) / lr_decay if lr_decay else 1.0
    return min(1.0, rising, falling)


def _by_step(optimizer: Optimizer, schedule: LRScheduler) -> dict[str, Any]:
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
