"""Weight normalisation: filters are projected to unit norm after each optimiser step (arXiv 2511.18890)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.hooks import RemovableHandle

from weakaudio.errors import ProtocolError
from weakaudio.networks.layers import ConvNorm


def unit_weights(network: nn.Module) -> list[ConvNorm]:
    """Layers of a network whose filters weight normalisation projects: convolutions followed by batch normalisation.

    Batch normalisation makes the scale of a filter irrelevant, of depthwise filters as well, since it normalises each
    channel by itself. The projections into and out of attention and recurrence are such convolutions, too. (The
    paper's language models have no norm after the projection out, and project its columns.)

    All other parameters are left alone, since their scale matters: classifiers, layers without a norm behind them,
    biases, and the gains and biases of norms.
    """
    layers = [module for module in network.modules() if isinstance(module, ConvNorm)]
    return [layer for layer in layers if isinstance(layer.norm, nn.BatchNorm2d)]


@torch.no_grad()
def project(layers: Sequence[ConvNorm]) -> None:
    """Scale filters to unit norm, in place.

    Running statistics of the norm are scaled along, so that the network computes the same as before, in evaluation
    mode as well. Frozen weights and all-zero filters, which have no direction, are left alone.
    """
    for layer in layers:
        weight, norm = layer.conv.weight, layer.norm
        if not weight.requires_grad:
            continue
        exact = torch.promote_types(weight.dtype, torch.float32)
        length = torch.linalg.vector_norm(weight, dim=list(range(1, weight.ndim)), keepdim=True, dtype=exact)
        length.masked_fill_(length == 0, 1.0)
        weight.div_(length)
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            bias = 0.0 if layer.conv.bias is None else layer.conv.bias
            norm.running_mean.sub_(bias).div_(length.flatten()).add_(bias)
            norm.running_var.div_(length.flatten().square())


class WeightNormalisation(Callback):
    """Projects the filters of `unit_weights` to unit norm, before the first step and after each optimiser step.

    Their norms would otherwise grow with training, which lowers the effective learning rate. Weight decay has no
    effect on them. Averages of weights are of projected weights, and not projected themselves: their norm is slightly
    below 1. On the command line: `--trainer.callbacks+=weakaudio.training.weight_norm.WeightNormalisation`.

    Raises
    ------
    ProtocolError
        At the start of training: the network has no such layer.
    """

    def __init__(self) -> None:
        self._begun = False  # a resumed run is not projected again: rounding would change bits
        self._hooks: list[RemovableHandle] = []

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._begun = False

    def state_dict(self) -> dict[str, Any]:
        return {"begun": self._begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._begun = state_dict["begun"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        weights = unit_weights(pl_module)
        if not weights:
            raise ProtocolError(
                f"weight normalisation: {type(pl_module).__name__} has no convolution followed by batch "
                "normalisation; train it without"
            )
        if not self._begun:
            project(weights)
        self._begun = True
        self._hooks = [each.register_step_post_hook(lambda *_: project(weights)) for each in trainer.optimizers]

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for hook in self._hooks:
            hook.remove()
