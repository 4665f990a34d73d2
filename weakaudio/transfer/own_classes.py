"""`weakaudio adapt`: a folder of clips becomes a model of its classes, with an estimate of the accuracy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from weakaudio.audio import Waveform
from weakaudio.audio.io import read_audio
from weakaudio.batch.recordings import write_failures
from weakaudio.data.manifest import SEPARATOR, read_class_folders, read_manifest
from weakaudio.errors import AudioError, ProtocolError
from weakaudio.files import printable
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.embedder import Embedder
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.pretrained.registry import load_model
from weakaudio.reports.class_figures import confusion_matrix
from weakaudio.reports.figures import learning_curve
from weakaudio.reports.html import KeyNumbers, Picture, Section, Table, page, write_page
from weakaudio.transfer.fine_tune import PRESETS, fine_tune
from weakaudio.transfer.linear_probe import Quality, estimate_quality, train_head

HEAD = "head"  # preset for which the linear probe becomes the head, where the network allows it


@dataclass
class AdaptSummary:
    """Result of `adapt_folder`."""

    out: Path
    n_clips: int
    n_classes: int
    quality: Quality
    """cross-validated, of the linear probe on the embeddings of the original model"""
    failures: list[tuple[str, str]]
    """path and reason of each clip that was left out"""

    def __str__(self) -> str:
        lines = [f"{self.n_clips} clips of {self.n_classes} classes -> {self.out}"]
        lines.append(f"on unseen recordings: {self.quality.scores}")
        for labels, accuracy, std, _ in self.quality.curve.itertuples(index=False):
            lines.append(f"with {labels} labels a class: accuracy {accuracy:.1%} ± {std:.1%}")
        if self.failures:
            lines.append(f"{len(self.failures)} clips could not be read, see failures.csv beside the model")
        return "\n".join(lines)


def adapt_folder(
    source: str | Path,
    out: str | Path,
    model: str | Path = DEFAULT_MODEL,
    preset: str = HEAD,
    device: str = "cpu",
) -> AdaptSummary:
    """Adapt a model to the classes of a folder, estimate its accuracy, and write an HTML report beside it.

    Clips that cannot be read are skipped and listed in failures.csv beside the model.

    Parameters
    ----------
    source
        A folder with one folder of audio for each class; or a CSV with the columns `path` (relative to the CSV),
        `labels` (one class for each clip) and, if clips were cut from longer recordings, `source`.
    out
        Model file to write, .safetensors.
    model
        Name or path of the model to start from.
    preset
        A name in `weakaudio.transfer.fine_tune.PRESETS`. "head" trains the classifier only, in seconds. The estimate
        is always of that; `weakaudio transfer --adapt` shows what training further layers gains.
    device
        Torch device, e.g. "cpu" or "cuda".

    Raises
    ------
    AudioError
        No clip can be read.
    ProtocolError
        A clip has several classes or none; a class has one recording only; fewer than two classes; unknown preset.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ProtocolError(f"{out}: the name of a model file must end in .safetensors")
    if preset not in PRESETS:
        raise ProtocolError(f"preset {preset!r}: unknown; there are {', '.join(PRESETS)}")
    table = _read(Path(source))
    base = load_model(model)
    clips, kept, failures = _decode(table, base.sample_rate)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_failures(failures, out)
    if not clips:
        raise AudioError(f"{source}: none of its {len(table)} clips can be read; see failures.csv beside {out}")
    y, sources = list(kept["class"]), list(kept["source"])
    X = np.stack([found.clip for found in Embedder(base, device=device).embed_clips(clips)])
    quality = estimate_quality(X, y, sources)
    try:
        adapted = train_head(base, X, y) if preset == HEAD else None
    except ProtocolError:  # a network whose head is not one linear layer
        adapted = None
    if adapted is None:
        labels = sorted(set(y))
        targets = (np.array(y)[:, None] == np.array(labels)).astype(np.float32)
        adapted = fine_tune(base, clips, targets, labels, preset, sources=sources, device=device)
    adapted.metadata["adapted"] |= {"accuracy": quality.scores.mean, "folds": len(quality.scores.accuracies)}
    save_model(adapted, out)
    summary = AdaptSummary(out, len(clips), len(adapted.labels), quality, failures)
    write_page(_page(summary, str(model), preset), out.with_suffix(".html"))
    return summary


def _page(summary: AdaptSummary, model: str, preset: str) -> str:
    scores, curve = summary.quality.scores, summary.quality.curve
    names = [str(name) for name in scores.classes]
    clips = scores.confusion.sum(1)
    recall = pd.DataFrame({"class": names, "clips": clips, "recall": scores.confusion.diagonal() / clips})
    numbers = [
        (f"{scores.mean:.1%}", f"accuracy on unseen recordings, over {len(scores.accuracies)} folds"),
        (str(summary.n_clips), f"clips of {summary.n_classes} classes"),
    ]
    method = (
        f"{model}, adapted ({preset}). The accuracy is that of a linear classifier on the embeddings of the original "
        "model, cross-validated: trained on all folds but one and tested on that one. All clips of a recording are "
        "in one fold; unless a table names the recordings, each file counts as one, and clips cut from the same "
        "recording then make the estimate too optimistic. The model itself was trained on all clips."
    )
    confusion = Picture(confusion_matrix(scores.confusion, names), "True and predicted classes.")
    sections = [
        Section("Summary", [KeyNumbers(numbers), method]),
        Section(
            "Confusion between classes", [confusion, Table(recall, "Share of each class's clips that is found.")]
        ),
    ]
    if len(curve):
        caption = "Three random subsets of the training clips in each fold; error bars are standard deviations."
        sections.insert(1, Section("Accuracy by number of labels", [Picture(learning_curve(curve), caption)]))
    return page(f"{summary.out.stem}: estimated accuracy", sections)


def _read(source: Path) -> pd.DataFrame:
    """List the clips: path, name, class and source."""
    if source.is_dir():
        table = read_class_folders(source)
        table["name"] = [path.relative_to(source).as_posix() for path in table["path"]]
    elif source.is_file():
        manifest = read_manifest(source)
        table = manifest.table.rename(columns={"path": "name"}).assign(path=pd.Series(manifest.paths, dtype=object))
    else:
        raise AudioError(f"{source}: no such file or folder")
    odd = table[[len(labels) != 1 for labels in table["labels"]]]
    if len(odd):
        names = SEPARATOR.join(odd["labels"].iloc[0])
        raise ProtocolError(f"{odd['name'].iloc[0]}: has the labels {names!r}, expected exactly one")
    table["source"] = (table["source"] if "source" in table else table["name"]).astype(str)
    table["class"] = [labels[0] for labels in table["labels"]]
    table["name"] = [printable(name) for name in table["name"]]
    return table[["path", "name", "class", "source"]]


def _decode(table: pd.DataFrame, sample_rate: int) -> tuple[list[Waveform], pd.DataFrame, list[tuple[str, str]]]:
    """Read the clips. Returns their audio, their rows, and path and reason of those that cannot be read."""

    def read(path: Path) -> Waveform | AudioError:
        try:
            return read_audio(path, sample_rate)[0]
        except AudioError as error:
            return error

    with ThreadPoolExecutor() as pool:  # libsndfile and soxr release the GIL
        found = list(pool.map(read, table["path"]))
    clips = [audio for audio in found if not isinstance(audio, AudioError)]
    reasons = [printable(str(audio)) if isinstance(audio, AudioError) else "" for audio in found]
    failures = [(name, reason) for name, reason in zip(table["name"], reasons, strict=True) if reason]
    return clips, table[[not reason for reason in reasons]], failures
