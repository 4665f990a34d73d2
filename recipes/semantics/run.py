"""What the classes of ESC-50 mean to a model: figures, tables and a page.

    python -m recipes.semantics.run --data ../shared/data --model MODEL --out runs/semantics

Writes report.html, each figure as PNG and SVG, and each table as CSV.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from weakaudio_data_prep.esc50 import prepare

from recipes.semantics.page import Meaning, build, figures
from weakaudio import WeakAudioError, load_model
from weakaudio.audio.io import read_audio
from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.errors import DataPrepError
from weakaudio.files import write_table
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import fused_copy
from weakaudio.pretrained import model_checksum
from weakaudio.progress import progress
from weakaudio.reports.figures import save_figure
from weakaudio.reports.html import write_page
from weakaudio.transfer import semantics
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.cross_validation import cross_validate

CORPUS, REPORT = "esc50-16k", "report.html"
GROUPS = ("animals", "nature, water", "human", "domestic", "urban")  # classes 0 to 9, 10 to 19, ...

_COMMAND = "python -m recipes.semantics.run"


def super_categories(folder: Path) -> dict[str, str]:
    """The super-category of each class of ESC-50: by the tens of its number, as published.

    Raises
    ------
    DataPrepError
        The folder does not say the classes' numbers.
    """
    listings = [path for path in (folder / "esc50.csv", folder / "meta" / "esc50.csv") if path.is_file()]
    rows = pd.read_csv(listings[0]) if listings else pd.DataFrame()
    if "target" not in rows or not rows["target"].isin(range(50)).all():
        raise DataPrepError(f"{folder}: no esc50.csv with a column 'target' of 0 to 49, the classes' numbers")
    return {
        _spoken(name): GROUPS[number // 10] for name, number in zip(rows["category"], rows["target"], strict=True)
    }


@torch.inference_mode()
def hear(model: Model, paths: Sequence[Path]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings (n, D), the mean over segments, and clip probabilities (n, E) of recordings, in one pass.

    Raises
    ------
    AudioError
        A recording that cannot be read.
    """
    embeddings, probs = [], []
    for path in progress(paths, len(paths), f"listening to {len(paths)} clips"):
        output = model(torch.from_numpy(read_audio(path, model.sample_rate)[0])[None])
        embeddings.append(output.embeddings[0, output.mask[0]].float().mean(0).numpy())
        probs.append(output.clip_probs[0].numpy())
    return np.stack(embeddings), np.stack(probs)


def measure(clips: Manifest, groups: dict[str, str], model: Model, seed: int = 0) -> Meaning:
    """All numbers of the page."""
    X, probs = hear(model, clips.paths)
    table = clips.table
    y = [_spoken(labels[0]) for labels in table["labels"]]
    classifier = build_classifier("linear-svm")
    scores = cross_validate(classifier, X, y, table["fold"], table["source"], allow_shared_sources=True)
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


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def write(meaning: Meaning, out: Path, origin: str) -> None:
    """The page, its figures and its tables."""
    for name, table in meaning.tables().items():
        write_table(table, out / f"{name}.csv")
    for name, figure in figures(meaning).items():
        for suffix in (".png", ".svg"):
            save_figure(figure, out / f"{name}{suffix}")
    write_page(build(meaning, origin), out / REPORT)


def main(args: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(_COMMAND, description="What the classes of ESC-50 mean to a model.")
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {CORPUS}/")
    parser.add_argument("--model", required=True, help="path or name of a model")
    parser.add_argument("--out", type=Path, default=Path("runs/semantics"), help="folder (runs/semantics)")
    given = parser.parse_args(args)
    console = Console()
    try:
        model = load_model(given.model)
        prepare(str(given.data / CORPUS), str(given.out / CORPUS))
        clips = read_manifest(given.out / CORPUS / MANIFEST)
        meaning = measure(clips, super_categories(given.data / CORPUS), fused_copy(model, torch.device("cpu")))
    except WeakAudioError as error:
        console.print(f"semantics: {error}", style="red", markup=False)
        return 2
    command = shlex.join([*_COMMAND.split(), *(sys.argv[1:] if args is None else args)])
    write(meaning, given.out, f"{command}; SHA-256 of the model's weights: {model_checksum(model)}")
    console.print(f"report: {given.out / REPORT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
