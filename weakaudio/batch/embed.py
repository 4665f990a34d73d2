"""A folder of recordings becomes one file of embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from weakaudio import __version__
from weakaudio.batch.checkpoint import Arrays, RunCheckpoint
from weakaudio.batch.recordings import Recording, find_recordings
from weakaudio.batch.runner import (
    AnalyseGroups,
    RunSummary,
    analyse_groups,
    analyse_recordings,
    collect_outcomes,
    open_checkpoint,
)
from weakaudio.errors import WeakAudioError
from weakaudio.files import printable
from weakaudio.formats.embeddings import Rows, check_suffix, write_rows
from weakaudio.inference.embedder import Embedder
from weakaudio.inference.parts import Pooled
from weakaudio.inference.windows import Window

Level = Literal["clip", "segment"]

_ROWS = 4096  # written together


class EmbeddingAnalysis:
    """Turns windows into embeddings, of segments or pooled."""

    context = 0

    def __init__(self, embedder: Embedder, level: Level) -> None:
        self.embedder, self.level, self.model = embedder, level, embedder.model
        self.settings: dict[str, Any] = {
            "job": "embed",
            "model": embedder.checksum,
            "layer": embedder.layer,
            "pooling": embedder.pooling if level == "clip" else "none",
            "dtype": embedder.dtype,
            "level": level,
            "weakaudio": __version__,
        }

    def analyse(self, windows: Sequence[Window]) -> list[Arrays]:
        parts = self.embedder.embed_windows(windows)
        if self.level == "segment":
            return [{"embeddings": part.segments, "times": part.times} for part in parts]
        return [self._pooled(Pooled.of(part), window) for part, window in zip(parts, windows, strict=True)]

    def _pooled(self, pooled: Pooled, window: Window) -> Arrays:
        """The clip embedding or, for a part of a longer recording, the summary that it is made from."""
        if window.is_last and window.start == 0:
            return {"n": np.array([pooled.n]), "embedding": self.embedder.pool([pooled])}
        arrays = {name: getattr(pooled, name) for name in ("mean", "max", "std", "probs")}
        return {"n": np.array([pooled.n]), **arrays}

    def clip(self, parts: Sequence[Arrays]) -> np.ndarray:
        """(D,) clip embedding of a recording, from the arrays of its windows."""
        if "embedding" in parts[0]:
            return parts[0]["embedding"]
        names = ("mean", "max", "std", "probs")
        return self.embedder.pool([Pooled(int(part["n"][0]), *(part[name] for name in names)) for part in parts])


def embed_folder(
    embedder: Embedder,
    source: str | Path | Sequence[Recording],
    out: str | Path,
    level: Level = "clip",
    model_name: str = "",
    command: str = "",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    engine: AnalyseGroups = analyse_groups,
) -> RunSummary:
    """Embed all audio below a folder, sorted by path, into one file; or a single recording.

    Recordings that cannot be read are listed, with the reason, in failures.csv beside `out`. Results are kept in
    `out`.journal as they are found: a killed run resumes, and a later one embeds what is new or has changed. The
    folder may be moved in between. The journal may be deleted.

    Parameters
    ----------
    embedder
        Model, layer and pooling.
    source
        A folder, searched with all folders below it; the path of one recording; or a list of recordings.
    out
        .h5, .npz or .parquet.
    level
        "clip": one embedding a recording; "segment": one for each segment, with start and end in seconds.
    model_name, command
        Are written to the file's metadata.
    include, exclude
        As for `find_recordings`.
    overwrite
        Start again if `out` was made with another model or other settings.
    engine
        Analyses the recordings: on this machine, or on a cluster (`weakaudio.batch.ray`).

    Raises
    ------
    AudioError
        No audio below the folder, or none that can be read.
    StoreError
        The format of `out` is unknown, or it was made with other settings, or from another folder.
    WeakAudioError
        No such level, or `out` cannot be written.
    """
    if level not in ("clip", "segment"):
        raise WeakAudioError(f"level {level!r}: unknown; there are clip, segment")
    out = Path(out)
    check_suffix(out)
    recordings, unreadable = find_recordings(source, include, exclude)
    analysis = EmbeddingAnalysis(embedder, level)
    with open_checkpoint(analysis, source, out, overwrite) as checkpoint:
        analyse_recordings(analysis, recordings, checkpoint, engine)
        done, failures = collect_outcomes(checkpoint, recordings, unreadable, out, source)
        names = [own.name for own in done]
        if level == "segment":
            rows, n_rows = _segment_rows(checkpoint, names), sum(map(checkpoint.n_rows, names))
        else:
            rows, n_rows = _clip_rows(analysis, checkpoint, names), len(names)
        n_features = embedder.n_features if level == "clip" else embedder.n_segment_features
        metadata = {
            "model": printable(model_name),
            "checksum": embedder.checksum,
            "layer": embedder.layer,
            "level": level,
            "pooling": str(analysis.settings["pooling"]),
            "dtype": embedder.dtype,
            "weakaudio": __version__,
            "command": printable(command),
        }
        write_rows(rows, out, names, (n_rows, n_features), metadata)
    return RunSummary(out, done, n_rows, f"{level}s", failures)


def _segment_rows(checkpoint: RunCheckpoint, names: list[str]) -> Iterator[Rows]:
    embeddings, clips, times = [], [], []
    waiting = 0
    for n, name in enumerate(names):
        for part in checkpoint.parts(name):
            embeddings.append(part["embeddings"])
            clips.append(np.full(len(part["times"]), n))
            times.append(part["times"])
            waiting += len(part["times"])
            if waiting >= _ROWS:
                yield _rows(embeddings, clips, times)
                embeddings, clips, times, waiting = [], [], [], 0
    if waiting:
        yield _rows(embeddings, clips, times)


def _rows(embeddings: list[np.ndarray], clips: list[np.ndarray], times: list[np.ndarray]) -> Rows:
    start, end = np.concatenate(times).T
    return Rows(np.concatenate(embeddings), np.concatenate(clips), start, end)


def _clip_rows(analysis: EmbeddingAnalysis, checkpoint: RunCheckpoint, names: list[str]) -> Iterator[Rows]:
    for first in range(0, len(names), _ROWS):
        some = names[first : first + _ROWS]
        clips = np.stack([analysis.clip(list(checkpoint.parts(name))) for name in some])
        yield Rows(clips, np.arange(first, first + len(some)))
