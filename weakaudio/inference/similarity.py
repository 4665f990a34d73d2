"""The sounds in an embedding file that are most alike to an example: how people label their own data fast."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from weakaudio.audio.io import audio_info, read_audio
from weakaudio.errors import AudioError, StoreError, WeakAudioError
from weakaudio.files import printable
from weakaudio.formats.embeddings import EmbeddingTable, read_embeddings

if TYPE_CHECKING:
    from weakaudio.inference.embedder import Embedder

Engine = Literal["sklearn", "faiss"]
Search = Callable[[NDArray[np.float32], int], NDArray[np.int64]]
"""(D,) unit vector and k: the positions of the k nearest, in any order"""

SECONDS = 1.0  # of an example
GAP = 1.0  # seconds: what is no farther apart is taken for one sound
TOP = 20

_TOLERANCE = 1e-5  # seconds: less than a sample


@dataclass(frozen=True, eq=False)
class Example:
    """A sound to look for."""

    embedding: NDArray[np.float32]
    """(D,)"""
    file: str
    """path as in the embedding file, or, if the sound is not from there, of a recording"""
    start: float | None
    """seconds from the start of the recording; None: the example is all of it"""
    end: float | None
    clip: int | None = None
    """position of the recording among the index's `paths`, if the sound is from there"""


class EmbeddingIndex:
    """An embedding file, to be searched by cosine similarity.

    Parameters
    ----------
    table
        Of segments, or of clips, which then have no times. An embedding of zeros is like nothing, and never found.
    name
        Goes into messages.
    engine
        "sklearn", or "faiss" where that is installed; both search everything, and find the same.

    Raises
    ------
    StoreError
        Nothing in the table but zeros, values that are NaN or infinite, or columns that do not fit each other.
    WeakAudioError
        No such engine, or it is not installed.
    """

    def __init__(self, table: EmbeddingTable, name: str = "embeddings", engine: Engine = "sklearn") -> None:
        _check(table, name)
        self.name, self.paths, self.metadata = name, table.paths, table.metadata
        self.has_times = table.clip is not None
        n = len(table.embeddings)
        self._clip = np.arange(n) if table.clip is None else table.clip
        self._start = np.zeros(n) if table.start is None else table.start
        self._end = np.zeros(n) if table.end is None else table.end
        self._norms = np.linalg.norm(table.embeddings, axis=1).astype(np.float32)
        self._unit = np.divide(table.embeddings, np.maximum(self._norms, np.finfo(np.float32).tiny)[:, None])
        self._heard = np.flatnonzero(self._norms)
        if not len(self._heard):
            raise StoreError(f"{name}: all {n} embeddings are zero, so nothing is alike to anything")
        self._search = _searcher(self._unit if len(self._heard) == n else self._unit[self._heard], engine)

    @classmethod
    def from_file(cls, path: str | Path, engine: Engine = "sklearn") -> EmbeddingIndex:
        """An index of what `weakaudio embed` wrote; with `--level segment`, sounds are found inside recordings.

        Raises
        ------
        StoreError
            As `read_embeddings`, or as above.
        """
        return cls(read_embeddings(path), str(path), engine)

    def __len__(self) -> int:
        """Segments, or clips."""
        return len(self._unit)

    def embedder(self, model: str = "", device: str = "cpu") -> Embedder:
        """The embedder that made the file, for examples that are not in it.

        Parameters
        ----------
        model
            Name or path of the model; "": as it was given when the file was made.
        device
            Where the network runs.

        Raises
        ------
        CheckpointError
            As `weakaudio.load_model`.
        StoreError
            The model is another one, or the file does not say which one it was.
        """
        from weakaudio.inference.embedder import Embedder  # torch is of no use to an example that is in the file

        known = self.metadata
        if not model and not known.get("model"):
            raise StoreError(f"{self.name}: does not say which model made it; name it (--model)")
        pooling = "mean" if self.has_times else known.get("pooling", "mean")
        embedder = Embedder.from_pretrained(model or known["model"], known.get("layer", "f1"), pooling, device)
        self._check_embedder(embedder)
        return embedder

    def segment(self, file: str, start: float | None = None, seconds: float = SECONDS) -> Example:
        """An example from the embedding file itself: the mean of the segments whose middles lie in an excerpt.

        Parameters
        ----------
        file
            One of `paths`.
        start, seconds
            Where the excerpt begins and how long it is; None: all of the recording. If no segment has its middle
            there, it is the segment whose middle is nearest.

        Raises
        ------
        StoreError
            No such recording, no times, nothing of it at that time, or an embedding of zeros.
        """
        _check_excerpt(start, seconds)
        if file not in self.paths:
            raise StoreError(f"{self.name}: has no recording {file!r}; its first is {self.paths[0]!r}")
        clip = self.paths.index(file)
        rows = np.flatnonzero(self._clip == clip)
        if not len(rows):
            raise StoreError(f"{self.name}: has no segments of {file!r}")
        if start is not None:
            if not self.has_times:
                raise StoreError(
                    f"{self.name}: has one embedding a recording, so there is none at {start:g} s; embed with "
                    "--level segment, or take the recording as a whole"
                )
            if start >= self._end[rows].max():
                raise StoreError(f"{self.name}: {file!r} ends at {self._end[rows].max():g} s, before {start:g} s")
            middles = (self._start[rows] + self._end[rows]) / 2
            inside = (middles >= start) & (middles < start + seconds)
            rows = rows[inside] if inside.any() else rows[[np.argmin(np.abs(middles - start - seconds / 2))]]
        embedding = (self._unit[rows] * self._norms[rows, None]).mean(0)
        if not embedding.any():
            raise StoreError(f"{self.name}: the embedding of {file!r} there is zero, and alike to nothing")
        if not self.has_times:
            return Example(embedding, file, None, None, clip)
        return Example(embedding, file, float(self._start[rows].min()), float(self._end[rows].max()), clip)

    def excerpt(
        self, embedder: Embedder, path: str | Path, start: float | None = None, seconds: float = SECONDS
    ) -> Example:
        """An example from any recording, embedded by the model that made the file.

        Parameters
        ----------
        embedder
            Of the same model and layer as the file, and, if it has no times, of the same pooling.
        path
            The recording.
        start, seconds
            As for `segment`; the excerpt ends earlier where the recording does.

        Raises
        ------
        AudioError
            As `weakaudio.read_audio`, or the recording ends before `start`.
        StoreError
            The embedder is another one.
        """
        _check_excerpt(start, seconds)
        self._check_embedder(embedder)
        length = audio_info(path).seconds
        if start is not None and start >= length > 0:
            raise AudioError(f"{path}: ends at {length:g} s, before {start:g} s")
        audio, _ = read_audio(path, embedder.sample_rate, start or 0.0, None if start is None else seconds)
        found = embedder.embed_clips([audio])[0]
        embedding = found.segments.mean(0) if self.has_times else found.clip
        if start is None:
            return Example(embedding, str(path), None, None)
        return Example(embedding, str(path), start, min(start + seconds, length))

    def similar(self, example: Example, top: int = TOP, gap: float = GAP, keep_example: bool = False) -> pd.DataFrame:
        """What is most alike, best first.

        Of segments of one recording that overlap or are no farther apart than `gap`, only the one most alike is
        found, since they are the same sound (non-maximum suppression). So is what lies around the example.

        Parameters
        ----------
        example
            Of `segment` or `excerpt`.
        top
            Rows at most.
        gap
            Seconds.
        keep_example
            Find the example as well, if it is in the file.

        Returns
        -------
        file, start, end (seconds; not there for clips), similarity (cosine, in [-1, 1]).

        Raises
        ------
        WeakAudioError
            The example is of another width, not finite, or zero; `top` below 1, or `gap` below 0.
        """
        if top < 1 or not gap >= 0:
            raise WeakAudioError(f"top {top} and gap {gap}: expected 1 or more, and seconds, 0 or more")
        query = self._query(example)
        taken: dict[int, list[tuple[float, float]]] = {}
        if example.clip is not None and not keep_example:
            start = -np.inf if example.start is None else example.start
            taken[example.clip] = [(start, np.inf if example.end is None else example.end)]
        count = min(max(8 * top, 64), len(self._heard))
        while True:
            rows, similarities = self._nearest(query, count)
            kept = self._suppress(rows, {clip: list(spans) for clip, spans in taken.items()}, top, gap)
            if len(kept) == top or count == len(self._heard):
                break
            count = min(4 * count, len(self._heard))
        rows = rows[kept]
        files = pd.Series([self.paths[clip] for clip in self._clip[rows]], dtype=str)
        times = {"start": self._start[rows], "end": self._end[rows]} if self.has_times else {}
        return pd.DataFrame({"file": files, **times, "similarity": similarities[kept]})

    def _query(self, example: Example) -> NDArray[np.float32]:
        query = np.asarray(example.embedding, dtype=np.float32)
        if query.shape != self._unit.shape[1:]:
            raise WeakAudioError(
                f"{example.file}: an embedding of shape {query.shape}, but those of {self.name} are "
                f"{self._unit.shape[1]} wide"
            )
        norm = np.linalg.norm(query)
        if not (isfinite(norm) and norm > 0):
            raise WeakAudioError(f"{example.file}: its embedding is zero or not finite, and alike to nothing")
        unit: NDArray[np.float32] = (query / norm).astype(np.float32)
        return unit

    def _nearest(self, query: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows and similarities of the `count` most alike, best first, of equal ones the first in the file."""
        rows = np.sort(self._heard[self._search(query, count)])
        similarities = np.einsum("nd,d->n", self._unit[rows], query, dtype=np.float64).clip(-1, 1)
        order = np.argsort(-similarities, kind="stable")
        return rows[order], similarities[order]

    def _suppress(
        self, rows: NDArray[np.int64], taken: dict[int, list[tuple[float, float]]], top: int, gap: float
    ) -> list[int]:
        """Positions in `rows`, best first, of at most `top` that are apart from all before them."""
        kept: list[int] = []
        apart = gap + _TOLERANCE
        columns = (self._clip[rows].tolist(), self._start[rows].tolist(), self._end[rows].tolist())
        for n, (clip, start, end) in enumerate(zip(*columns, strict=True)):
            spans = taken.setdefault(clip, [])
            if all(start - other_end > apart or other_start - end > apart for other_start, other_end in spans):
                spans.append((start, end))
                kept.append(n)
                if len(kept) == top:
                    break
        return kept

    def _check_embedder(self, embedder: Embedder) -> None:
        known = self.metadata
        who = f"{self.name}: made by the model {known.get('model') or 'that it does not name'}"
        if known.get("checksum") != embedder.checksum:
            theirs, ours = (checksum[:12] for checksum in (known.get("checksum", "missing"), embedder.checksum))
            raise StoreError(
                f"{who} (checksum {theirs}), but the example is embedded by another one (checksum {ours}); use that "
                "model, or embed the recordings anew"
            )
        asked = {"layer": embedder.layer}
        if not self.has_times:
            asked["pooling"] = embedder.pooling
        for what, value in asked.items():
            if known.get(what) != value:
                raise StoreError(f"{who} with {what} {known.get(what)!r}, but the example is embedded with {value!r}")


def choose_example(
    index: EmbeddingIndex,
    source: str,
    start: float | None = None,
    seconds: float = SECONDS,
    folder: str | Path | None = None,
    model: str = "",
    device: str = "cpu",
) -> Example:
    """An example by the name of its recording: from the index if it is there, else embedded.

    Parameters
    ----------
    index
        Where it is to be searched.
    source
        Path as in the index, or of any recording.
    start, seconds
        As for `EmbeddingIndex.segment`.
    folder
        The folder that was embedded: a path below it is one of the index.
    model, device
        As for `EmbeddingIndex.embedder`.

    Raises
    ------
    WeakAudioError
        As `EmbeddingIndex.segment`, `embedder` and `excerpt`; or `source` is neither.
    """
    names = [source]
    if folder is not None:
        names.append(printable(Path(os.path.relpath(source, folder)).as_posix()))
    for name in names:
        if name in index.paths:
            return index.segment(name, start, seconds)
    if not Path(source).is_file():
        raise AudioError(
            f"{source}: no such file, and no recording of {index.name}, of which the first is {index.paths[0]!r}"
        )
    return index.excerpt(index.embedder(model, device), source, start, seconds)


def _check_excerpt(start: float | None, seconds: float) -> None:
    if start is not None and not (isfinite(start) and start >= 0 and isfinite(seconds) and seconds > 0):
        raise WeakAudioError(f"{seconds} s from {start} s: expected a start of 0 or more, and a length above 0")


def _check(table: EmbeddingTable, name: str) -> None:
    embeddings = table.embeddings
    if embeddings.ndim != 2 or not embeddings.size:
        raise StoreError(f"{name}: no embeddings in it (an array of shape {embeddings.shape})")
    if not len(table.paths):
        raise StoreError(f"{name}: no recordings in it")
    n = len(embeddings)
    if table.clip is None:
        columns = {"paths": len(table.paths)}
    else:
        columns = {what: len(v) for what in ("clip", "start", "end") if (v := getattr(table, what)) is not None}
    for what, length in columns.items():
        if length != n:
            raise StoreError(f"{name}: {n} embeddings, but {length} {what}; the file is damaged")
    if table.clip is not None:
        if table.start is None or table.end is None:
            raise StoreError(f"{name}: segments without start or end; the file is damaged")
        if table.clip.min() < 0 or table.clip.max() >= len(table.paths):
            raise StoreError(f"{name}: segments of clips that are not among its {len(table.paths)} paths")
        if not (np.isfinite(table.start).all() and np.isfinite(table.end).all()):
            raise StoreError(f"{name}: times that are NaN or infinite; the file is damaged")
    wrong = np.flatnonzero(~np.isfinite(embeddings).all(1))
    if len(wrong):
        first = table.paths[wrong[0] if table.clip is None else table.clip[wrong[0]]]
        raise StoreError(
            f"{name}: {len(wrong)} of {n} embeddings hold NaN or infinite values, the first of them of {first!r}; "
            "embed the recordings anew"
        )


def _searcher(unit: NDArray[np.float32], engine: Engine) -> Search:
    """Nearest neighbours among unit vectors (n, D), where the nearest are those of the highest cosine."""
    if engine not in get_args(Engine):
        raise WeakAudioError(f"engine {engine!r}: unknown; there are {', '.join(get_args(Engine))}")
    if engine == "faiss":
        try:
            import faiss
        except ImportError as error:
            raise WeakAudioError(
                f"engine 'faiss': not installed ({error}); `pip install weakaudio[faiss]`, or use 'sklearn'"
            ) from error
        index = faiss.IndexFlatIP(unit.shape[1])
        index.add(unit)
        return lambda query, count: index.search(query[None], count)[1][0]

    from sklearn.neighbors import NearestNeighbors

    # Of unit vectors, Euclidean order is cosine order, and scikit-learn searches it in chunks: with "cosine" it would
    # copy all of them for each query.
    neighbours = NearestNeighbors(algorithm="brute", metric="euclidean").fit(unit)
    return lambda query, count: neighbours.kneighbors(query[None], count, return_distance=False)[0]
