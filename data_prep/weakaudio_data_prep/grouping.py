"""Folds of own recordings: all clips of a recording are in one fold, and classes are spread evenly."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from weakaudio.errors import DataPrepError


def grouped_folds(
    labels: Sequence[Sequence[str]], recordings: Sequence[Hashable], n_folds: int, name: str
) -> list[int]:
    """Assign a fold from 1 to `n_folds` to each clip; deterministic for the same clips in the same order.

    Recordings are assigned class by class, the rarest class and the recording with most of its clips first: each to
    the fold with the fewest clips of the class, then with the fewest clips, then to the first. A class is therefore
    in every fold if it has enough recordings without other classes. (scikit-learn's `StratifiedGroupKFold` takes one
    label per clip, and can leave a fold without a class if recordings have clips of several.)

    Parameters
    ----------
    labels
        Class names of each clip, any number.
    recordings
        Recording that each clip was cut from.
    name
        Name of the data set in messages.

    Raises
    ------
    DataPrepError
        Fewer than two folds.
    """
    if n_folds < 2:
        raise DataPrepError(f"{name}: {n_folds} folds; at least 2 are needed")
    clips = Counter(recordings)
    position = {recording: n for n, recording in enumerate(clips)}
    by_class: dict[str, Counter[Hashable]] = defaultdict(Counter)  # clips of the class in each recording
    for names, recording in zip(labels, recordings, strict=True):
        for label in names:
            by_class[label][recording] += 1
    of_class = {label: [0] * n_folds for label in by_class}  # clips of the class in each fold
    total = [0] * n_folds  # clips in each fold
    fold_of: dict[Hashable, int] = {}

    def assign(recording: Hashable, counts: list[int]) -> None:
        fold = min(range(n_folds), key=lambda k: (counts[k], total[k], k))
        fold_of[recording] = fold
        total[fold] += clips[recording]
        for label, found in by_class.items():
            of_class[label][fold] += found[recording]

    for label, found in sorted(by_class.items(), key=lambda item: (len(item[1]), item[0])):
        for recording in sorted(found, key=lambda recording: (-found[recording], position[recording])):
            if recording not in fold_of:
                assign(recording, of_class[label])
    for recording in clips:
        if recording not in fold_of:  # none of its clips has a label
            assign(recording, total)
    return [fold_of[recording] + 1 for recording in recordings]


def refuse_copies(paths: Iterable[Path], recordings: Iterable[Hashable], name: str) -> None:
    """Refuse identical files in different recordings, which folds would share unnoticed.

    Raises
    ------
    DataPrepError
        Two such files.
    """
    by_size: dict[int, list[tuple[Path, Hashable]]] = defaultdict(list)
    for path, recording in zip(paths, recordings, strict=True):
        by_size[path.stat().st_size].append((path, recording))
    for size, alike in by_size.items():
        seen: dict[bytes, tuple[Path, Hashable]] = {}
        for path, recording in alike if size and len(alike) > 1 else ():
            other, of = seen.setdefault(_digest(path), (path, recording))
            if of != recording:
                raise DataPrepError(
                    f"{name}: {path} is a copy of {other}, and folds must not share recordings: delete one of them, "
                    "or give both the same recording (column `source`, or --group)"
                )


def refuse_rare_classes(
    labels: Sequence[Sequence[str]], recordings: Sequence[Hashable], n_folds: int, name: str
) -> None:
    """Refuse a class with fewer recordings than folds, which cannot be in all of them.

    Raises
    ------
    DataPrepError
        Such a class.
    """
    of_class: dict[str, set[Hashable]] = defaultdict(set)
    for names, recording in zip(labels, recordings, strict=True):
        for label in names:
            of_class[label].add(recording)
    for label, found in sorted(of_class.items(), key=lambda item: (len(item[1]), item[0])):
        if len(found) < n_folds:
            fewer = f"use {len(found)} folds, " if len(found) > 1 else ""
            raise DataPrepError(
                f"{name}: class {label!r} has {len(found)} recordings, fewer than the {n_folds} folds: "
                f"add recordings of it, {fewer}or leave the class out"
            )


def _digest(path: Path) -> bytes:
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            checksum.update(block)
    return checksum.digest()
