"""Measure a model on AudioSet, class by class, beside the paper's figures.

python -m recipes.audioset.evaluate MODEL CORPUS --split eval --out FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from weakaudio_data_prep.audioset import SPLITS

from recipes.audioset.figure import per_class_figure
from weakaudio.data.corpus import Corpus
from weakaudio.errors import ManifestError, StoreError, WeakAudioError
from weakaudio.evaluation.corpus import evaluate
from weakaudio.evaluation.tagging import TaggingMetrics
from weakaudio.files import atomic_write
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model

FIGURE = "per_class.png"

# mAP and mAUC, of arXiv 1711.01369.
PAPER = {"N_S, the paper's *": (0.213, 0.927), "SLAT, the paper's *": (0.167, 0.915)}
MARK = "* the paper's, on its own download of AudioSet, not run here: trained on balanced_train, measured on eval"


def training_positives(model: Model, corpus: Corpus) -> pd.Series | None:
    """Clips that hold each class, by its name, among those the model was trained on.

    None where this is not known: the model says of another corpus that it was trained on it, or the corpus no longer
    has those clips.
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
    """What was measured, what scores that know nothing would have, and the paper's figures."""
    table = Table("system", "mAP", "mAUC", "d'", "lwlrap")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row(
        escape(name), f"{clip.mean_ap:.3f}", f"{clip.mean_auc:.3f}", f"{clip.d_prime:.2f}", f"{clip.lwlrap:.3f}"
    )
    table.add_row("knows nothing", f"{clip.prevalence:.3f}", "0.500", "0.00", "")
    for system, (mean_ap, mean_auc) in PAPER.items():
        table.add_row(system, f"{mean_ap:.3f}", f"{mean_auc:.3f}", "", "")
    return table


def main(args: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser("python -m recipes.audioset.evaluate", description="Measure, class by class.")
    parser.add_argument("model", help="path of a model file, or a name of `weakaudio models`")
    parser.add_argument("corpus", type=Path, help="folder of `weakaudio prepare audioset`")
    split = "AudioSet's list eval, which is split test of the corpus, or a split of the corpus (eval)"
    parser.add_argument("--split", default="eval", help=split)
    parser.add_argument("--out", type=Path, required=True, help="folder for metrics.json, per_class.csv and .png")
    options = parser.parse_args(args)
    console = Console()
    try:
        model, corpus = load_model(options.model), Corpus(options.corpus)
        where = {"split": SPLITS.get(options.split, options.split)}
        device = "cuda" if torch.cuda.is_available() else "cpu"
        found = evaluate(model, corpus, where, thresholds_from=None, device=device)
        found.save(options.out)
        figure = per_class_figure(found.per_class, training_positives(model, corpus))
        with atomic_write(options.out / FIGURE) as beside:
            figure.savefig(beside, format="png", dpi=150)
    except WeakAudioError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    console.print(results_table(Path(options.model).parent.name or options.model, found.clip))
    console.print(MARK, markup=False, highlight=False)
    console.print(
        f"{found.clip.n_clips} clips of split {where['split']}; means over the {found.clip.n_classes} of "
        f"{len(model.labels)} classes that occur in them -> {options.out}",
        markup=False,
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
