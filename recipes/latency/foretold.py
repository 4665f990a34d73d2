"""How well the sum of a network's pieces foretells its latency, on this device.

    python -m recipes.latency.foretold --table runs/latency/table.json
    python -m recipes.latency.foretold --table runs/latency/int8-half.json --int8 --every 2

On an idle machine. Pieces that the table lacks are measured first, as by `weakaudio search profile`; then random
networks of the search space, as a whole.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from recipes.results import ROOT, Row, record
from weakaudio.audio.frontend import decimated, get_front_end
from weakaudio.deploy.benchmark import describe, use_threads
from weakaudio.errors import WeakAudioError
from weakaudio.nas.latency_model import ClipLatency, Validation, random_configs, validate
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.search_space import SearchSpace

BATCHES = (1, 8)
FRONT_END = "efficientat-32k"


def rows(found: Validation, system: str, batch: int, data: str, note: str | None = None) -> Iterator[Row]:
    """Rows for `recipes.results`, but for the command."""
    facts = {"what": "foretold latency", "system": system, "data": data, "n": len(found.configs), "note": note}
    yield {**facts, "metric": "median error (%)", "value": 100 * found.median}
    yield {**facts, "metric": "90th percentile (%)", "value": 100 * found.percentile_90}
    yield {**facts, "metric": "common factor", "value": found.factor}
    yield {**facts, "metric": "median error beside it (%)", "value": 100 * found.median_beside_factor}
    low, high = found.measured.min() / batch, found.measured.max() / batch
    yield {**facts, "metric": "fastest (ms a clip)", "value": 1000 * low}
    yield {**facts, "metric": "slowest (ms a clip)", "value": 1000 * high}


def main(args: Sequence[str] | None = None, root: Path = ROOT, space: SearchSpace | None = None) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.latency.foretold", description="Error of foretold latency.")
    parser.add_argument("--table", type=Path, required=True, help="latency table, made or completed: .json")
    parser.add_argument("--networks", type=int, default=30, help="that are measured as a whole")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a clip")
    parser.add_argument("--threads", type=int, default=2, help="of the processor")
    parser.add_argument("--int8", action="store_true", help="networks in 8 bits on ONNX Runtime")
    parser.add_argument("--every", type=int, default=1, help="networks that hear every k-th frame")
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.latency.foretold", *(sys.argv[1:] if args is None else args)])
    space = space or SearchSpace()
    with use_threads(given.threads):
        here = describe(torch.device("cpu"), int8=given.int8)
    front_end = decimated(get_front_end(FRONT_END), given.every)
    way = ("in 8 bits, " if given.int8 else "") + (f"every {given.every} frames, " if given.every > 1 else "")
    data = f"random networks of the search space, clips of {given.seconds:g} s, {replace(here, onnxruntime=None)}"
    table = LatencyTable.load(given.table, here) if given.table.exists() else LatencyTable(here)
    for batch in BATCHES:
        latency = ClipLatency(table, front_end, given.seconds, batch)
        latency.complete([genome.to_config() for genome in space.covering()], given.table)
        runnable = latency.runnable(space)
        configs = random_configs(given.networks, n_mels=front_end.n_mels, space=runnable, runs=latency.runs)
        found = validate(table, configs, front_end, given.seconds, batch)
        system = f"{way}batch {batch}"
        Console().print(f"{system}: {found}")
        found_rows = rows(found, system, batch, data, here.onnxruntime and f"ONNX Runtime {here.onnxruntime}")
        record("latency", [{**row, "command": command} for row in found_rows], root)


if __name__ == "__main__":
    try:
        main()
    except WeakAudioError as error:
        sys.exit(f"foretold: {error}")
