"""Learning curve of `weakaudio adapt`: its own estimate on ESC-50, with 5, 10, 20 and all labels of each class.

    python -m recipes.transfer.curve --data ../shared/data

The folds are those that `adapt` makes by recording, not the official ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from recipes import esc50
from recipes.command import command, over_folds, run_name
from recipes.results import Row
from weakaudio.data.corpus import MANIFEST
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.transfer.own_classes import adapt_folder


@command("transfer")
def main(
    data: Annotated[Path, "folder that holds esc50-16k/"],
    model: Annotated[str, "name or path of the model to start from"] = DEFAULT_MODEL,
    corpus: Annotated[str, "folder below --data, in a layout of ESC-50 or ESC-10"] = "esc50-16k",
    work: Annotated[Path, "folder for the manifest and the fine-tuned model"] = Path("runs/transfer"),
) -> Iterator[Row]:
    """Measure the learning curve of `weakaudio adapt`."""
    esc50.prepared(data / corpus, work / corpus)
    start = time.perf_counter()
    summary = adapt_folder(work / corpus / MANIFEST, work / "adapted" / "mine.safetensors", model)
    seconds, name = time.perf_counter() - start, run_name(model)
    about = f"{summary.n_clips} clips of {summary.n_classes} classes, {corpus}"
    row = {"what": "learning curve of adapt", "metric": f"{name}: accuracy (%)", "data": about}
    for labels, accuracy, std, n in summary.quality.curve.itertuples(index=False):
        yield {**row, "system": f"{labels} labels per class", "value": 100 * accuracy, "spread": 100 * std, "n": n}
    scores = summary.quality.scores
    n_folds = len(scores.accuracies)
    row["system"] = f"all ({n_folds - 1} of {n_folds} folds)"
    yield {**row, **over_folds(scores)}
    yield {**row, "metric": f"{name}: seconds, command", "value": seconds}


if __name__ == "__main__":
    raise SystemExit(main())
