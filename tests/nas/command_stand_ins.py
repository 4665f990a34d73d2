"""A space of a few networks, made-up times of all of it, and what the commands are given."""

from __future__ import annotations

from table_stand_ins import CPU, made_up

from weakaudio.deploy.benchmark import Device, describe
from weakaudio.nas.latency_model import ClipLatency
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.search_space import SearchSpace

SPACE = SearchSpace(
    operators=(("dense",), ("dense", "inverted"), ("dense", "attention"), ("dense", "inverted")),
    blocks=((1,), (1, 2), (1, 2), (1, 2)),
    channels=((8,), (8, 16), (16,), (16, 24)),
    features=(64, 768),
)
GIVEN: tuple[str, float, int] = ("efficientat-32k", 0.5, 2)
CLIPS = ("--seconds", "0.5", "--batch", "2")
SMALL = ("--population", "4", "--sample", "2", "--children", "3")


def measured(device: Device | None = None) -> LatencyTable:
    """All of the space, in times that are made up."""
    latency = ClipLatency(LatencyTable(device or describe(CPU)), *GIVEN)
    latency.table.times.update((key, made_up(key)) for key in latency.components(SPACE))
    return latency.table


def one_line(result: tuple[int, str, str]) -> str:
    """What is said of an error; a bar may have left empty lines."""
    code, _, err = result
    (line,) = err.strip().splitlines()
    assert code == 2
    return line.removeprefix("weakaudio: ")
