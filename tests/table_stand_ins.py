"""A fictitious device, a network, a table of made-up times, and a simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from weakaudio.deploy.benchmark import Device
from weakaudio.nas.components import KINDS, Component
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.profile import complete

CPU = torch.device("cpu")
HERE = Device("cpu", "Toaster, AVX2", 2, 1, "2.11.0")
CONFIG: dict[str, Any] = {
    "n_classes": 5,
    "n_mels": 64,
    "stages": [["dense", 1, 4], ["dense", 0, 8], ["dense", 3, 8], ["dense", 1, 12]],
    "n_features": 7,
}
GIVEN: tuple[str, float, int] = ("16k", 1.37, 2)
KEY = Component("block", "dense", 8, 8, 25, 16, 2, 1.37, "float32")


class Machine:
    """A clock, and work that takes as long as it says."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def job() -> None:
            self.now += seconds

        return job


def made_up(key: Component) -> float:
    """Another number for each component."""
    return 1e-3 * (1 + KINDS.index(key.kind)) + 1e-5 * key.rows + 1e-6 * key.inputs + 1e-7 * key.outputs


def full(configs: list[dict[str, Any]]) -> LatencyTable:
    table = LatencyTable(HERE)
    complete(table, configs, *GIVEN, measure=made_up)
    return table
