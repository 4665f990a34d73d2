"""ESC-50 as recipes use it: prepared, and a linear SVM scored over its five folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from weakaudio_data_prep.esc50 import prepare

from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.cross_validation import FoldScores, cross_validate


def prepared(folder: Path, work: Path) -> Manifest:
    """Manifest of ESC-50 (or ESC-10) in a folder, written below `work`."""
    prepare(str(folder), str(work))
    return read_manifest(work / MANIFEST)


def score(X: NDArray[np.float32], clips: Manifest) -> FoldScores:
    """Accuracies of a linear SVM on embeddings (n, D) of the clips, fold by fold."""
    classes, table = [labels[0] for labels in clips.table["labels"]], clips.table
    svm = build_classifier("linear-svm")
    return cross_validate(svm, X, classes, table["fold"], table["source"], allow_shared_sources=True)
