"""Operators, the building blocks of FlashCNN's stages; each keeps the shape of a map.

`dense`, `inverted`, `large-kernel` and `frequency` are convolutions with a receptive field of a few rows; `attention`
and `recurrence` span the whole clip. To add one, subclass `Operator` and list it in `OPERATORS`.
"""

from __future__ import annotations

from weakaudio.networks.operators.attention import Attention
from weakaudio.networks.operators.convolutions import DenseBlock, FrequencyBlock, InvertedResidual, LargeKernelBlock
from weakaudio.networks.operators.operator import Operator
from weakaudio.networks.operators.recurrence import Recurrence

OPERATORS: dict[str, type[Operator]] = {
    "dense": DenseBlock,
    "inverted": InvertedResidual,
    "large-kernel": LargeKernelBlock,
    "frequency": FrequencyBlock,
    "attention": Attention,
    "recurrence": Recurrence,
}

__all__ = ["OPERATORS", "Operator"]
