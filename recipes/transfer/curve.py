"""How many labels `weakaudio adapt` takes: its own estimate on ESC-50, with 5, 10, 20 and all labels of each class.

    python -m recipes.transfer.curve --data ../shared/data

The folds are those that `adapt` makes by recording, not the official ones.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from weakaudio_data_prep.esc50 import prepare

from recipes.results import ROOT, Row, record
from weakaudio.data.corpus import MANIFEST
from weakaudio.errors import WeakAudioError
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.transfer.own_classes import AdaptSummary, adapt_folder

WHAT = "learning curve of adapt"


def rows(name: str, data: str, summary: AdaptSummary, seconds: float) -> Iterator[Row]:
    """Rows for `recipes.results`, but for the command."""
    row = {"what": WHAT, "metric": f"{name}: accuracy (%)", "data": data}
    for labels, accuracy, std, n in summary.quality.curve.itertuples(index=False):
        yield {**row, "system": f"{labels} labels a class", "value": 100 * accuracy, "spread": 100 * std, "n": n}
    scores = summary.quality.scores
    n_folds = len(scores.accuracies)
    whole = {"value": 100 * scores.mean, "spread": 100 * scores.std, "n": n_folds}
    yield {**row, "system": f"all but those of one of {n_folds} folds", **whole}
    took = {"metric": f"{name}: seconds, whole command", "value": seconds}
    yield {**row, "system": f"all but those of one of {n_folds} folds", **took}


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.transfer.curve", description="Learning curve of adapt.")
    parser.add_argument("--data", required=True, help="folder that holds esc50-16k/")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or path of the model to begin with")
    parser.add_argument("--corpus", default="esc50-16k", help="folder below --data, in a layout of ESC-50 or ESC-10")
    parser.add_argument("--work", default="runs/transfer", help="folder for the manifest and the adapted model")
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.transfer.curve", *(sys.argv[1:] if args is None else args)])
    folder = Path(given.work) / given.corpus
    prepare(str(Path(given.data) / given.corpus), str(folder))
    start = time.perf_counter()
    summary = adapt_folder(folder / MANIFEST, Path(given.work) / "adapted" / "mine.safetensors", given.model)
    seconds = time.perf_counter() - start
    data = f"{summary.n_clips} clips of {summary.n_classes} classes, {given.corpus}"
    measured = [{**row, "command": command} for row in rows(Path(given.model).stem, data, summary, seconds)]
    record("transfer", measured, root)
    Console().print(str(summary))


if __name__ == "__main__":
    try:
        main()
    except WeakAudioError as error:
        sys.exit(f"curve: {error}")
