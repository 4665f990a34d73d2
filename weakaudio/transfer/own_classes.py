"""`weakaudio adapt`: a folder of classes becomes a model that `detect` and `embed` open, with an honest estimate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from weakaudio.audio.io import read_audio
from weakaudio.batch.recordings import write_failures
from weakaudio.data.manifest import SEPARATOR, read_class_folders, read_manifest
from weakaudio.errors import AudioError, ProtocolError
from weakaudio.files import printable
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.embedder import Audio, Embedder
from weakaudio.pretrained import load_model, save_model
from weakaudio.reports import html as report
from weakaudio.transfer.few_labels import Quality, estimate_quality, train_head
from weakaudio.transfer.fine_tune import PRESETS, adapt

HEAD = "head"  # the preset that trains the head in closed form, where the network allows it


@dataclass
class AdaptSummary:
    """What `adapt_folder` did."""

    out: Path
    n_clips: int
    n_classes: int
    quality: Quality
    """of the head on embeddings of the model as it came, cross-validated"""
    failures: list[tuple[str, str]]
    """path and reason of each clip that was left out"""

    def __str__(self) -> str:
        lines = [f"{self.n_clips} clips of {self.n_classes} classes -> {self.out}"]
        lines.append(f"on recordings it has not heard: {self.quality.scores}")
        for labels, accuracy, std, _ in self.quality.curve.itertuples(index=False):
            lines.append(f"with {labels} labels a class: accuracy {accuracy:.1%} ± {std:.1%}")
        if self.failures:
            lines.append(f"{len(self.failures)} clips were left out, see failures.csv beside it")
        return "\n".join(lines)


def adapt_folder(
    source: str | Path,
    out: str | Path,
    model: str | Path = DEFAULT_MODEL,
    preset: str = HEAD,
    device: str = "cpu",
) -> AdaptSummary:
    """Adapt a model to own classes, and estimate how good it will be; beside the model stands a page (.html) of that.

    Parameters
    ----------
    source
        A folder with a folder of audio for each class; or a CSV with the columns `path` (relative to the CSV),
        `labels` (one class a clip) and, if clips were cut from longer recordings, `source`.
    out
        Model file to write, .safetensors.
    model
        Name or path of the model to begin with.
    preset
        A name of `weakaudio.transfer.fine_tune.PRESETS`. "head" trains the classifier alone, which takes seconds; the
        estimate is always of that, and what further training brings can be seen by `weakaudio transfer --adapt`.
    device
        E.g. "cpu" or "cuda".

    Raises
    ------
    AudioError
        No clip can be read; those that cannot are left out and listed in failures.csv beside `out`.
    ProtocolError
        A clip of several classes or none; a class of one recording only; fewer than two classes; no such preset.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ProtocolError(f"{out}: the name of a model must end in .safetensors")
    if preset not in PRESETS:
        raise ProtocolError(f"preset {preset!r}: unknown; there are {', '.join(PRESETS)}")
    table = _read(Path(source))
    began = load_model(model)
    clips, kept, failures = _decode(table, began.sample_rate)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_failures(failures, out)
    if not clips:
        raise AudioError(f"{source}: none of its {len(table)} clips can be read; see failures.csv beside {out}")
    y, sources = list(kept["class"]), list(kept["source"])
    X = np.stack([found.clip for found in Embedder(began, device=device).embed_clips(clips)])
    quality = estimate_quality(X, y, sources)
    try:
        adapted = train_head(began, X, y) if preset == HEAD else None
    except ProtocolError:  # a network whose head is not one layer
        adapted = None
    if adapted is None:
        labels = sorted(set(y))
        targets = (np.array(y)[:, None] == np.array(labels)).astype(np.float32)
        adapted = adapt(began, clips, targets, labels, preset, sources=sources, device=device)
    adapted.metadata["adapted"] |= {"accuracy": quality.scores.mean, "folds": len(quality.scores.accuracies)}
    save_model(adapted, out)
    summary = AdaptSummary(out, len(clips), len(adapted.labels), quality, failures)
    report.write_page(_page(summary, str(model), preset), out.with_suffix(".html"))
    return summary


def _page(summary: AdaptSummary, model: str, preset: str) -> str:
    scores, curve = summary.quality.scores, summary.quality.curve
    names = [str(name) for name in scores.classes]
    recall = scores.confusion.diagonal() / scores.confusion.sum(1)
    by_class = pd.DataFrame({"class": names, "clips": scores.confusion.sum(1), "found again": recall})
    sections = [
        report.Section(
            "In short",
            [
                report.Figures(
                    [
                        (
                            f"{scores.mean:.1%}",
                            f"accuracy on recordings it has not heard, over {len(scores.accuracies)} folds",
                        ),
                        (str(summary.n_clips), f"clips of {summary.n_classes} classes"),
                    ]
                ),
                f"{model}, adapted ({preset}). The estimate is of a classifier on the embeddings of the model as it "
                "came, trained on all clips but those of one fold, and so for each fold; clips of one recording are "
                "never on both sides (each file counts as one, unless a table says otherwise: clips cut from one "
                "recording make the estimate too good). The model itself has learned from all of them.",
            ],
        ),
        report.Section(
            "Which classes are told apart",
            [
                report.Picture(report.confusion_matrix(scores.confusion, names), "True and predicted classes."),
                report.Table(by_class, "Part of each class's clips that is given its class."),
            ],
        ),
    ]
    if len(curve):
        caption = "With fewer labels, drawn anew three times in each fold; bars are standard deviations."
        sections.insert(
            1, report.Section("How many labels it takes", [report.Picture(report.learning_curve(curve), caption)])
        )
    return report.page(f"{summary.out.stem}: how good is it?", sections)


def _read(source: Path) -> pd.DataFrame:
    """path, class and source of each clip."""
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
        raise ProtocolError(f"{odd['name'].iloc[0]}: has the labels {names!r}, one class a clip is needed")
    recording = table["source"] if "source" in table else table["name"]
    return pd.DataFrame(
        {
            "path": table["path"],
            "name": [printable(name) for name in table["name"]],
            "class": [labels[0] for labels in table["labels"]],
            "source": recording.astype(str),
        }
    )


def _decode(table: pd.DataFrame, sample_rate: int) -> tuple[list[Audio], pd.DataFrame, list[tuple[str, str]]]:
    """Clips, their rows, and path and reason of those that cannot be read."""

    def read(path: Path) -> Audio | AudioError:
        try:
            return read_audio(path, sample_rate)[0]
        except AudioError as error:
            return error

    with ThreadPoolExecutor() as pool:  # libsndfile and soxr let others run
        found = list(pool.map(read, table["path"]))
    whole = [not isinstance(audio, AudioError) for audio in found]
    failures = [
        (name, printable(str(audio)))
        for name, audio in zip(table["name"], found, strict=True)
        if isinstance(audio, AudioError)
    ]
    return [audio for audio in found if not isinstance(audio, AudioError)], table[whole], failures
