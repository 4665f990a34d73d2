"""Embeddings on disk: the same names in HDF5, NPZ and Parquet."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from weakaudio.errors import StoreError, WeakAudioError

SUFFIXES = (".h5", ".npz", ".parquet")


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """Embeddings of many recordings: one row a clip, or, with `clip`, `start` and `end`, one row a segment."""

    paths: list[str]
    """(clips,) relative to the folder that was embedded"""
    embeddings: NDArray[np.float32]
    """(clips, D) or (segments, D)"""
    metadata: dict[str, str]
    """model, checksum, command, layer, ..."""
    clip: NDArray[np.int64] | None = None
    """(segments,) position in `paths`"""
    start: NDArray[np.float64] | None = None
    """(segments,) seconds from the start of the recording"""
    end: NDArray[np.float64] | None = None
    """(segments,) seconds"""


_SEGMENT_COLUMNS = ("clip", "start", "end")


def check_suffix(path: str | Path) -> None:
    """Refuse a name that says no format.

    Raises
    ------
    StoreError
        It does not end in .h5, .npz or .parquet.
    """
    if Path(path).suffix not in SUFFIXES:
        raise StoreError(f"{path}: the name must end in {', '.join(SUFFIXES)}, which chooses the format")


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a table that is written piece by piece."""

    embeddings: NDArray[np.float32]
    """(n, D)"""
    clip: NDArray[np.int64]
    """(n,) position in the table's `paths`"""
    start: NDArray[np.float64] | None = None
    """(n,) seconds; None where a row is a clip"""
    end: NDArray[np.float64] | None = None


def write_embeddings(table: EmbeddingTable, path: str | Path) -> None:
    """Write a table in the format its name ends in, beside first and then renamed into place.

    HDF5 and NPZ hold `paths`, `embeddings` and, for segments, `clip`, `start`, `end`; the metadata are HDF5's
    attributes, and JSON in NPZ's `metadata`. Parquet has a column for each of them and one row an embedding,
    with `paths` repeated for a clip's segments; the metadata are the schema's.

    Raises
    ------
    StoreError
        As `check_suffix`.
    """
    clip = np.arange(len(table.paths)) if table.clip is None else table.clip
    rows = Rows(table.embeddings, clip, table.start, table.end)
    write_rows([rows], path, table.paths, table.embeddings.shape, table.metadata)


def write_rows(
    rows: Iterable[Rows], path: str | Path, paths: list[str], shape: tuple[int, ...], metadata: dict[str, str]
) -> None:
    """As `write_embeddings`, of a table that need not fit in memory; its embeddings have the (rows, D) of `shape`.

    Raises
    ------
    StoreError
        As `check_suffix`.
    WeakAudioError
        The disk is full, or the file cannot be written for another reason.
    """
    path = Path(path)
    check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    writer = {".h5": _write_hdf5, ".npz": _write_npz, ".parquet": _write_parquet}[path.suffix]
    try:
        writer(rows, beside, paths, shape, metadata)
        os.replace(beside, path)
    except (OSError, RuntimeError, pa.ArrowException) as error:
        raise WeakAudioError(f"{path}: cannot be written ({error})") from error
    finally:
        beside.unlink(missing_ok=True)


def _write_hdf5(
    rows: Iterable[Rows], path: Path, paths: list[str], shape: tuple[int, ...], metadata: dict[str, str]
) -> None:
    # Through a file of Python: HDF5's own way to the disk does not survive a full one.
    with path.open("w+b") as raw, h5py.File(raw, "w") as file:
        # Texts of one length: over damaged text of any length HDF5 (2.0.0) can hang for ever.
        encoded = [text.encode() for text in paths]
        kind = h5py.string_dtype("utf-8", max([1, *map(len, encoded)]))
        file.create_dataset("paths", data=np.array(encoded, dtype=kind))
        file.create_dataset("embeddings", shape, np.float32)
        for name, text in metadata.items():
            file.attrs.create(name, text.encode(), dtype=h5py.string_dtype("utf-8", max(1, len(text.encode()))))
        n = 0
        for some in rows:
            here = slice(n, n + len(some.embeddings))
            file["embeddings"][here] = some.embeddings
            for name, values in _columns(some).items():
                if name not in file:
                    file.create_dataset(name, shape[:1], values.dtype)
                file[name][here] = values
            n = here.stop


def _write_npz(
    rows: Iterable[Rows], path: Path, paths: list[str], shape: tuple[int, ...], metadata: dict[str, str]
) -> None:
    columns: dict[str, list[NDArray[Any]]] = {}
    with zipfile.ZipFile(path, "w") as archive:

        def entry(name: str) -> IO[bytes]:
            # The date of an entry would make each run's file another one.
            return archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True)

        with entry("embeddings") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            for some in rows:
                file.write(np.ascontiguousarray(some.embeddings, "<f4").tobytes())
                for name, values in _columns(some).items():
                    columns.setdefault(name, []).append(values)
        arrays = {"paths": np.array(paths, dtype=np.str_), "metadata": np.array(json.dumps(metadata))}
        for name, array in {**arrays, **{name: np.concatenate(parts) for name, parts in columns.items()}}.items():
            with entry(name) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _write_parquet(
    rows: Iterable[Rows], path: Path, paths: list[str], shape: tuple[int, ...], metadata: dict[str, str]
) -> None:
    vector = pa.list_(pa.float32(), shape[1])
    with ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for some in rows:
            embeddings = pa.FixedSizeListArray.from_arrays(pa.array(some.embeddings.reshape(-1)), type=vector)
            columns = {"paths": pa.array([paths[n] for n in some.clip], pa.string()), **_columns(some)}
            table = pa.table({**columns, "embeddings": embeddings}).replace_schema_metadata(metadata)
            writer = writer or stack.enter_context(pq.ParquetWriter(path, table.schema))
            writer.write_table(table)


def _columns(rows: Rows) -> dict[str, NDArray[Any]]:
    """What a table of segments has beside its embeddings."""
    if rows.start is None or rows.end is None:
        return {}
    return {"clip": rows.clip, "start": rows.start, "end": rows.end}


def read_embeddings(path: str | Path) -> EmbeddingTable:
    """Read what `write_embeddings` wrote.

    Raises
    ------
    StoreError
        No such file, cut short, or no embeddings in it.
    """
    path = Path(path)
    check_suffix(path)
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    reader = {".h5": _read_hdf5, ".npz": _read_npz, ".parquet": _read_parquet}[path.suffix]
    try:
        table = reader(path)
        _check_table(table)
    except Exception as error:  # of damaged bytes h5py, numpy and pyarrow make errors of nearly every kind
        raise StoreError(f"{path}: damaged, cut short, or not a file of embeddings ({error})") from error
    return table


def _check_table(table: EmbeddingTable) -> None:
    """Refuse what `write_embeddings` never writes: by ValueError."""
    n, segments = len(table.embeddings), (table.clip, table.start, table.end)
    if table.embeddings.ndim != 2 or table.embeddings.dtype != np.float32 or not np.isfinite(table.embeddings).all():
        raise ValueError("embeddings are no table of finite float32 numbers")
    if not all(isinstance(text, str) for text in [*table.paths, *table.metadata.values()]):
        raise ValueError("paths or metadata are not text")
    if table.clip is None or table.start is None or table.end is None:
        if any(column is not None for column in segments) or len(table.paths) != n:
            raise ValueError(f"{len(table.paths)} paths for {n} embeddings")
        return
    if any(column is None or column.shape != (n,) for column in segments) or table.clip.dtype.kind not in "iu":
        raise ValueError(f"clip, start and end are not columns of {n} numbers")
    if not ((table.clip >= 0) & (table.clip < len(table.paths))).all():
        raise ValueError("segments of clips that are not there")
    if not (np.isfinite(table.start) & np.isfinite(table.end)).all():
        raise ValueError("times that are not finite")


def _read_hdf5(path: Path) -> EmbeddingTable:
    with h5py.File(path, "r") as file:
        segments = {name: file[name][:] for name in _SEGMENT_COLUMNS if name in file}
        attributes = file.attrs.items()  # text of any length in files of earlier releases
        metadata = {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in attributes}
        return EmbeddingTable(list(file["paths"].asstr()[:]), file["embeddings"][:], metadata, **segments)


def _read_npz(path: Path) -> EmbeddingTable:
    with np.load(path, allow_pickle=False) as file:
        segments = {name: file[name] for name in _SEGMENT_COLUMNS if name in file}
        metadata = json.loads(str(file["metadata"]))
        return EmbeddingTable(file["paths"].tolist(), file["embeddings"], metadata, **segments)


def _read_parquet(path: Path) -> EmbeddingTable:
    table = pq.read_table(path)
    column = table["embeddings"].combine_chunks()
    embeddings = column.flatten().to_numpy().reshape(len(table), column.type.list_size)
    metadata = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    metadata.pop("ARROW:schema", None)
    paths = table["paths"].to_pylist()
    if "clip" not in table.column_names:
        return EmbeddingTable(paths, embeddings, metadata)
    segments = {name: table[name].to_numpy() for name in _SEGMENT_COLUMNS}
    return EmbeddingTable(list(dict.fromkeys(paths)), embeddings, metadata, **segments)
