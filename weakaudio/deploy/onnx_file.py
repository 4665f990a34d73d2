"""Helpers for ONNX files: optional packages, errors of ONNX Runtime, and metadata."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weakaudio.errors import CheckpointError, WeakAudioError

KEY = "weakaudio"
"""Name of the header in a file's metadata."""


def package(name: str) -> Any:
    """Import a module of onnx or onnxruntime.

    Raises
    ------
    WeakAudioError
        It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WeakAudioError(f"ONNX files need {name.split('.')[0]}: run `pip install weakaudio[onnx]`") from error


@contextmanager
def runtime_errors(what: str | Path) -> Iterator[None]:
    """Raise ONNX Runtime's errors, which have private classes, as WeakAudioError."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise WeakAudioError(f"{what}: ONNX Runtime fails ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """First line of an error's message; its type if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def check_name(path: str | Path) -> Path:
    """
    Raises
    ------
    CheckpointError
        The name does not end in .onnx.
    """
    if Path(path).suffix != ".onnx":
        raise CheckpointError(f"{path}: an ONNX file's name ends in .onnx")
    return Path(path)


def with_header(content: bytes, header: dict[str, Any]) -> bytes:
    """Replace the metadata of an ONNX file's content by a header, as JSON."""
    onnx = package("onnx")
    graph = onnx.load_model_from_string(content)
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {KEY: json.dumps(header)})
    written: bytes = graph.SerializeToString(deterministic=True)
    return written


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the logs of torch and ONNX Runtime within the block."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
