"""Transfer to ESC-50, ESC-10, UrbanSound8K and synthetic scenes: one table for each.

    python -m recipes.transfer.run --data ../shared/data
    python -m recipes.transfer.run --data ../shared/data --model weakaudio-base --preset I

Without a model, the references; with one, the network frozen, and with presets also adapted.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from recipes.results import ROOT, Row, record
from recipes.transfer.corpora import CORPORA, Corpus
from recipes.transfer.systems import Subject, adapted, frozen, references
from weakaudio.errors import WeakAudioError
from weakaudio.networks.runtime import DTYPES
from weakaudio.transfer.cross_validation import FoldScores
from weakaudio.transfer.fine_tune import PRESETS, FineTuneConfig

ALL = "all folds (%)"


def rows(corpus: Corpus, system: str, scores: FoldScores, note: str | None) -> Iterator[Row]:
    """Rows for `recipes.results`, but for the command; `note` is of the figure over all folds."""
    row = {"what": corpus.name, "system": system, "data": corpus.data}
    spread = {"spread": 100 * scores.std, "n": len(scores.accuracies)}
    yield {**row, "metric": ALL, "value": 100 * scores.mean, **spread, "note": note}
    if corpus.new_fold is not None:
        accuracy = scores.accuracies[corpus.new_fold]
        yield {**row, "metric": f"fold {corpus.new_fold} alone (%)", "value": 100 * accuracy}


def measure(
    corpus: Corpus, model: str | None, presets: Sequence[str], practice: FineTuneConfig, data: Path, work: Path
) -> Iterator[list[Row]]:
    """The rows of each system, as they are measured."""
    manifest = corpus.read(data, work)
    if model is None:
        for system, scores in references(corpus, manifest):
            yield list(rows(corpus, system, scores, None))
        return
    subject = Subject.open(model, manifest)
    note = corpus.heard.get(subject.name)
    for found in (frozen(subject), adapted(subject, presets, practice)):
        for system, scores in found:
            yield list(rows(corpus, system, scores, note))


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.transfer.run", description="Transfer to other classes.")
    parser.add_argument(
        "--data", required=True, help="folder with esc50-16k/, esc10-44k/, urbansound8k/, backgrounds/"
    )
    parser.add_argument("--model", help="name or path of a model; without, the references")
    parser.add_argument(
        "--preset", nargs="+", default=[], choices=PRESETS, help="adapt it as well, by each of these presets"
    )
    names = [corpus.name for corpus in CORPORA]
    parser.add_argument("--corpus", nargs="+", default=names, choices=names, help="all if not given")
    parser.add_argument("--epochs", type=int, default=FineTuneConfig.epochs, help="at most, of each adaptation")
    parser.add_argument("--dtype", default=FineTuneConfig.dtype, choices=("auto", *DTYPES), help="of each adaptation")
    parser.add_argument("--work", default="runs/transfer", help="folder for the manifests and the scenes")
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.transfer.run", *(sys.argv[1:] if args is None else args)])
    practice = replace(FineTuneConfig(), epochs=given.epochs, dtype=given.dtype)
    for corpus in (corpus for corpus in CORPORA if corpus.name in given.corpus):
        for measured in measure(corpus, given.model, given.preset, practice, Path(given.data), Path(given.work)):
            record("transfer", [{**row, "command": command} for row in measured], root)
            for row in measured:
                Console().print(f"{corpus.name}: {row['system']}, {row['metric']}: {row['value']:.1f}")


if __name__ == "__main__":
    try:
        main()
    except WeakAudioError as error:
        sys.exit(f"transfer: {error}")
