"""How well the sum of a network's pieces foretells its latency, on this device.

    python -m recipes.latency.foretold --table runs/latency/table.json

On an idle machine. Pieces that the table lacks are measured first, as by `weakaudio search profile`; then random
networks of the search space, as a whole.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from recipes.results import ROOT, Row, record
from weakaudio.audio.logmel import get_front_end
from weakaudio.errors import WeakAudioError
from weakaudio.latency.clip_latency import ClipLatency
from weakaudio.latency.device import describe, use_threads
from weakaudio.latency.genome import Space
from weakaudio.latency.predict import Validation, random_configs, validate
from weakaudio.latency.table import LatencyTable

BATCHES = (1, 8)
FRONT_END = "efficientat-32k"


def rows(found: Validation, batch: int, seconds: float, about: str) -> Iterator[Row]:
    """Rows for `recipes.results`, but for the command."""
    facts = {"what": "foretold latency", "system": f"batch {batch}", "n": len(found.configs)}
    facts["data"] = f"random networks of the search space, clips of {seconds:g} s, {about}"
    yield {**facts, "metric": "median error (%)", "value": 100 * found.median}
    yield {**facts, "metric": "90th percentile (%)", "value": 100 * found.percentile_90}
    low, high = found.measured.min() / batch, found.measured.max() / batch
    yield {**facts, "metric": "fastest (ms a clip)", "value": 1000 * low}
    yield {**facts, "metric": "slowest (ms a clip)", "value": 1000 * high}


def main(args: Sequence[str] | None = None, root: Path = ROOT, space: Space | None = None) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.latency.foretold", description="Error of foretold latency.")
    parser.add_argument("--table", type=Path, required=True, help="latency table, made or completed: .json")
    parser.add_argument("--networks", type=int, default=30, help="that are measured as a whole")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a clip")
    parser.add_argument("--threads", type=int, default=2, help="of the processor")
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.latency.foretold", *(sys.argv[1:] if args is None else args)])
    space = space or Space()
    with use_threads(given.threads):
        here = describe(torch.device("cpu"))
    table = LatencyTable.load(given.table, here) if given.table.exists() else LatencyTable(here)
    for batch in BATCHES:
        latency = ClipLatency(table, FRONT_END, given.seconds, batch)
        latency.complete([genome.to_config() for genome in space.covering()], given.table)
        n_mels = get_front_end(FRONT_END).n_mels
        configs = random_configs(given.networks, n_mels=n_mels, space=latency.runnable(space), runs=latency.runs)
        found = validate(table, configs, FRONT_END, given.seconds, batch)
        Console().print(f"batch {batch}: {found}")
        record("latency", [{**row, "command": command} for row in rows(found, batch, given.seconds, str(here))], root)


if __name__ == "__main__":
    try:
        main()
    except WeakAudioError as error:
        sys.exit(f"foretold: {error}")
