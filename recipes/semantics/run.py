"""Semantics of the classes of ESC-50 in a model: figures, tables and a page.

    python -m recipes.semantics.run --data ../shared/data --model MODEL --out runs/semantics

Writes report.html, each figure as PNG and SVG, and each table as CSV.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd

from recipes import esc50
from recipes.command import command
from recipes.semantics.page import Meaning, build, figures
from weakaudio import load_model
from weakaudio.data.manifest import Manifest
from weakaudio.errors import DataPrepError
from weakaudio.files import write_table
from weakaudio.inference.embedder import Embedder
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import model_checksum
from weakaudio.reports.figures import save_figure
from weakaudio.reports.html import write_page
from weakaudio.transfer import semantics

CORPUS, REPORT = "esc50-16k", "report.html"
GROUPS = ("animals", "nature, water", "human", "domestic", "urban")  # classes 0 to 9, 10 to 19, ...


def super_categories(folder: Path) -> dict[str, str]:
    """The super-category of each class of ESC-50: by the tens of its number, as published.

    Raises
    ------
    DataPrepError
        The folder lacks the classes' numbers.
    """
    listings = [path for path in (folder / "esc50.csv", folder / "meta" / "esc50.csv") if path.is_file()]
    rows = pd.read_csv(listings[0]) if listings else pd.DataFrame()
    if "target" not in rows or not rows["target"].isin(range(50)).all():
        raise DataPrepError(f"{folder}: no esc50.csv with a column 'target' of 0 to 49, the classes' numbers")
    pairs = zip(rows["category"].str.replace("_", " "), rows["target"], strict=True)
    return {name: GROUPS[number // 10] for name, number in pairs}


def measure(clips: Manifest, groups: dict[str, str], model: Model, seed: int = 0) -> Meaning:
    """All numbers of the page."""
    embedder = Embedder(model, "f1+f2", dtype="float32")
    X, probs = np.split(embedder.embed_files(clips.paths), [model.network.n_features], axis=1)
    table = clips.table.copy()
    table["labels"] = table["labels"].map(lambda labels: [name.replace("_", " ") for name in labels])
    y = [labels[0] for labels in table["labels"]]
    scores = esc50.score(X, Manifest(table, clips.root))
    similarities = semantics.class_similarities(semantics.class_embeddings(X, y))
    places = semantics.clip_map(X, seed)
    return Meaning(
        clips=pd.DataFrame({"path": table["path"], "class": y, "x": places[:, 0], "y": places[:, 1]}),
        groups=groups,
        similarities=similarities,
        tree=semantics.class_tree(similarities),
        nearest=semantics.nearest_classes(similarities),
        events=semantics.event_importance(probs, y, model.labels),
        n_events=len(model.labels),
        scores=scores,
        confused=semantics.confused_pairs(scores),
    )


def write(meaning: Meaning, out: Path, origin: str) -> None:
    """Write the page, its figures and its tables."""
    for name, table in meaning.tables().items():
        write_table(table, out / f"{name}.csv")
    drawn = figures(meaning)
    for name, figure in drawn.items():
        for suffix in (".png", ".svg"):
            save_figure(figure, out / f"{name}{suffix}")
    write_page(build(meaning, drawn, origin), out / REPORT)


@command()
def main(
    data: Annotated[Path, "folder that holds esc50-16k/"],
    model: Annotated[str, "path or name of a model"],
    out: Annotated[Path, "folder for the page, figures and tables"] = Path("runs/semantics"),
) -> None:
    """Show what the classes of ESC-50 mean to a model."""
    loaded = load_model(model)
    clips = esc50.prepared(data / CORPUS, out / CORPUS)
    meaning = measure(clips, super_categories(data / CORPUS), loaded)
    write(meaning, out, f"python -m recipes.semantics.run; {model}, SHA-256 of its weights: {model_checksum(loaded)}")
    print(f"report: {out / REPORT}")


if __name__ == "__main__":
    raise SystemExit(main())
