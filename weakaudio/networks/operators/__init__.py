"""Operators, the building blocks of FlashCNN's stages; each keeps the shape of a map.

`dense`, `inverted`, `large-kernel` and `frequency` are convolutions with a receptive field of a few rows; `attention`
and `recurrence` span the whole clip. To add one, subclass `Operator` in a new file and list it in `OPERATORS`.
"""

from __future__ import annotations

from weakaudio.networks.operators.attention import Attention
from weakaudio.networks.operators.dense import DenseBlock
from weakaudio.networks.operators.frequency import FrequencyBlock
from weakaudio.networks.operators.inverted import InvertedResidual
from weakaudio.networks.operators.large_kernel import LargeKernelBlock
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
