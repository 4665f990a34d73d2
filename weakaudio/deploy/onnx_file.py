"""How ONNX files are written: with what they are about in their metadata, and whole or not at all."""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weakaudio.deploy.onnx_tagger import INSTALL, KEY, first_line
from weakaudio.errors import CheckpointError, WeakAudioError


def package(name: str) -> Any:
    """A module of onnx or onnxruntime.

    Raises
    ------
    WeakAudioError
        It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WeakAudioError(f"ONNX files need {name.split('.')[0]}: {INSTALL}") from error


@contextmanager
def runtime_errors(what: str | Path) -> Iterator[None]:
    """ONNX Runtime's own errors, of a class for each reason and none of them public, are raised as WeakAudioError."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise WeakAudioError(f"{what}: ONNX Runtime fails ({first_line(error)})") from error


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
    """A file's content with these facts as the JSON in its metadata, and no others."""
    onnx = package("onnx")
    graph = onnx.load_model_from_string(content)
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {KEY: json.dumps(header)})
    written: bytes = graph.SerializeToString(deterministic=True)
    return written


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Where to write a file, which is renamed into place if the block ends without an error.

    Raises
    ------
    CheckpointError
        It cannot be written; what was there stays.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if part.is_file():
            part.unlink()


@contextmanager
def quietly() -> Iterator[None]:
    """Without what torch and ONNX Runtime log of their own steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
