"""weakaudio: a CNN learns sound events from weakly labelled clips, and yields embeddings with time stamps."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name lives. Nothing is imported before it is asked for.
_HOME = {
    "ClipDataModule": "weakaudio.data.dataset",
    "Corpus": "weakaudio.data.corpus",
    "Detector": "weakaudio.inference.detection",
    "Embedder": "weakaudio.inference.embedding",
    "EmbeddingIndex": "weakaudio.inference.similar",
    "EmbeddingTransformer": "weakaudio.transfer.features",
    "LogMelStatistics": "weakaudio.transfer.features",
    "Model": "weakaudio.networks.model",
    "StreamingDetector": "weakaudio.inference.streaming",
    "Tagger": "weakaudio.training.tagger",
    "SegmentPooler": "weakaudio.transfer.estimators",
    "WeakAudioClassifier": "weakaudio.transfer.estimators",
    "WeakAudioError": "weakaudio.errors",
    "WeakCNN": "weakaudio.networks",
    "cross_validate_folds": "weakaudio.transfer.folds",
    "paired_bootstrap": "weakaudio.transfer.compare",
    "detect_folder": "weakaudio.inference.detect_folder",
    "evaluate_events": "weakaudio.inference.event_metrics",
    "embed_folder": "weakaudio.inference.folder",
    "load_model": "weakaudio.pretrained",
    "read_audio": "weakaudio.audio.io",
    "read_events": "weakaudio.inference.event_files",
    "save_model": "weakaudio.pretrained",
    "stream_audio": "weakaudio.audio.io",
    "write_events": "weakaudio.inference.event_files",
}

__all__ = sorted([*_HOME, "__version__"])

if TYPE_CHECKING:
    from weakaudio.audio.io import read_audio as read_audio
    from weakaudio.audio.io import stream_audio as stream_audio
    from weakaudio.data.corpus import Corpus as Corpus
    from weakaudio.data.dataset import ClipDataModule as ClipDataModule
    from weakaudio.errors import WeakAudioError as WeakAudioError
    from weakaudio.inference.detect_folder import detect_folder as detect_folder
    from weakaudio.inference.detection import Detector as Detector
    from weakaudio.inference.embedding import Embedder as Embedder
    from weakaudio.inference.event_files import read_events as read_events
    from weakaudio.inference.event_files import write_events as write_events
    from weakaudio.inference.event_metrics import evaluate_events as evaluate_events
    from weakaudio.inference.folder import embed_folder as embed_folder
    from weakaudio.inference.similar import EmbeddingIndex as EmbeddingIndex
    from weakaudio.inference.streaming import StreamingDetector as StreamingDetector
    from weakaudio.networks import WeakCNN as WeakCNN
    from weakaudio.networks.model import Model as Model
    from weakaudio.pretrained import load_model as load_model
    from weakaudio.pretrained import save_model as save_model
    from weakaudio.training.tagger import Tagger as Tagger
    from weakaudio.transfer.compare import paired_bootstrap as paired_bootstrap
    from weakaudio.transfer.estimators import SegmentPooler as SegmentPooler
    from weakaudio.transfer.estimators import WeakAudioClassifier as WeakAudioClassifier
    from weakaudio.transfer.features import EmbeddingTransformer as EmbeddingTransformer
    from weakaudio.transfer.features import LogMelStatistics as LogMelStatistics
    from weakaudio.transfer.folds import cross_validate_folds as cross_validate_folds


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'weakaudio' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
