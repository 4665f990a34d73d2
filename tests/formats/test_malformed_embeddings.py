"""Damaged files of embeddings are refused, or read as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from malformed import Outcome, expect, read_damaged

from weakaudio.errors import WeakAudioError
from weakaudio.formats.embeddings import EmbeddingTable, read_embeddings


def _check_embeddings(path: Path, seed: Path, changes: tuple[str, ...]) -> Outcome:
    try:
        table = read_embeddings(path)
    except WeakAudioError:
        return "refused"
    expect(table.embeddings.ndim == 2 and table.embeddings.dtype == np.float32, "embeddings of another kind")
    expect(bool(np.isfinite(table.embeddings).all()), "embeddings that are not finite")
    expect(all(isinstance(name, str) for name in table.paths), "paths that are not text")
    expect(all(isinstance(value, str) for value in table.metadata.values()), "metadata that are not text")
    segments = (table.clip, table.start, table.end)
    if table.clip is None or table.start is None or table.end is None:
        expect(all(column is None for column in segments), "some columns of segments and not all")
        expect(len(table.paths) == len(table.embeddings), "more or fewer paths than embeddings")
    else:
        expect(all(column.shape == (len(table.embeddings),) for column in segments if column is not None), "shapes")
        expect(np.issubdtype(table.clip.dtype, np.integer), "positions that are not integers")
        inside = (table.clip >= 0) & (table.clip < len(table.paths))
        expect(bool(inside.all()), "segments of clips that do not exist")
        times = np.stack([table.start, table.end]).astype(float)
        expect(bool(np.isfinite(times).all()), "times that are not finite")
    if path.suffix == ".npz" and "inside" not in changes:  # the archive has checksums
        whole = [read_embeddings(other) for other in seed.parent.glob("*.npz")]  # or the other one, if spliced in
        expect(any(_same(table, other) for other in whole), "not what was written")
    return "read"


def _same(one: EmbeddingTable, other: EmbeddingTable) -> bool:
    names = ("embeddings", "clip", "start", "end")
    return (one.paths, one.metadata) == (other.paths, other.metadata) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in names
    )


@pytest.mark.parametrize("kind", ["embeddings HDF5", "embeddings NPZ", "embeddings Parquet"])
def test_damaged_embeddings_are_refused_or_read_as_they_were_written(kind: str, intact: Path, scratch: Path) -> None:
    read_damaged(kind, _check_embeddings, intact, scratch)
