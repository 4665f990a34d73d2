"""Folds of one's own recordings: all clips of a recording share one, and every class is spread evenly over them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from weakaudio.errors import DataPrepError


def grouped_folds(
    labels: Sequence[Sequence[str]], recordings: Sequence[Hashable], n_folds: int, name: str
) -> list[int]:
    """The fold of each clip, from 1 to `n_folds`; the same clips in the same order get the same folds.

    Recordings are dealt out class by class, the rarest class first and the longest recording first: each to the fold
    with the fewest clips of that class, of these to the one with the fewest clips, of these to the first. So a class
    is in every fold if it has a recording of its own for each. (scikit-learn's `StratifiedGroupKFold` takes one label
    a clip, and can leave a fold without a class where recordings have clips of several.)

    Parameters
    ----------
    labels
        Class names of each clip, none or more.
    recordings
        The recording that each clip was cut from.
    name
        What the clips are of; goes into messages.

    Raises
    ------
    DataPrepError
        Fewer than two folds.
    """
    if n_folds < 2:
        raise DataPrepError(f"{name}: {n_folds} folds; at least 2 are needed")
    clips = Counter(recordings)
    place = {recording: n for n, recording in enumerate(clips)}
    by_class: dict[str, Counter[Hashable]] = defaultdict(Counter)  # clips of each recording that have the class
    for names, recording in zip(labels, recordings, strict=True):
        for label in names:
            by_class[label][recording] += 1
    of_class = {label: [0] * n_folds for label in by_class}  # clips of the class in each fold
    total = [0] * n_folds  # clips in each fold
    fold_of: dict[Hashable, int] = {}

    def deal(recording: Hashable, counts: list[int]) -> None:
        fold = min(range(n_folds), key=lambda k: (counts[k], total[k], k))
        fold_of[recording] = fold
        total[fold] += clips[recording]
        for label, found in by_class.items():
            of_class[label][fold] += found[recording]

    for label, found in sorted(by_class.items(), key=lambda item: (len(item[1]), item[0])):
        for recording in sorted(found, key=lambda recording: (-found[recording], place[recording])):
            if recording not in fold_of:
                deal(recording, of_class[label])
    for recording in clips:
        if recording not in fold_of:  # no clip of it has a class
            deal(recording, total)
    return [fold_of[recording] + 1 for recording in recordings]


def refuse_copies(paths: Iterable[Path], recordings: Iterable[Hashable], name: str) -> None:
    """Refuse files with the same content that count as different recordings: folds would share them unseen.

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
                    f"{name}: {path} is a copy of {other}, and folds must not share a recording: delete one of them, "
                    "or name the recording of both (column `source`, or --group)"
                )


def refuse_rare_classes(
    labels: Sequence[Sequence[str]], recordings: Sequence[Hashable], n_folds: int, name: str
) -> None:
    """Refuse a class with fewer recordings than folds: it could not be in all of them.

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
            fewer = f"ask for {len(found)} folds, " if len(found) > 1 else ""
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
