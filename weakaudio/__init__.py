"""weakaudio: a CNN learns sound events from weakly labelled clips, and yields embeddings with time stamps."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Module of each public name. Nothing is imported before it is used.
_HOME = {
    "ClipDataModule": "weakaudio.data.datamodule",
    "Corpus": "weakaudio.data.corpus",
    "Detection": "weakaudio.inference.detector",
    "Detector": "weakaudio.inference.detector",
    "Embedder": "weakaudio.inference.embedder",
    "Embedding": "weakaudio.inference.embedder",
    "EmbeddingIndex": "weakaudio.inference.similarity",
    "EmbeddingTransformer": "weakaudio.transfer.estimators",
    "LogMel": "weakaudio.audio.frontend",
    "LogMelStatistics": "weakaudio.transfer.estimators",
    "Model": "weakaudio.networks.model",
    "OnnxTagger": "weakaudio.deploy.onnx_tagger",
    "SegmentPooler": "weakaudio.transfer.estimators",
    "StreamingDetector": "weakaudio.inference.streaming",
    "TaggingModule": "weakaudio.training.lightning_module",
    "WeakAudioClassifier": "weakaudio.transfer.estimators",
    "WeakAudioError": "weakaudio.errors",
    "WeakCNN": "weakaudio.networks",
    "cross_validate": "weakaudio.transfer.cross_validation",
    "detect_folder": "weakaudio.batch.detect",
    "embed_folder": "weakaudio.batch.embed",
    "evaluate": "weakaudio.evaluation.corpus",
    "evaluate_events": "weakaudio.evaluation.events",
    "export_onnx": "weakaudio.deploy.export",
    "fine_tune": "weakaudio.transfer.fine_tune",
    "list_models": "weakaudio.pretrained.catalogue",
    "load_model": "weakaudio.pretrained.registry",
    "paired_bootstrap": "weakaudio.transfer.compare",
    "read_audio": "weakaudio.audio.io",
    "read_embeddings": "weakaudio.formats.embeddings",
    "read_events": "weakaudio.formats.events",
    "save_model": "weakaudio.pretrained.checkpoint",
    "stream_audio": "weakaudio.audio.io",
    "train": "weakaudio.training.fit",
    "write_events": "weakaudio.formats.events",
}

__all__ = sorted([*_HOME, "__version__"])

if TYPE_CHECKING:
    from weakaudio.audio.frontend import LogMel as LogMel
    from weakaudio.audio.io import read_audio as read_audio
    from weakaudio.audio.io import stream_audio as stream_audio
    from weakaudio.batch.detect import detect_folder as detect_folder
    from weakaudio.batch.embed import embed_folder as embed_folder
    from weakaudio.data.corpus import Corpus as Corpus
    from weakaudio.data.datamodule import ClipDataModule as ClipDataModule
    from weakaudio.deploy.export import export_onnx as export_onnx
    from weakaudio.deploy.onnx_tagger import OnnxTagger as OnnxTagger
    from weakaudio.errors import WeakAudioError as WeakAudioError
    from weakaudio.evaluation.corpus import evaluate as evaluate
    from weakaudio.evaluation.events import evaluate_events as evaluate_events
    from weakaudio.formats.embeddings import read_embeddings as read_embeddings
    from weakaudio.formats.events import read_events as read_events
    from weakaudio.formats.events import write_events as write_events
    from weakaudio.inference.detector import Detection as Detection
    from weakaudio.inference.detector import Detector as Detector
    from weakaudio.inference.embedder import Embedder as Embedder
    from weakaudio.inference.embedder import Embedding as Embedding
    from weakaudio.inference.similarity import EmbeddingIndex as EmbeddingIndex
    from weakaudio.inference.streaming import StreamingDetector as StreamingDetector
    from weakaudio.networks import WeakCNN as WeakCNN
    from weakaudio.networks.model import Model as Model
    from weakaudio.pretrained.catalogue import list_models as list_models
    from weakaudio.pretrained.checkpoint import save_model as save_model
    from weakaudio.pretrained.registry import load_model as load_model
    from weakaudio.training.fit import train as train
    from weakaudio.training.lightning_module import TaggingModule as TaggingModule
    from weakaudio.transfer.compare import paired_bootstrap as paired_bootstrap
    from weakaudio.transfer.cross_validation import cross_validate as cross_validate
    from weakaudio.transfer.estimators import EmbeddingTransformer as EmbeddingTransformer
    from weakaudio.transfer.estimators import LogMelStatistics as LogMelStatistics
    from weakaudio.transfer.estimators import SegmentPooler as SegmentPooler
    from weakaudio.transfer.estimators import WeakAudioClassifier as WeakAudioClassifier
    from weakaudio.transfer.fine_tune import fine_tune as fine_tune


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'weakaudio' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
