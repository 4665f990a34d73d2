"""Weights of unit norm: after each step of the optimiser they are brought back to length 1 (arXiv 2511.18890)."""

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
    """The layers of a network whose weights weight normalisation is about.

    They are all convolutions that batch normalisation follows, by filter, as that leaves a filter's scale free. This
    holds for depthwise filters as well: a channel is normalised by itself, whether its filter has seen one channel or
    all. What reads the residual stream in attention and recurrence, and what writes to it, are such convolutions,
    too; the paper's language models have no norm behind what writes, and project its columns.

    All others are exempt, as their scale means something: classifiers, layers that no norm follows, the gains and
    biases of norms, biases.
    """
    layers = [module for module in network.modules() if isinstance(module, ConvNorm)]
    return [layer for layer in layers if isinstance(layer.norm, nn.BatchNorm2d)]


@torch.no_grad()
def project(layers: Sequence[ConvNorm]) -> None:
    """Scale filters to unit norm, in place.

    Running statistics of the norm behind are scaled along, so that a network does the same as before, in evaluation
    also. Weights that are not trained stay as they are, and so do filters of zeros, which have no direction.
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
                f"weight normalisation: {type(pl_module).__name__} has no weight for it: no convolution that "
                "batch normalisation follows; train it without"
            )
        if not self._begun:
            project(weights)
        self._begun = True
        self._hooks = [each.register_step_post_hook(lambda *_: project(weights)) for each in trainer.optimizers]

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for hook in self._hooks:
            hook.remove()
