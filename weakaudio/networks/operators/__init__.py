"""What the stages of a flash network are built from: blocks that keep a map's shape, for a device to choose from.

`dense`, `inverted`, `large-kernel` and `frequency` are convolutions and see a few rows around each; `attention` and
`recurrence` see the whole clip, over the time axis.
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
