"""Embeddings on disk: the same names in HDF5, NPZ and Parquet."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from weakaudio.errors import StoreError

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
    path = Path(path)
    check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".part-{path.name}")  # numpy wants the suffix to stay
    segments = {name: getattr(table, name) for name in _SEGMENT_COLUMNS if table.clip is not None}
    if path.suffix == ".h5":
        with h5py.File(beside, "w") as file:
            file.create_dataset("paths", data=table.paths, dtype=h5py.string_dtype())
            for name, values in {"embeddings": table.embeddings, **segments}.items():
                file[name] = values
            file.attrs.update(table.metadata)
    elif path.suffix == ".npz":
        arrays: dict[str, Any] = {
            "paths": np.array(table.paths, dtype=np.str_),
            "embeddings": table.embeddings,
            "metadata": np.array(json.dumps(table.metadata)),
            **segments,
        }
        np.savez(beside, **arrays)
    else:
        paths = table.paths if table.clip is None else [table.paths[n] for n in table.clip]
        flat = pa.array(table.embeddings.reshape(-1))
        embeddings = pa.FixedSizeListArray.from_arrays(flat, table.embeddings.shape[1])
        columns = {"paths": pa.array(paths, pa.string()), **segments, "embeddings": embeddings}
        pq.write_table(pa.table(columns).replace_schema_metadata(table.metadata), beside)
    os.replace(beside, path)


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
        return reader(path)
    except (OSError, EOFError, KeyError, ValueError, TypeError, pa.ArrowException, zipfile.BadZipFile) as error:
        raise StoreError(f"{path}: damaged, cut short, or not a file of embeddings ({error})") from error


def _read_hdf5(path: Path) -> EmbeddingTable:
    with h5py.File(path, "r") as file:
        segments = {name: file[name][:] for name in _SEGMENT_COLUMNS if name in file}
        metadata = {name: str(value) for name, value in file.attrs.items()}
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
