"""A folder of recordings becomes one file of embeddings; a run that is killed goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from weakaudio import __version__
from weakaudio.batch.checkpoint import Arrays, RunCheckpoint
from weakaudio.batch.recordings import Recording, find_recordings
from weakaudio.batch.run import Engine, Failures, RunSummary, analyse_recordings, collect_failures, open_journal
from weakaudio.batch.runner import analyse_groups
from weakaudio.errors import WeakAudioError
from weakaudio.files import printable
from weakaudio.formats.embeddings import Rows, check_suffix, write_rows
from weakaudio.inference.embedder import Embedder
from weakaudio.inference.parts import Pooled
from weakaudio.inference.windows import Window

Level = Literal["clip", "segment"]

_ROWS = 4096  # that are written together


class EmbeddingAnalysis:
    """Windows become embeddings, of segments or pooled."""

    n_beside = 0

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
        """The clip embedding; of a part of a longer recording, what it is made of."""
        if window.is_last and window.start == 0:
            return {"n": np.array([pooled.n]), "embedding": self.embedder.pool([pooled])}
        arrays = {name: getattr(pooled, name) for name in ("mean", "max", "std", "probs")}
        return {"n": np.array([pooled.n]), **arrays}

    def clip(self, parts: Sequence[Arrays]) -> np.ndarray:
        """(D,) of a recording, from what `analyse` gave for its windows."""
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
    engine: Engine = analyse_groups,
) -> RunSummary:
    """Embed all audio below a folder, sorted by path, into one file; or a single recording.

    Recordings that cannot be read are left out and listed, with the reason, in failures.csv beside `out`. What is
    found is kept in `out`.journal as it is found: a run that was killed goes on, and a later one does what is new or
    has changed. The journal may be deleted.

    Parameters
    ----------
    embedder
        Decides model, layer and pooling.
    source
        Searched with all folders below it; or the path of one recording; or recordings.
    out
        .h5, .npz or .parquet.
    level
        "clip": one embedding a recording; "segment": one for each segment, with start and end in seconds.
    model_name, command
        Stand in the file's metadata.
    include, exclude
        As for `find_recordings`.
    overwrite
        Begin anew where `out` is of a run with another model or other settings.
    engine
        What analyses the recordings: here, or on a cluster.

    Raises
    ------
    AudioError
        No audio below the folder, or none that can be read.
    StoreError
        `out` has no known format, or is of another run.
    WeakAudioError
        No such level, or `out` cannot be written.
    """
    if level not in ("clip", "segment"):
        raise WeakAudioError(f"level {level!r}: unknown; there are clip, segment")
    out = Path(out)
    check_suffix(out)
    recordings, unseen = find_recordings(source, include, exclude)
    analysis = EmbeddingAnalysis(embedder, level)
    journal = open_journal(analysis, source, out, overwrite)
    try:
        analyse_recordings(analysis, recordings, journal, engine)
        return _write(analysis, journal, recordings, unseen, out, source, model_name, command)
    finally:
        journal.close()


def _write(
    analysis: EmbeddingAnalysis,
    journal: RunCheckpoint,
    recordings: Sequence[Recording],
    unseen: Failures,
    out: Path,
    source: object,
    model_name: str,
    command: str,
) -> RunSummary:
    done, failures = collect_failures(journal, recordings, unseen, out, source)
    embedder, level = analysis.embedder, analysis.level
    n_rows = len(done)
    if level == "segment":
        n_rows = sum(journal.n_rows(own.name) for own in done)
    n_features = embedder.n_features if level == "clip" else embedder.n_segment_features
    metadata = {
        "model": printable(model_name),
        "checksum": embedder.checksum,
        "layer": embedder.layer,
        "level": level,
        "pooling": str(analysis.settings["pooling"]),
        "dtype": str(analysis.settings["dtype"]),
        "weakaudio": __version__,
        "command": printable(command),
    }
    names = [own.name for own in done]
    rows = _segment_rows(journal, names) if level == "segment" else _clip_rows(analysis, journal, names)
    write_rows(rows, out, names, (n_rows, n_features), metadata)
    return RunSummary(out, len(done), sum(done.values()), n_rows, f"{level}s", failures)


def _segment_rows(journal: RunCheckpoint, names: list[str]) -> Iterator[Rows]:
    embeddings, clips, times = [], [], []
    waiting = 0
    for n, name in enumerate(names):
        for part in journal.parts(name):
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


def _clip_rows(analysis: EmbeddingAnalysis, journal: RunCheckpoint, names: list[str]) -> Iterator[Rows]:
    for first in range(0, len(names), _ROWS):
        some = names[first : first + _ROWS]
        clips = np.stack([analysis.clip(list(journal.parts(name))) for name in some])
        yield Rows(clips, np.arange(first, first + len(some)))
