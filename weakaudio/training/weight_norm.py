"""Weights of unit norm: after each step of the optimiser they are brought back to length 1 (arXiv 2511.18890)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.hooks import RemovableHandle

from weakaudio.errors import ProtocolError
from weakaudio.networks.layers import ConvNorm

_ROWS, _COLUMNS = 0, 1  # of a weight (outputs, inputs, ...)


class UnitWeight(NamedTuple):
    """A weight that is kept at unit norm."""

    layer: nn.Linear | nn.Conv1d | nn.Conv2d
    axis: int
    """0: each row, or filter, has unit norm; 1: each column"""
    norm: nn.BatchNorm2d | None = None
    """that follows, and whose running statistics are scaled with the weight"""


def unit_weights(network: nn.Module) -> list[UnitWeight]:
    """The weights of a network that weight normalisation is about; the network itself says which.

    - Convolutions in a `ConvNorm`, by filter: batch normalisation follows, so their scale is free. This holds for
      depthwise filters as well: a channel is normalised by itself, whether its filter has seen one channel or all.
    - Layers that an operator names in its class attributes `reads` and `writes`, tuples of names: what reads the
      residual stream by row, and what writes to it by column.

    All others are exempt, as their scale means something: classifiers, layers that no norm follows, the gains and
    biases of norms, biases.
    """
    found = []
    for module in network.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            found.append(UnitWeight(module.conv, _ROWS, module.norm))
        for attribute, axis in (("reads", _ROWS), ("writes", _COLUMNS)):
            for name in getattr(type(module), attribute, ()):
                layer = module.get_submodule(name)
                assert isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)), f"{type(module).__name__}.{name}"
                found.append(UnitWeight(layer, axis))
    return found


@torch.no_grad()
def project(weights: Sequence[UnitWeight]) -> None:
    """Scale weights to unit norm, in place.

    Running statistics of a following norm are scaled along, so that a network does the same as before, in evaluation
    also. Weights that are not trained stay as they are, and so do rows and columns of zeros, which have no direction.
    """
    for layer, axis, norm in weights:
        weight = layer.weight
        if not weight.requires_grad:
            continue
        others = [n for n in range(weight.ndim) if n != axis]
        exact = torch.promote_types(weight.dtype, torch.float32)
        length = torch.linalg.vector_norm(weight, dim=others, keepdim=True, dtype=exact)
        length.masked_fill_(length == 0, 1.0)
        weight.div_(length)
        if norm is not None and norm.running_mean is not None and norm.running_var is not None:
            bias = 0.0 if layer.bias is None else layer.bias
            norm.running_mean.sub_(bias).div_(length.flatten()).add_(bias)
            norm.running_var.div_(length.flatten().square())


class WeightNormalisation(Callback):
    """Keeps the weights that `unit_weights` names at unit norm: before the first step, and after each.

    Their length then no longer grows with training, which would lower the learning rate in effect. Weight decay is of
    no use to them: what it shrinks is scaled back at once.

    A step is one of the optimiser, so batches whose gradients are accumulated are one. Averages of weights see
    projected weights; an average itself is a little shorter than what it averages, and is left as it is.

    Raises
    ------
    ProtocolError
        When training starts: the network has no such weight.
    """

    def __init__(self) -> None:
        self._begun = False  # not again when a run is resumed: rounding would change bits
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
                f"weight normalisation: {type(pl_module).__name__} has no weight for it: no ConvNorm, no operator "
                "with `reads` or `writes`; train it without"
            )
        if not self._begun:
            project(weights)
        self._begun = True
        self._hooks = [each.register_step_post_hook(lambda *_: project(weights)) for each in trainer.optimizers]

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for hook in self._hooks:
            hook.remove()
