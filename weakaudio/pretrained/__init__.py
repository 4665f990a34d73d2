"""Models by name or path: the registry, downloads, model files, and converters of published weights."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Where each name lives. Nothing is imported before it is asked for: the catalogue can be read without torch.
_HOME = {
    "CONVERTERS": "converters",
    "convert": "converters",
    "load_model": "registry",
    "model_checksum": "checkpoint",
    "model_names": "registry",
    "open_model": "checkpoint",
    "read_header": "checkpoint",
    "save_model": "checkpoint",
}

__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from weakaudio.pretrained.checkpoint import model_checksum as model_checksum
    from weakaudio.pretrained.checkpoint import open_model as open_model
    from weakaudio.pretrained.checkpoint import read_header as read_header
    from weakaudio.pretrained.checkpoint import save_model as save_model
    from weakaudio.pretrained.converters import CONVERTERS as CONVERTERS
    from weakaudio.pretrained.converters import convert as convert
    from weakaudio.pretrained.registry import load_model as load_model
    from weakaudio.pretrained.registry import model_names as model_names


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'weakaudio.pretrained' has no attribute {name!r}")
    module = importlib.import_module(f"weakaudio.pretrained.{_HOME[name]}")
    globals().update({other: getattr(module, other) for other, home in _HOME.items() if home == _HOME[name]})
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
