"""The complete workflow on sounds whose truth is known, without a download.

    python -m recipes.demo.run            everything into runs/demo; minutes on two cores
    python -m recipes.demo.run --quick    everything at a tiny size: shows that it runs, measures nothing

What is finished in the folder is used again, and a stopped run resumes. To start from scratch, delete the folder or
name another with --out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from weakaudio_data_prep import soundscapes, synthetic

from recipes.command import command
from recipes.demo.page import Result, build, results_table
from weakaudio import Corpus, Embedder, cross_validate, load_model
from weakaudio.batch.embed import embed_folder
from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import read_manifest
from weakaudio.evaluation.corpus import evaluate
from weakaudio.formats.embeddings import read_embeddings
from weakaudio.reports.html import write_page
from weakaudio.training.fit import METRICS, MODEL, train
from weakaudio.transfer.classifiers import CLASSIFIERS
from weakaudio.transfer.cross_validation import FoldScores

SYSTEMS = {"N_S": "weak", "SLAT": "slat"}  # name on the page: name of its folder, and of its YAML here
REPORT = "report.html"

_HERE = Path(__file__).parent
_OTHER_SOUNDS = 1000  # added to the seed: the sounds of the transfer are not those of the soundscapes


@dataclass(frozen=True)
class Size:
    """Size of the demo."""

    sounds: int = 40
    """of each class"""
    train: int = 400
    """soundscapes"""
    val: int = 60
    test: int = 100
    overrides: tuple[str, ...] = ()
    """of the YAML files"""


QUICK = Size(sounds=10, train=10, val=6, test=8, overrides=("--trainer.max_epochs=1", "--data.workers=0"))


def mix_soundscapes(out: Path, size: Size, seed: int) -> Corpus:
    """Synthetic sounds, and soundscapes of them: folds 1 to 3 to train with, 4 to validate, 5 to test."""
    sounds, corpus = out / "sounds", out / "soundscapes"
    if not (corpus / MANIFEST).is_file():  # written last
        synthetic.prepare(str(sounds), size.sounds, seed=seed)
        soundscapes.prepare(str(sounds), str(corpus), train=size.train, val=size.val, test=size.test, seed=seed)
    return Corpus(corpus)


def train_and_evaluate(name: str, out: Path, corpus: Corpus, size: Size, seed: int) -> Result:
    """Train on weak labels with a YAML file, then evaluate on soundscapes of unseen sounds."""
    folder = out / name
    if not (folder / MODEL).is_file():
        config = f"--config={_HERE / f'demo_{name}.yaml'}"
        seeds = (f"--seed_everything={seed}", f"--data.seed={seed}")
        train([config, f"--data.root={corpus.root}", f"--out={folder}", *seeds, *size.overrides])
    model = load_model(folder / MODEL)
    evaluation = evaluate(model, corpus, where={"split": "test"}, thresholds_from={"split": "val"})
    evaluation.save(folder / "evaluation")
    return Result(model, pd.read_csv(folder / METRICS), evaluation)


def embed(out: Path, size: Size, seed: int) -> NDArray[np.float32]:
    """A folder of WAV files becomes an HDF5 file of embeddings, in the order of the folder's manifest."""
    recordings, path = out / "recordings", out / "embeddings.h5"
    if not path.is_file():
        synthetic.prepare(str(recordings), size.sounds, seed=seed + _OTHER_SOUNDS)
        embed_folder(Embedder.from_pretrained(out / SYSTEMS["N_S"] / MODEL), recordings, path, overwrite=True)
    table = read_embeddings(path)
    rows = {name: row for row, name in enumerate(table.paths)}
    return table.embeddings[[rows[name] for name in read_manifest(recordings / MANIFEST).table["path"]]]


def transfer(out: Path, embeddings: NDArray[np.float32]) -> FoldScores:
    """A linear SVM on the embeddings, tested on each of five folds in turn."""
    clips = read_manifest(out / "recordings" / MANIFEST).table
    classes = [labels[0] for labels in clips["labels"]]
    return cross_validate(CLASSIFIERS["linear-svm"](), embeddings, classes, clips["fold"])


def show(console: Console, results: Mapping[str, Result], folds: FoldScores) -> None:
    """Print the results."""
    found = results_table(results)
    table = Table(*found.columns)
    for row in found.itertuples(index=False):
        table.add_row(*("" if pd.isna(v) else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
    console.print(table)
    console.print(f"transfer of N_S's embeddings, linear SVM: {folds}")


@command()
def main(
    quick: Annotated[bool, "everything once, tiny; measures nothing"] = False,
    out: Annotated[Path | None, "folder (runs/demo, runs/demo-seedN or runs/demo-quick)"] = None,
    seed: Annotated[int, "of sounds, soundscapes and training"] = 1,
) -> None:
    """Run the complete workflow on sounds whose truth is known."""
    name = "demo-quick" if quick else "demo" if seed == 1 else f"demo-seed{seed}"
    folder, size, console = out or Path("runs") / name, QUICK if quick else Size(), Console()
    console.rule("1 of 4: synthesise sounds, mix soundscapes")
    corpus = mix_soundscapes(folder, size, seed)
    results = {}
    for n, (system, name) in enumerate(SYSTEMS.items(), 2):
        console.rule(f"{n} of 4: train and evaluate {system}")
        results[system] = train_and_evaluate(name, folder, corpus, size, seed)
    console.rule("4 of 4: embed a folder of WAV files, transfer over five folds")
    folds = transfer(folder, embed(folder, size, seed))
    words = f"python -m recipes.demo.run{' --quick' if quick else ''} --seed {seed}"
    write_page(build(corpus, results, folds, words), folder / REPORT)
    show(console, results, folds)
    console.print(f"report: {folder / REPORT}")


if __name__ == "__main__":
    raise SystemExit(main())
