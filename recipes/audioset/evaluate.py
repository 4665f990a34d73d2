"""Evaluate a model on AudioSet, class by class, next to the paper's figures.

python -m recipes.audioset.evaluate MODEL CORPUS --split eval --out FOLDER
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from weakaudio_data_prep.audioset import SPLITS

from recipes.audioset.figure import per_class_figure
from recipes.command import command, run_name
from weakaudio.data.corpus import Corpus
from weakaudio.errors import ManifestError, StoreError
from weakaudio.evaluation.corpus import evaluate
from weakaudio.evaluation.tagging import TaggingMetrics
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device
from weakaudio.pretrained.registry import load_model
from weakaudio.reports.figures import save_figure

# mAP and mAUC, of arXiv 1711.01369.
PAPER = {"N_S, the paper's *": (0.213, 0.927), "SLAT, the paper's *": (0.167, 0.915)}
MARK = "* the paper's, on its own download of AudioSet, not run here: trained on balanced_train, evaluated on eval"


def training_positives(model: Model, corpus: Corpus) -> pd.Series | None:
    """Positive training clips of each class, by its name.

    None where this is not known: the model was trained on another corpus, or the corpus no longer has those clips.
    """
    where = model.metadata.get("train")
    if where is None or model.metadata.get("corpus") != corpus.root.name:
        return None
    try:
        positions = corpus.select(where)
    except (ManifestError, StoreError):
        return None
    counts = Counter(name for n in positions for name in corpus.store.labels[n])
    return pd.Series({name: counts[name] for name in corpus.label_set.names})


def results_table(name: str, clip: TaggingMetrics) -> Table:
    """Metrics of the model, of chance, and of the paper's systems."""
    table = Table("system", "mAP", "mAUC", "d'", "lwlrap")
    for column in table.columns[1:]:
        column.justify = "right"
    values = f"{clip.mean_ap:.3f}", f"{clip.mean_auc:.3f}", f"{clip.d_prime:.2f}", f"{clip.lwlrap:.3f}"
    table.add_row(escape(name), *values)
    table.add_row("chance (class prevalence)", f"{clip.prevalence:.3f}", "0.500", "0.00", "")
    for system, (mean_ap, mean_auc) in PAPER.items():
        table.add_row(system, f"{mean_ap:.3f}", f"{mean_auc:.3f}", "", "")
    return table


@command()
def main(
    model: Annotated[str, "path of a model file, or a name of `weakaudio models`"],
    corpus: Annotated[Path, "folder of `weakaudio prepare audioset`"],
    /,
    *,
    out: Annotated[Path, "folder for metrics.json, per_class.csv and per_class.png"],
    split: Annotated[str, "AudioSet's list eval, which is split test of the corpus, or a split"] = "eval",
) -> None:
    """Evaluate a model class by class."""
    loaded, clips = load_model(model), Corpus(corpus)
    where = {"split": SPLITS.get(split, split)}
    found = evaluate(loaded, clips, where, thresholds_from=None, device=find_device("auto"))
    found.save(out)
    save_figure(per_class_figure(found.per_class, training_positives(loaded, clips)), out / "per_class.png")
    console, clip = Console(), found.clip
    console.print(results_table(run_name(model), clip))
    classes = f"means over the {clip.n_classes} of {len(loaded.labels)} classes that occur in them"
    lines = f"{MARK}\n{clip.n_clips} clips of split {where['split']}; {classes} -> {out}"
    console.print(lines, markup=False, highlight=False)


if __name__ == "__main__":
    raise SystemExit(main())
