"""Networks adapted to ESC-50 or ESC-10, fold by fold, and transductive transfer; recorded beside the frozen ones.

python -m recipes.esc50.adapted --data ../shared/data --model runs/soundscapes/weak-20/model.safetensors
python -m recipes.esc50.adapted --data ../shared/data --model weakaudio-base --preset full --preset head
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from data_prep.esc50 import prepare
from recipes.esc50.run import CORPORA, FIVE, LAST, Corpus
from recipes.results import ROOT, Row, record
from weakaudio.audio.io import read_audio
from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import read_manifest
from weakaudio.errors import WeakAudioError
from weakaudio.inference.embedding import Audio, Embedder
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model
from weakaudio.transfer.adapt import PRESETS, Practice
from weakaudio.transfer.adapted import HEARD, cross_validate_adapted
from weakaudio.transfer.folds import FoldScores, Protocol
from weakaudio.transfer.transductive import spread_labels, train_self

JUDGES: dict[str, Callable[[Any, Any, Any], NDArray[Any]]] = {
    "label spreading": spread_labels,
    "self-training": train_self,
}


def systems(
    name: str,
    model: Model,
    clips: Sequence[Audio],
    protocol: Protocol,
    presets: Sequence[str],
    practice: Practice,
    **facts: Any,
) -> Iterator[tuple[str, FoldScores]]:
    """Each line of the table, as it is measured."""
    X = np.stack([found.clip for found in Embedder(model).embed_clips(clips)])
    for judge, predict in JUDGES.items():
        found = {fold.name: predict(X[fold.train], fold.y, X[fold.test]) for fold in protocol}
        yield f"{name}, frozen F1 mean, {judge} (transductive)", protocol.score(found)
    for preset in presets:
        for heard in HEARD if preset == "II" else HEARD[:1]:
            scores = cross_validate_adapted(model, clips, preset=preset, practice=practice, heard=heard, **facts)
            how = f"{name}, adapted ({preset})" + ("" if heard == "nothing" else f", {heard} (transductive)")
            yield f"{how}, F1 max, linear SVM", scores["embedding"]
            yield f"{how}, own head", scores["head"]


def measure(
    corpus: Corpus, model: str, presets: Sequence[str], practice: Practice, data: Path, work: Path
) -> Iterator[Row]:
    """Rows for `recipes.results`, but for the command."""
    folder = work / corpus.folder
    prepare(str(data / corpus.folder), str(folder))
    manifest = read_manifest(folder / MANIFEST)
    opened = load_model(model)
    clips = [read_audio(path, opened.sample_rate)[0] for path in manifest.paths]
    y = [labels[0] for labels in manifest.table["labels"]]
    facts: dict[str, Any] = {"y": y, "folds": manifest.table["fold"], "sources": list(manifest.table["source"])}
    protocol = Protocol(**facts, allow_shared_sources=True)
    path = Path(model)
    name = path.parent.name if path.suffix else model
    for system, scores in systems(
        name, opened, clips, protocol, presets, practice, **facts, allow_shared_sources=True
    ):
        five = {"value": 100 * scores.mean, "spread": 100 * scores.std, "n": len(scores.accuracies)}
        row = {"what": f"{corpus.name}, adapted", "system": system, "data": corpus.data}
        yield {**row, "metric": FIVE, **five}
        yield {**row, "metric": LAST, "value": 100 * scores.accuracies[5]}


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.esc50.adapted", description="Adapted networks on ESC-50.")
    parser.add_argument("--data", required=True, help="folder that holds esc50-16k/ and esc10-44k/")
    parser.add_argument("--model", required=True, help="name or path of the model to adapt")
    parser.add_argument(
        "--preset", action="append", default=[], help=f"of {', '.join(PRESETS)}; I, II and III if none"
    )
    parser.add_argument("--corpus", default="ESC-50", choices=[corpus.name for corpus in CORPORA])
    parser.add_argument("--epochs", type=int, default=Practice.epochs, help="at most, of each adaptation")
    parser.add_argument("--work", default="runs/esc50", help="folder for the manifests")
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.esc50.adapted", *(sys.argv[1:] if args is None else args)])
    (corpus,) = (corpus for corpus in CORPORA if corpus.name == given.corpus)
    practice = replace(Practice(), epochs=given.epochs)
    presets = given.preset or ["I", "II", "III"]
    for row in measure(corpus, given.model, presets, practice, Path(given.data), Path(given.work)):
        record("esc50", [{**row, "command": command}], root)
        Console().print(f"{row['system']}, {row['metric']}: {row['value']:.1f}")


if __name__ == "__main__":
    try:
        main()
    except WeakAudioError as error:
        sys.exit(f"adapted: {error}")
