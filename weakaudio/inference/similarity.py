"""Query by example: find the sounds in an embedding file that are most similar to an example."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from weakaudio.audio.io import audio_info, read_audio
from weakaudio.errors import AudioError, StoreError, WeakAudioError
from weakaudio.files import printable
from weakaudio.formats.embeddings import EmbeddingTable, read_embeddings

if TYPE_CHECKING:
    from weakaudio.inference.embedder import Embedder

ENGINES = ("sklearn", "faiss")
SECONDS = 1.0  # length of an example
GAP = 1.0  # seconds: results closer than this count as one sound
TOP = 20

_TOLERANCE = 1e-5  # seconds, less than a sample


@dataclass(frozen=True, eq=False)
class Example:
    """A sound to search for."""

    embedding: NDArray[np.float32]
    """(D,)"""
    file: str
    """path in the embedding file, or path of another recording"""
    start: float | None
    """seconds from the start of the recording; None for all of it"""
    end: float | None
    clip: int | None = None
    """position of the recording in `EmbeddingIndex.paths`; None if it is not in the index"""


class EmbeddingIndex:
    """Exhaustive search of embeddings by cosine similarity.

    Parameters
    ----------
    table
        Embeddings of segments, or of clips, which have no times. Embeddings of zeros are never found.
    name
        Name used in messages.
    engine
        "sklearn", or "faiss" if that is installed; both give the same results.

    Raises
    ------
    StoreError
        All embeddings are zero, some are NaN or infinite, or columns differ in length.
    WeakAudioError
        Unknown engine, or it is not installed.
    """

    def __init__(self, table: EmbeddingTable, name: str = "embeddings", engine: str = "sklearn") -> None:
        _check(table, name)
        self.name, self.paths, self.metadata = name, table.paths, table.metadata
        self.has_times = table.clip is not None
        n = len(table.embeddings)
        self._clip = np.arange(n) if table.clip is None else table.clip
        self._start = np.zeros(n) if table.start is None else table.start
        self._end = np.zeros(n) if table.end is None else table.end
        self._norms = np.linalg.norm(table.embeddings, axis=1).astype(np.float32)
        self._unit = np.divide(table.embeddings, np.maximum(self._norms, np.finfo(np.float32).tiny)[:, None])
        self._nonzero = np.flatnonzero(self._norms)
        if not len(self._nonzero):
            raise StoreError(f"{name}: all {n} embeddings are zero, so they have no similarity to anything")
        self._search = _searcher(self._unit if len(self._nonzero) == n else self._unit[self._nonzero], engine)

    @classmethod
    def from_file(cls, path: str | Path, engine: str = "sklearn") -> EmbeddingIndex:
        """Index a file written by `weakaudio embed`; with `--level segment`, sounds are found within recordings.

        Raises
        ------
        StoreError
            See `read_embeddings` and `EmbeddingIndex`.
        """
        return cls(read_embeddings(path), str(path), engine)

    def __len__(self) -> int:
        """Number of segments or clips."""
        return len(self._unit)

    def embedder(self, model: str = "", device: str = "cpu") -> Embedder:
        """Load the embedder that wrote the file, for examples that are not in it.

        Parameters
        ----------
        model
            Name or path of the model; "" for the one recorded in the file.
        device
            Torch device, or "auto".

        Raises
        ------
        CheckpointError
            See `weakaudio.load_model`.
        StoreError
            The model is not the one that wrote the file, or the file does not record one.
        """
        from weakaudio.inference.embedder import Embedder  # loads torch, which examples from the file do not need

        known = self.metadata
        if not model and not known.get("model"):
            raise StoreError(f"{self.name}: does not record its model; name it (--model)")
        pooling = "mean" if self.has_times else known.get("pooling", "mean")
        layer, dtype = known.get("layer", "f1"), known.get("dtype", "float32")
        embedder = Embedder.from_pretrained(model or known["model"], layer, pooling, device, dtype)
        self._check_embedder(embedder)
        return embedder

    def segment(self, file: str, start: float | None = None, seconds: float = SECONDS) -> Example:
        """Take an example from the file itself: the mean of the segments whose centres lie in an excerpt.

        Parameters
        ----------
        file
            One of `paths`.
        start, seconds
            Start and length of the excerpt; a start of None takes the entire recording. If no segment has its centre
            in the excerpt, the one with the nearest centre is taken.

        Raises
        ------
        StoreError
            The recording is not in the file, has no times or ends before `start`, or the embedding is zero.
        """
        _check_excerpt(start, seconds)
        if file not in self.paths:
            raise StoreError(f"{self.name}: has no recording {file!r}; the first one is {self.paths[0]!r}")
        clip = self.paths.index(file)
        rows = np.flatnonzero(self._clip == clip)
        if not len(rows):
            raise StoreError(f"{self.name}: has no segments of {file!r}")
        if start is not None:
            if not self.has_times:
                raise StoreError(
                    f"{self.name}: has one embedding for each recording, so none at {start:g} s; embed with "
                    "--level segment, or use the entire recording"
                )
            if start >= self._end[rows].max():
                raise StoreError(f"{self.name}: {file!r} ends at {self._end[rows].max():g} s, before {start:g} s")
            centres = (self._start[rows] + self._end[rows]) / 2
            inside = (centres >= start) & (centres < start + seconds)
            rows = rows[inside] if inside.any() else rows[[np.argmin(np.abs(centres - start - seconds / 2))]]
        embedding = (self._unit[rows] * self._norms[rows, None]).mean(0)
        if not embedding.any():
            raise StoreError(f"{self.name}: the embedding of {file!r} there is zero, so nothing is similar to it")
        if not self.has_times:
            return Example(embedding, file, None, None, clip)
        return Example(embedding, file, float(self._start[rows].min()), float(self._end[rows].max()), clip)

    def excerpt(
        self, embedder: Embedder, path: str | Path, start: float | None = None, seconds: float = SECONDS
    ) -> Example:
        """Embed an example from any recording, with the model that wrote the file.

        Parameters
        ----------
        embedder
            Embedder with the model and layer of the file and, if the file has no times, its pooling.
        path
            The recording.
        start, seconds
            See `segment`; the excerpt is cut off at the end of the recording.

        Raises
        ------
        AudioError
            See `weakaudio.read_audio`; or the recording ends before `start`.
        StoreError
            The embedder has another model, layer or pooling.
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
        """Find the most similar sounds, best first.

        Among segments of a recording that overlap or are at most `gap` apart, only the most similar one is kept, as
        they belong to one sound (non-maximum suppression). The example and its surroundings are excluded likewise.

        Parameters
        ----------
        example
            Example from `segment` or `excerpt`.
        top
            Maximum number of results.
        gap
            Seconds.
        keep_example
            Include the example itself, if it is in the file.

        Returns
        -------
        file, start, end (seconds; absent for clips), similarity (cosine, in [-1, 1]).

        Raises
        ------
        WeakAudioError
            The example has another width, is not finite or is zero; `top` is below 1, or `gap` below 0.
        """
        if top < 1 or not gap >= 0:
            raise WeakAudioError(f"top {top}, gap {gap}: expected top of 1 or more and gap of 0 s or more")
        query = self._query(example)
        taken: dict[int, list[tuple[float, float]]] = {}
        if example.clip is not None and not keep_example:
            start = -np.inf if example.start is None else example.start
            taken[example.clip] = [(start, np.inf if example.end is None else example.end)]
        count = min(max(8 * top, 64), len(self._nonzero))
        while True:
            rows, similarities = self._nearest(query, count)
            kept = self._suppress(rows, {clip: list(spans) for clip, spans in taken.items()}, top, gap)
            if len(kept) == top or count == len(self._nonzero):
                break
            count = min(4 * count, len(self._nonzero))
        rows = rows[kept]
        files = pd.Series([self.paths[clip] for clip in self._clip[rows]], dtype=str)
        times = {"start": self._start[rows], "end": self._end[rows]} if self.has_times else {}
        return pd.DataFrame({"file": files, **times, "similarity": similarities[kept]})

    def _query(self, example: Example) -> NDArray[np.float32]:
        query = np.asarray(example.embedding, dtype=np.float32)
        if query.shape != self._unit.shape[1:]:
            raise WeakAudioError(
                f"{example.file}: embedding of shape {query.shape}; {self.name} has {self._unit.shape[1]} features"
            )
        norm = np.linalg.norm(query)
        if not (isfinite(norm) and norm > 0):
            raise WeakAudioError(f"{example.file}: its embedding is zero or not finite, so nothing is similar to it")
        unit: NDArray[np.float32] = (query / norm).astype(np.float32)
        return unit

    def _nearest(self, query: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find rows and similarities of the `count` nearest, best first; ties in the order of the file."""
        rows = np.sort(self._nonzero[self._search(query, count)])
        similarities = np.einsum("nd,d->n", self._unit[rows], query, dtype=np.float64).clip(-1, 1)
        order = np.argsort(-similarities, kind="stable")
        return rows[order], similarities[order]

    def _suppress(
        self, rows: NDArray[np.int64], taken: dict[int, list[tuple[float, float]]], top: int, gap: float
    ) -> list[int]:
        """Select positions in `rows`, best first: at most `top`, each apart from all before it."""
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
        who = f"{self.name}: written by the model {known.get('model') or '(not recorded)'}"
        if known.get("checksum") != embedder.checksum:
            theirs, ours = (checksum[:12] for checksum in (known.get("checksum", "missing"), embedder.checksum))
            raise StoreError(
                f"{who} (checksum {theirs}), but the example is embedded by another one (checksum {ours}); use the "
                "same model, or embed the recordings again"
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
    """Get an example by the path of its recording: from the index if it is there, embedded otherwise.

    Parameters
    ----------
    index
        Index that will be searched.
    source
        Path in the index, or of any recording.
    start, seconds
        See `EmbeddingIndex.segment`.
    folder
        Folder that was embedded: paths below it are looked up in the index.
    model, device
        See `EmbeddingIndex.embedder`.

    Raises
    ------
    WeakAudioError
        See `EmbeddingIndex.segment`, `embedder` and `excerpt`; or `source` is neither.
    """
    names = [source]
    if folder is not None:
        names.append(printable(Path(os.path.relpath(source, folder)).as_posix()))
    for name in names:
        if name in index.paths:
            return index.segment(name, start, seconds)
    if not Path(source).is_file():
        raise AudioError(
            f"{source}: no such file, and not in {index.name}, where the first recording is {index.paths[0]!r}"
        )
    return index.excerpt(index.embedder(model, device), source, start, seconds)


def _check_excerpt(start: float | None, seconds: float) -> None:
    if start is not None and not (isfinite(start) and start >= 0 and isfinite(seconds) and seconds > 0):
        raise WeakAudioError(f"{seconds} s from {start} s: expected a start of 0 or more and a length above 0")


def _check(table: EmbeddingTable, name: str) -> None:
    embeddings = table.embeddings
    if embeddings.ndim != 2 or not embeddings.size:
        raise StoreError(f"{name}: has no embeddings (an array of shape {embeddings.shape})")
    if not len(table.paths):
        raise StoreError(f"{name}: has no recordings")
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
            f"{name}: {len(wrong)} of {n} embeddings hold NaN or infinite values, the first from {first!r}; embed "
            "the recordings again"
        )


def _searcher(unit: NDArray[np.float32], engine: str) -> Callable[[NDArray[np.float32], int], NDArray[np.int64]]:
    """Build a function from a unit vector (D,) and k to the positions of the k nearest of the vectors (n, D)."""
    if engine not in ENGINES:
        raise WeakAudioError(f"engine {engine!r}: unknown; there are {', '.join(ENGINES)}")
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

    # Euclidean and cosine order of unit vectors are equal, and with "cosine" each query would copy all vectors.
    neighbours = NearestNeighbors(algorithm="brute", metric="euclidean").fit(unit)
    return lambda query, count: neighbours.kneighbors(query[None], count, return_distance=False)[0]
