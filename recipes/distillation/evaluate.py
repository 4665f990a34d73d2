"""How well students hear what their teacher hears, and what they are worth off the shelf.

    python -m recipes.distillation.evaluate --data ../shared/data --teacher TEACHER --model MODEL ...

Off the shelf: ESC-50 by frozen embeddings (mean over segments), StandardScaler and LinearSVC(C=0.01), over its five
folds. Agreement: on the audio of ESC-50, which no student has heard, the teacher's probabilities above a threshold
are the truth of which the student's mAP is measured; the rank correlation of the probabilities within a clip; and by
how much later the student says it, in recordings of a minute.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score
from weakaudio_data_prep.esc50 import prepare

from recipes.distillation.lag import Course, courses, lag
from recipes.distillation.train import MODEL
from recipes.results import ROOT, Row, record
from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import read_manifest
from weakaudio.deploy.benchmark import time_path
from weakaudio.errors import ProtocolError, WeakAudioError
from weakaudio.inference.embedder import Embedder
from weakaudio.networks.contract import StagedNetwork
from weakaudio.pretrained import load_model, model_checksum
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.cross_validation import cross_validate

_THRESHOLD = 0.2  # from which on the teacher says that a class is there
_FEWEST = 5  # clips of a class, for its average precision to count


class Heard(NamedTuple):
    """What a model says of clips."""

    embeddings: NDArray[np.float32]
    """(clips, D)"""
    probs: NDArray[np.float32]
    """(clips, C)"""
    courses: list[Course]
    """of some of them, joined to recordings"""


def hear(model: str, files: Sequence[Path]) -> Heard:
    """Embeddings of clips, and what the model's head says of them: all models here score a clip by its embedding."""
    embedder = Embedder.from_pretrained(model)
    if not isinstance(embedder.model.network, StagedNetwork):
        raise ProtocolError(f"{model}: its network does not score a clip by its mean embedding")
    embeddings = embedder.embed_files(files)
    with torch.inference_mode():
        probs = embedder.model.network.forward_head(torch.from_numpy(embeddings)).sigmoid()
    return Heard(embeddings, probs.numpy(), courses(model, files))


def agreement(student: NDArray[np.float32], teacher: NDArray[np.float32]) -> tuple[float, int, float]:
    """mAP of a student's probabilities (clips, C) for what the teacher hears, over how many classes; and the mean
    rank correlation of the two within a clip."""
    truth = teacher >= _THRESHOLD
    classes = np.flatnonzero(truth.sum(0) >= _FEWEST)
    if not len(classes):
        raise ProtocolError(f"the teacher hears no class in {_FEWEST} clips or more: nothing to agree about")
    mean_ap = np.mean([average_precision_score(truth[:, c], student[:, c]) for c in classes])
    ranks = np.mean([spearmanr(a, b).statistic for a, b in zip(student, teacher, strict=True)])
    return float(mean_ap), len(classes), float(ranks)


def rows(model: str, heard: Heard, teacher: Heard, y: list[str], folds: list[int]) -> Iterator[Row]:
    """Rows for `recipes.results`, but for the command."""
    path = Path(model)
    name = path.parent.name if path.name == MODEL else path.stem  # a run is known by its folder
    scores = cross_validate(build_classifier("linear-svm"), heard.embeddings, y, folds, None, True)
    opened = load_model(model)
    note = f"{name}: SHA-256 of the model {model_checksum(opened)[:12]}"  # other weights, other figures
    facts = {"what": "ESC-50", "system": name, "data": "ESC-50 at 16 kHz", "note": note}
    five = {"value": 100 * scores.mean, "spread": 100 * scores.std, "n": len(scores.accuracies)}
    yield {**facts, "metric": "five folds (%)", **five}
    facts["what"] = "agreement with the teacher"
    mean_ap, n_classes, ranks = agreement(heard.probs, teacher.probs)
    yield {**facts, "metric": f"mAP over {n_classes} classes", "value": mean_ap}
    yield {**facts, "metric": "rank correlation", "value": ranks}
    if heard is not teacher:
        later, spread, n = lag(heard.courses, teacher.courses)
        yield {**facts, "metric": "later than the teacher (s)", "value": later, "spread": spread, "n": n}
    batch, clip = time_path(opened, batch=8), time_path(opened)
    size = sum(p.numel() for p in opened.network.parameters())
    facts |= {"what": "speed", "data": "noise, from waveform, network fused"}
    yield {**facts, "metric": "weights (M)", "value": size / 1e6}
    yield {**facts, "metric": "times real time, 8 x 10 s", "value": batch.times_real_time}
    yield {**facts, "metric": "ms for 10 s", "value": 1000 * clip.whole}


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.distillation.evaluate", description="Students and teacher.")
    parser.add_argument("--data", required=True, help="folder that holds esc50-16k/")
    parser.add_argument("--teacher", required=True, help="name or path of the teacher")
    parser.add_argument("--model", action="append", default=[], help="a student; may be given several times")
    parser.add_argument("--work", default="runs/distillation/esc50", help="folder for the manifest")
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.distillation.evaluate", *(sys.argv[1:] if args is None else args)])
    prepare(str(Path(given.data) / "esc50-16k"), given.work)
    clips = read_manifest(Path(given.work) / MANIFEST)
    y, folds = [labels[0] for labels in clips.table["labels"]], list(clips.table["fold"])
    teacher = hear(given.teacher, clips.paths)
    for model in (given.teacher, *given.model):
        heard = teacher if model == given.teacher else hear(model, clips.paths)
        measured = [{**row, "command": command} for row in rows(model, heard, teacher, y, folds)]
        for row in measured:
            Console().print(f"{row['system']}, {row['metric']}: {row['value']:.3f}")
        record("distillation", measured, root)


if __name__ == "__main__":
    try:
        main()
    except WeakAudioError as error:
        sys.exit(f"evaluate: {error}")
