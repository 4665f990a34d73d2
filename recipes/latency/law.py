"""Scaling law of depth and width: a grid of short trainings, and a law that predicts corners it was not fitted to.

    python -m recipes.latency.law --teacher MODEL --corpus CORPUS=0.8 AMBIENCES=0.2

As `weakaudio search law`, without a budget; a killed run resumes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd

from recipes.command import command
from recipes.results import Row
from weakaudio.nas.proxies import ShortTraining, read_corpora
from weakaudio.nas.scaling_law import Law, fit_law, held_out_error, measure_grid
from weakaudio.nas.scaling_report import law_page
from weakaudio.reports.html import write_page


def rows(grid: pd.DataFrame, law: Law, held_out: pd.DataFrame, data: str) -> Iterator[Row]:
    """Loss, size and predicted loss of each point of the grid, and the error of a law that was fitted without it."""
    row = {"what": "depth and width", "data": data}
    for depth, width, loss, parameters, _ in grid.itertuples(index=False):
        row["system"] = f"depth {depth:g}, width {width:g}"
        found = {"loss": loss, "parameters (M)": parameters / 1e6, "predicted loss": float(law.predict(depth, width))}
        yield from ({**row, "metric": metric, "value": value} for metric, value in found.items())
    for depth, width, _, _, error in held_out.itertuples(index=False):
        row["system"] = f"depth {depth:g}, width {width:g}"
        yield {**row, "metric": "held-out prediction error (%)", "value": 100 * error}


@command("latency")
def main(
    teacher: Annotated[str, "name or path of a model"],
    corpus: Annotated[Sequence[str], "FOLDER=WEIGHT of prepared corpora"],
    steps: Annotated[int, "of each training"] = 300,
    depth: Annotated[Sequence[float], "relative to the default network"] = (1.0, 2.0, 3.0),
    width: Annotated[Sequence[float], "relative to the default network"] = (0.25, 0.5, 0.75, 1.0),
    workers: Annotated[int, "processes that mix"] = 1,
    out: Annotated[Path, "folder for the grid and the page"] = Path("runs/latency/law"),
) -> Iterator[Row]:
    """Measure what depth and width are worth."""
    training = ShortTraining(teacher, read_corpora(list(corpus)), steps, workers=workers)
    training.check()
    points = list(itertools.product(depth, width))
    grid = measure_grid(points, training, out / "grid.csv", training.settings)
    measured = grid["depth"], grid["width"], grid["loss"]
    law, held_out = fit_law(*measured), held_out_error(*measured)
    write_page(law_page(grid, law, held_out), out / "law.html")
    yield from rows(grid, law, held_out, f"{steps} steps of {training.batch_size} mixtures of {training.seconds:g} s")


if __name__ == "__main__":
    raise SystemExit(main())
