"""Transfer to ESC-50, ESC-10, UrbanSound8K and synthetic scenes: one table for each.

    python -m recipes.transfer.run --data ../shared/data
    python -m recipes.transfer.run --data ../shared/data --model weakaudio-base --preset I

Without a model, the references; with one, the network frozen, and with presets also fine-tuned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from recipes.command import command, over_folds
from recipes.results import Row
from recipes.transfer.corpora import CORPORA, Corpus
from recipes.transfer.systems import Subject, fine_tuned, frozen, references
from weakaudio.errors import WeakAudioError
from weakaudio.transfer.cross_validation import FoldScores
from weakaudio.transfer.fine_tune import FineTuneConfig

ALL = "all folds (%)"


def rows(corpus: Corpus, system: str, scores: FoldScores, note: str | None) -> Iterator[Row]:
    """Accuracy over all folds, to which `note` belongs, and on the fold that no network was trained on."""
    row = {"what": corpus.name, "system": system, "data": corpus.data}
    yield {**row, "metric": ALL, **over_folds(scores), "note": note}
    if corpus.unseen_fold is not None:
        accuracy = scores.accuracies[corpus.unseen_fold]
        yield {**row, "metric": f"fold {corpus.unseen_fold} alone (%)", "value": 100 * accuracy}


@command("transfer")
def main(
    data: Annotated[Path, "folder with esc50-16k/, esc10-44k/, urbansound8k/ and backgrounds/"],
    model: Annotated[str | None, "name or path of a model; without it, the references"] = None,
    preset: Annotated[Sequence[str], "also fine-tune it, by each of these presets"] = (),
    corpus: Annotated[Sequence[str], "names of the tables"] = tuple(corpus.name for corpus in CORPORA),
    epochs: Annotated[int, "of each fine-tuning, at most"] = FineTuneConfig.epochs,
    dtype: Annotated[str, "of each fine-tuning"] = FineTuneConfig.dtype,
    work: Annotated[Path, "folder for the manifests and the scenes"] = Path("runs/transfer"),
) -> Iterator[Row]:
    """Measure transfer to other classes."""
    config = replace(FineTuneConfig(), epochs=epochs, dtype=dtype)
    known = {one.name: one for one in CORPORA}
    if not known.keys() >= set(corpus):
        raise WeakAudioError(f"--corpus {' '.join(corpus)}: expected some of {', '.join(known)}")
    for one in (known[name] for name in corpus):
        manifest = one.read(data, work)
        if model is None:
            for system, scores in references(one, manifest):
                yield from rows(one, system, scores, None)
            continue
        subject = Subject.open(model, manifest)
        for found in (frozen(subject), fine_tuned(subject, preset, config)):
            for system, scores in found:
                yield from rows(one, system, scores, one.trained_on.get(subject.name))


if __name__ == "__main__":
    raise SystemExit(main())
