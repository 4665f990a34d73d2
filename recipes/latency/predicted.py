"""Accuracy of predicted latencies, the sums of component latencies, on this device.

    python -m recipes.latency.predicted --table runs/latency/table.json
    python -m recipes.latency.predicted --table runs/latency/int8-half.json --int8 --every 2

On an idle machine. Runs `weakaudio search profile --validate` for one clip and for eight: components that the table
lacks are measured first, then whole random networks of the search space.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd

from recipes.command import command
from recipes.results import Row
from weakaudio.cli.search import profile
from weakaudio.nas.latency_model import Validation
from weakaudio.nas.latency_table import LatencyTable

BATCHES = (1, 8)
FRONT_END = "efficientat-32k"


def figures(found: Validation, batch: int) -> dict[str, float]:
    """Errors in percent, and the range of measured latencies in milliseconds per clip."""
    return {
        "median error (%)": 100 * found.median,
        "90th percentile (%)": 100 * found.percentile_90,
        "common factor": found.factor,
        "median error without it (%)": 100 * found.median_beside_factor,
        "fastest (ms a clip)": 1000 * float(found.measured.min()) / batch,
        "slowest (ms a clip)": 1000 * float(found.measured.max()) / batch,
    }


@command("latency")
def main(
    table: Annotated[Path, "latency table to write or to complete, .json"],
    networks: Annotated[int, "number of networks that are measured as a whole"] = 30,
    seconds: Annotated[float, "length of a clip"] = 10.0,
    threads: Annotated[int, "of the processor"] = 2,
    int8: Annotated[bool, "networks in int8 on ONNX Runtime"] = False,
    every: Annotated[int, "frame stride: networks of every k-th frame"] = 1,
) -> Iterator[Row]:
    """Measure the error of predicted latency."""
    front_end = FRONT_END if every == 1 else f"{FRONT_END}/{every}"
    prefix = ("int8, " if int8 else "") + (f"frame stride {every}, " if every > 1 else "")
    for batch in BATCHES:
        csv = table.with_name(f"{table.stem}-batch{batch}.csv")
        profile(table, front_end, seconds, batch, threads, int8=int8, validate=networks, csv=csv)
        measured, runtime = pd.read_csv(csv), LatencyTable.load(table).device.onnxruntime
        found = Validation([], measured["predicted"].to_numpy(), measured["measured"].to_numpy())
        row = {"what": "predicted latency", "system": f"{prefix}batch {batch}", "n": len(measured)}
        row["data"] = f"random networks of the search space, clips of {seconds:g} s, {threads} threads"
        row["note"] = runtime and f"ONNX Runtime {runtime}"
        for metric, value in figures(found, batch).items():
            yield {**row, "metric": metric, "value": value}


if __name__ == "__main__":
    raise SystemExit(main())
