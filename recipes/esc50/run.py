"""Five-fold transfer to ESC-50 (16 kHz) and ESC-10 (44.1 kHz): references and, if given, trained models.

python -m recipes.esc50.run --data ../shared/data
python -m recipes.esc50.run --data ../shared/data --model runs/soundscapes/weak-20/model.safetensors
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from data_prep.esc50 import prepare
from recipes.results import ROOT, Row, record
from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.transfer.command import Features, cross_validate_manifest
from weakaudio.transfer.features import EmbeddingTransformer, LogMelStatistics

FIVE, LAST = "five folds (%)", "fold 5 alone (%)"
SEEN = (
    "trained on soundscapes made of folds 1 to 3, with their labels, and its epoch chosen on fold 4: "
    "only fold 5 is new to this network"
)


@dataclass(frozen=True)
class Corpus:
    """A data set, where it lies below the folder of data, and what is measured on it without training."""

    name: str
    folder: str
    data: str
    front_end: str
    untrained: tuple[str, ...]


CORPORA = (
    Corpus("ESC-50", "esc50-16k", "ESC-50 at 16 kHz", "16k", ("untrained-16k",)),
    Corpus("ESC-10", "esc10-44k", "ESC-10 at 44.1 kHz", "paper-44k", ("untrained-16k", "untrained-44k")),
)


@dataclass(frozen=True)
class System:
    """What stands in a line of the table."""

    name: str
    features: Features
    classifier: str
    note: str | None = None
    """of the figure over five folds"""


def systems(corpus: Corpus, models: Sequence[str]) -> Iterator[System]:
    """References first, then each trained model in its four representations."""
    statistics = LogMelStatistics(corpus.front_end)
    yield System(f"log-mel statistics ({corpus.front_end}), RBF SVM", statistics, "rbf-svm")
    for name in corpus.untrained:
        yield System(f"N_S {name}, F1 mean, linear SVM", EmbeddingTransformer(name), "linear-svm")
    for model in models:
        for layer in ("f1", "f2"):
            for pooling in ("mean", "max"):
                run = Path(model).parent.name
                name = f"N_S trained on soundscapes ({run}), {layer.upper()} {pooling}, linear SVM"
                yield System(name, EmbeddingTransformer(model, layer, pooling), "linear-svm", SEEN)


def measure(clips: Manifest, corpus: Corpus, system: System, command: str) -> list[Row]:
    """Rows for `recipes.results`: accuracy in percent over five folds, and on fold 5 alone."""
    scores = cross_validate_manifest(clips, system.features, system.classifier, allow_shared_sources=True)
    facts = {"what": corpus.name, "system": system.name, "data": corpus.data, "command": command}
    five = {
        "value": 100 * scores.mean,
        "spread": 100 * scores.std,
        "n": len(scores.accuracies),
        "note": system.note,
    }
    return [{**facts, "metric": FIVE, **five}, {**facts, "metric": LAST, "value": 100 * scores.accuracies[5]}]


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.esc50.run", description="Transfer to ESC-50 and ESC-10.")
    parser.add_argument("--data", required=True, help="folder that holds esc50-16k/ and esc10-44k/")
    trained = "a model trained by recipes/soundscapes, in the folder of its run; may be given several times"
    parser.add_argument("--model", action="append", default=[], help=trained)
    parser.add_argument("--work", default="runs/esc50", help="folder for the manifests")
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.esc50.run", *(sys.argv[1:] if args is None else args)])
    console = Console()
    for corpus in CORPORA:
        work = Path(given.work) / corpus.folder
        prepare(str(Path(given.data) / corpus.folder), str(work))
        clips = read_manifest(work / MANIFEST)
        for system in systems(corpus, given.model):
            five, last = rows = measure(clips, corpus, system, command)
            console.print(
                f"{corpus.name}, {system.name}: {five['value']:.1f} ± {five['spread']:.1f} %, "
                f"fold 5 {last['value']:.1f} %"
            )
            record("esc50", rows, root)


if __name__ == "__main__":
    main()
