"""The results of the demo as a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from weakaudio import Corpus, Model, __version__
from weakaudio.evaluation.corpus import Evaluation
from weakaudio.evaluation.events import SEGMENT_SECONDS
from weakaudio.reports import class_figures, figures
from weakaudio.reports import html as report
from weakaudio.transfer.cross_validation import FoldScores

_CLIPS = 3  # to look at and listen to
_SECONDS = 8.0  # those of at least this length


@dataclass
class Result:
    """One system, trained and measured."""

    model: Model
    log: pd.DataFrame
    """of its training, a row per epoch"""
    evaluation: Evaluation
    """on the test split"""


def results_table(results: Mapping[str, Result]) -> pd.DataFrame:
    """A row per system, and one for chance."""
    rows: list[dict[str, Any]] = []
    for system, result in results.items():
        clip, segment = result.evaluation.clip, result.evaluation.segment
        row = {"system": system, "clip mAP": clip.mean_ap, "clip mAUC": clip.mean_auc}
        row["segment F1"] = segment.micro.f1 if segment else float("nan")
        rows.append({**row, "training (s)": round(float(result.log["seconds"].sum()))})
    prevalence = next(iter(results.values())).evaluation.clip.prevalence
    rows.append({"system": "chance (class prevalence)", "clip mAP": prevalence, "clip mAUC": 0.5})
    return pd.DataFrame(rows).astype({"training (s)": "Int64"})


def build(corpus: Corpus, results: Mapping[str, Result], folds: FoldScores, command: str) -> str:
    """The page as HTML; `command` made it, and clips are shown with the scores of the first of `results`."""
    first = next(iter(results))
    table = report.Table(results_table(results), _TABLE)
    curves = figures.training_curves({system: result.log for system, result in results.items()})
    sections: dict[str, list[Any]] = {
        "Results": [_INTRODUCTION, _numbers(results, folds), table],
        f"What {first} detects": [_CLIPS_SHOWN, *_clips(corpus, results[first].model)],
        "Class by class": [report.Picture(_bars(results), _BARS)],
        "Training": [report.Picture(curves, _CURVES)],
        "Transfer to other recordings": [_TRANSFER, *_transfer(folds)],
        "How it was made": [_origin(corpus, command)],
    }
    return report.page("weakaudio: the demo", [report.Section(*one) for one in sections.items()])


def _numbers(results: Mapping[str, Result], folds: FoldScores) -> report.KeyNumbers:
    clips = {system: result.evaluation.clip for system, result in results.items()}
    numbers = [(f"{clip.mean_ap:.2f}", f"clip mAP of {system}") for system, clip in clips.items()]
    numbers.append((f"{next(iter(clips.values())).prevalence:.2f}", "clip mAP of chance (class prevalence)"))
    transfer = f"accuracy in transfer, where chance is {1 / len(folds.classes):.0%}"
    return report.KeyNumbers([*numbers, (f"{folds.mean:.1%}", transfer)])


def _clips(corpus: Corpus, model: Model) -> list[report.Picture]:
    """The first long clips of the test split, not selected otherwise."""
    store, events, pictures = corpus.store, corpus.events(), []
    long = [n for n in corpus.select({"split": "test"}) if store.n_samples[n] >= _SECONDS * model.sample_rate]
    for n in long[:_CLIPS]:
        audio, key = store.audio(n), store.keys[n]
        with torch.inference_mode():
            logmel, n_frames = model.logmel(torch.from_numpy(audio)[None])
            probs = model.network(logmel, n_frames).segment_logits[0].sigmoid().numpy()
        times, true = model.score_times(len(audio)), events[events["path"] == key]
        figure = figures.clip_figure(logmel[0].numpy(), model.front_end, times, probs, model.labels, true)
        caption = f"{key}, labelled {', '.join(store.labels[n])}."
        pictures.append(report.Picture(figure, caption, report.Sound(audio, model.sample_rate)))
    return pictures


def _bars(results: Mapping[str, Result]) -> Figure:
    tables = {system: result.evaluation.per_class.set_index("class") for system, result in results.items()}
    columns = {system: table["ap"] for system, table in tables.items()}
    first = next(iter(results))
    columns["prevalence"] = tables[first]["positives"] / results[first].evaluation.clip.n_clips
    return figures.per_class_bars(pd.DataFrame(columns))


def _transfer(folds: FoldScores) -> list[report.Table | report.Picture]:
    names = [str(fold) for fold in folds.accuracies]
    rows = pd.DataFrame({"fold left out": names, "accuracy on it": list(folds.accuracies.values())})
    spread = f"Mean {folds.mean:.3f}, sample standard deviation {folds.std:.3f}."
    matrix = class_figures.confusion_matrix(folds.confusion, [str(name) for name in folds.classes])
    return [report.Table(rows, spread), report.Picture(matrix, _CONFUSION)]


def _origin(corpus: Corpus, command: str) -> str:
    seconds = corpus.manifest.table.groupby("split", sort=False)["seconds"]
    parts = [f"{len(own)} for {split} ({own.sum() / 60:.0f} min)" for split, own in seconds]
    return (
        f"weakaudio {__version__}, torch {torch.__version__}; {command}. Soundscapes: {', '.join(parts)}. No sound "
        "of one split is in another. Configurations, logs, checkpoints and models are in the folder of this page."
    )


_INTRODUCTION = (
    "Soundscapes were mixed from synthetic sounds, so the onset and offset of each sound are known. Two systems of "
    "the same layers were trained on weak labels: which sounds a clip contains, not when. N_S compares its scores, "
    "pooled over the clip, with these labels; SLAT, the baseline, is trained as if each sound lasted throughout the "
    "clip."
)
_TABLE = (
    "On held-out soundscapes. mAP and mAUC: clip scores against weak labels, means over classes. Segment F1: "
    f"segments of {SEGMENT_SECONDS:g} s against the true onsets and offsets, micro average, at thresholds chosen on "
    "the validation clips. Training: wall-clock time, with validation."
)
_CLIPS_SHOWN = (
    "The first clips of the test split that are long enough, with their true sounds and the classes of the highest "
    "scores. Bars are the truth, curves the network's scores; no onset or offset was used in training."
)
_BARS = "Average precision of each class on held-out soundscapes; the mark is chance (class prevalence)."
_CURVES = (
    "Loss on training clips and mAP on validation clips. The two systems have different losses: compare the shapes "
    "of the curves, not their levels. The epoch with the best mAP is kept."
)
_TRANSFER = (
    "A folder of WAV files that took no part in training was embedded by N_S, and a linear SVM was trained on four "
    "of five folds and tested on the fifth: the protocol of ESC-50. Synthetic sounds are easy to separate; "
    "recipes/transfer has figures on recordings."
)
_CONFUSION = "True and predicted classes over all five folds."
