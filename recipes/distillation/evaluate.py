"""Agreement of students with their teacher, and their accuracy off the shelf.

    python -m recipes.distillation.evaluate --data ../shared/data --teacher TEACHER --model MODEL ...

Off the shelf: ESC-50 by frozen embeddings (mean over segments), StandardScaler and LinearSVC(C=0.01), over its five
folds. Agreement, on the audio of ESC-50, which no student was trained on: mAP of the student where the teacher's
probabilities above a threshold are the truth; rank correlation of the probabilities within a clip; and how much later
the student is, in recordings of a minute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from recipes import esc50
from recipes.command import command, over_folds, run_name
from recipes.distillation.lag import Course, courses, lag
from recipes.results import Row
from weakaudio.data.manifest import Manifest
from weakaudio.deploy.benchmark import time_path
from weakaudio.errors import ProtocolError
from weakaudio.inference.embedder import Embedder
from weakaudio.networks.contract import StagedNetwork
from weakaudio.pretrained.checkpoint import model_checksum
from weakaudio.pretrained.registry import load_model

_THRESHOLD = 0.2  # probability from which the teacher counts as positive
_FEWEST = 5  # positive clips of a class, for its average precision to count


class Outputs(NamedTuple):
    """Outputs of a model for clips."""

    embeddings: NDArray[np.float32]
    """(clips, D)"""
    probs: NDArray[np.float32]
    """(clips, C)"""
    courses: list[Course]
    """of some of them, joined to recordings"""


def run_model(model: str, files: Sequence[Path]) -> Outputs:
    """Embeddings of clips, and the head's probabilities: all models here score a clip by its mean embedding."""
    embedder = Embedder.from_pretrained(model)
    if not isinstance(embedder.model.network, StagedNetwork):
        raise ProtocolError(f"{model}: its network does not score a clip by its mean embedding")
    embeddings = embedder.embed_files(files)
    with torch.inference_mode():
        probs = embedder.model.network.forward_head(torch.from_numpy(embeddings)).sigmoid()
    return Outputs(embeddings, probs.numpy(), courses(model, files))


def agreement(student: NDArray[np.float32], teacher: NDArray[np.float32]) -> tuple[float, int, float]:
    """mAP of a student's probabilities (clips, C) against the teacher's positives, the number of classes it is over,
    and the mean rank correlation within a clip."""
    truth = teacher >= _THRESHOLD
    classes = np.flatnonzero(truth.sum(0) >= _FEWEST)
    if not len(classes):
        raise ProtocolError(f"the teacher has no class with {_FEWEST} positive clips or more: agreement is undefined")
    mean_ap = np.mean([average_precision_score(truth[:, c], student[:, c]) for c in classes])
    ranks = np.mean([spearmanr(a, b).statistic for a, b in zip(student, teacher, strict=True)])
    return float(mean_ap), len(classes), float(ranks)


def rows(model: str, outputs: Outputs, teacher: Outputs, clips: Manifest) -> Iterator[Row]:
    """Accuracy on ESC-50, agreement with the teacher, and speed of a model."""
    opened, name = load_model(model), run_name(model)
    note = f"{name}: SHA-256 of the model {model_checksum(opened)[:12]}"  # other weights, other figures
    row = {"what": "ESC-50", "system": name, "data": "ESC-50 at 16 kHz", "note": note}
    yield {**row, "metric": "five folds (%)", **over_folds(esc50.score(outputs.embeddings, clips))}
    row["what"] = "agreement with the teacher"
    mean_ap, n_classes, ranks = agreement(outputs.probs, teacher.probs)
    yield {**row, "metric": f"mAP over {n_classes} classes", "value": mean_ap}
    yield {**row, "metric": "rank correlation", "value": ranks}
    if outputs is not teacher:
        later, spread, n = lag(outputs.courses, teacher.courses)
        yield {**row, "metric": "lag behind the teacher (s)", "value": later, "spread": spread, "n": n}
    row |= {"what": "speed", "data": "noise, from waveform, network fused"}
    size = sum(parameter.numel() for parameter in opened.network.parameters())
    yield {**row, "metric": "weights (M)", "value": size / 1e6}
    speed = time_path(opened, batch=8, budget=15.0).times_real_time
    yield {**row, "metric": "times real time, 8 x 10 s", "value": speed}
    yield {**row, "metric": "ms for 10 s", "value": 1000 * time_path(opened, budget=15.0).whole}


@command("distillation")
def main(
    data: Annotated[Path, "folder that holds esc50-16k/"],
    teacher: Annotated[str, "name or path of the teacher"],
    model: Annotated[Sequence[str], "students, by name or path"] = (),
    work: Annotated[Path, "folder for the manifest"] = Path("runs/distillation/esc50"),
) -> Iterator[Row]:
    """Evaluate students and their teacher."""
    clips = esc50.prepared(data / "esc50-16k", work)
    reference = run_model(teacher, clips.paths)
    yield from rows(teacher, reference, reference, clips)
    for one in model:
        yield from rows(one, run_model(one, clips.paths), reference, clips)


if __name__ == "__main__":
    raise SystemExit(main())
