"""What depth and width are worth: a grid of short trainings, and how well a law foretells the corners it did not see.

    python -m recipes.latency.law --teacher MODEL --corpus CORPUS=0.8 AMBIENCES=0.2

The same as `weakaudio search law`, without a budget; a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from recipes.results import ROOT, Row, record
from weakaudio.errors import WeakAudioError
from weakaudio.nas.proxies import ShortTraining, read_corpora
from weakaudio.nas.scaling_law import Law, fit_law, held_out_error, measure_grid
from weakaudio.nas.scaling_report import law_page
from weakaudio.reports.html import write_page

DEPTHS, WIDTHS = (1.0, 2.0, 3.0), (0.25, 0.5, 0.75, 1.0)  # that rounding leaves as they are


def rows(grid: pd.DataFrame, law: Law, held_out: pd.DataFrame, data: str) -> Iterator[Row]:
    """Rows for `recipes.results`, but for the command."""
    facts = {"what": "depth and width", "data": data}
    for depth, width, loss, parameters, _ in grid.itertuples(index=False):
        row = {**facts, "system": f"depth {depth:g}, width {width:g}"}
        yield {**row, "metric": "loss", "value": loss}
        yield {**row, "metric": "parameters (M)", "value": parameters / 1e6}
        yield {**row, "metric": "loss by the law", "value": float(law.predict(depth, width))}
    for depth, width, _, _, error in held_out.itertuples(index=False):
        row = {**facts, "system": f"depth {depth:g}, width {width:g}"}
        yield {**row, "metric": "error of a law that did not see it (%)", "value": 100 * error}


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.latency.law", description="What depth and width are worth.")
    parser.add_argument("--teacher", required=True, help="name or path of a model")
    parser.add_argument("--corpus", nargs="+", required=True, help="FOLDER=WEIGHT of prepared corpora")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--depth", type=float, nargs="+", default=list(DEPTHS), help="times the default network's")
    parser.add_argument("--width", type=float, nargs="+", default=list(WIDTHS), help="times the default network's")
    parser.add_argument("--workers", type=int, default=1, help="processes that mix")
    parser.add_argument("--out", type=Path, default=Path("runs/latency/law"), help="folder for the grid and the page")
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.latency.law", *(sys.argv[1:] if args is None else args)])
    training = ShortTraining(given.teacher, read_corpora(given.corpus), given.steps, workers=given.workers)
    training.check()
    points = list(itertools.product(given.depth, given.width))
    grid = measure_grid(points, training, given.out / "grid.csv", training.settings)
    measured = grid["depth"], grid["width"], grid["loss"]
    law, held_out = fit_law(*measured), held_out_error(*measured)
    write_page(law_page(grid, law, held_out), given.out / "law.html")
    data = f"{given.steps} steps of {training.batch_size} mixtures of {training.seconds:g} s"
    record("latency", [{**row, "command": command} for row in rows(grid, law, held_out, data)], root)
    worst = held_out["error"].abs().max()
    Console().print(f"{law}\nthe greatest error on corners that the law did not see: {worst:.1%} of the loss")


if __name__ == "__main__":
    try:
        main()
    except WeakAudioError as error:
        sys.exit(f"law: {error}")
