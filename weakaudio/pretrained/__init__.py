"""Models by name or path: the registry, downloads, model files, and converters of published weights."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Home module of each name; imported on first use, so that the catalogue can be read without torch.
_HOME = {
    "CONVERTERS": "converters",
    "convert": "converters",
    "list_models": "catalogue",
    "load_model": "registry",
    "model_checksum": "checkpoint",
    "open_model": "checkpoint",
    "read_class_list": "converters",
    "read_header": "checkpoint",
    "save_model": "checkpoint",
}

__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from weakaudio.pretrained.catalogue import list_models as list_models
    from weakaudio.pretrained.checkpoint import model_checksum as model_checksum
    from weakaudio.pretrained.checkpoint import open_model as open_model
    from weakaudio.pretrained.checkpoint import read_header as read_header
    from weakaudio.pretrained.checkpoint import save_model as save_model
    from weakaudio.pretrained.converters import CONVERTERS as CONVERTERS
    from weakaudio.pretrained.converters import convert as convert
    from weakaudio.pretrained.converters import read_class_list as read_class_list
    from weakaudio.pretrained.registry import load_model as load_model


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'weakaudio.pretrained' has no attribute {name!r}")
    return getattr(importlib.import_module(f"weakaudio.pretrained.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
