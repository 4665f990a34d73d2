"""Speed against plain references in the same run.

python -m recipes.benchmark.run            measure and record (minutes; on an idle machine)
python -m recipes.benchmark.run --quick    everything once at a tiny size; records nothing

With --segments LIST, padding is measured on the lengths of one of AudioSet's segment lists as well. With --data
FOLDER, detection from files to a table is measured on real clips; with --yamnet FILE, YAMNet's TFLite file beside it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from recipes.benchmark import files, front_end, inference, loading, packing, padding, start, training
from recipes.benchmark.compare import QUICK, Comparison, Scale
from recipes.results import Row, record

SPEED, RATIO = "audio s/s", "times the reference"
_COMMAND = "python -m recipes.benchmark.run"
_PARTS = (front_end, inference, training, packing, loading)


def measure(scale: Scale, segments: Path | None = None) -> list[Row]:
    """Rows for `recipes.results` but for the command, of all parts in turn, with `scale.threads` threads.

    Parameters
    ----------
    segments
        A segment list of AudioSet, for the padding on its lengths.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(scale.threads)
    try:
        found = [row for part in _PARTS for comparison in part.measure(scale) for row in rows(comparison)]
    finally:
        torch.set_num_threads(threads)
    return [*found, *padding.measure(segments), *start.measure(scale.repeats)]


def measure_files(scale: Scale, data: Path, yamnet: Path | None) -> list[Row]:
    """Rows for `recipes.results` but for the command, of detection from files."""
    threads = torch.get_num_threads()
    torch.set_num_threads(scale.threads)
    try:
        return [row for comparison in files.measure(scale, data, yamnet) for row in rows(comparison)]
    finally:
        torch.set_num_threads(threads)


def rows(comparison: Comparison) -> list[Row]:
    """Speed (median) of reference and systems, and ratio (median, half the interquartile range as spread)."""
    facts = {"what": comparison.what, "data": comparison.data}
    found: list[Row] = [
        {
            **facts,
            "system": f"{comparison.reference} (reference)",
            "metric": SPEED,
            "value": comparison.reference_speed,
        }
    ]
    for system, speed in comparison.speeds.items():
        low, ratio, high = np.percentile(comparison.ratios[system], [25, 50, 75])
        found.append({**facts, "system": system, "metric": SPEED, "value": speed})
        ratios = {"value": float(ratio), "spread": float(high - low) / 2, "n": len(comparison.ratios[system])}
        found.append({**facts, "system": system, "metric": RATIO, **ratios})
    return found


def show(found: Sequence[Row]) -> None:
    """A table on standard output."""
    table = Table("what", "system", "metric", "value", "spread")
    for row in found:
        spread = f"{row['spread']:.2f}" if "spread" in row else ""
        table.add_row(row["what"], row["system"], row["metric"], f"{row['value']:.4g}", spread)
    Console().print(table)


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(_COMMAND, description="Speed against plain references in the same run.")
    parser.add_argument("--quick", action="store_true", help="everything once, tiny; records nothing")
    parser.add_argument("--data", type=Path, help="folder that holds esc50-16k/, for detection from files to a table")
    parser.add_argument("--yamnet", type=Path, help="yamnet.tflite, to be measured beside; needs ai-edge-litert")
    parser.add_argument("--only-files", action="store_true", help="measure detection from files alone")
    parser.add_argument("--segments", type=Path, help="a segment list of AudioSet, for the padding on its lengths")
    options = parser.parse_args(args)
    scale = QUICK if options.quick else Scale()
    found = [] if options.only_files else measure(scale, options.segments)
    if options.data:
        found += measure_files(scale, options.data, options.yamnet)
    show(found)
    if not options.quick:
        command = shlex.join([*_COMMAND.split(), *(sys.argv[1:] if args is None else args)])
        record("benchmark", [{**row, "command": command} for row in found])


if __name__ == "__main__":
    main()
