"""Export of models to ONNX files, which run without torch (`weakaudio.deploy.onnx_tagger`)."""

from __future__ import annotations

import copy
import io
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from weakaudio import __version__
from weakaudio.deploy.onnx_file import check_name, package, quietly, with_header
from weakaudio.deploy.onnx_tagger import FORMAT_VERSION, INPUTS, OUTPUTS, OnnxOutput, OnnxTagger
from weakaudio.deploy.product_logmel import ProductLogMel
from weakaudio.errors import WeakAudioError
from weakaudio.files import atomic_write
from weakaudio.networks.contract import Features, StagedNetwork
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import model_checksum

FrontEndPlace = Literal["inside", "outside"]
"""Where the log-mel is computed: in the ONNX file or outside of it."""

OPSET = 17
TOLERANCE = 1e-4
"""Greatest difference between the probabilities of a model and of its ONNX file."""
FRONT_END = "front_end"
"""Name of the part of the graph that computes the log-mel; names of its nodes begin with it."""

_EMBEDDING_TOLERANCE = 1e-3  # of the largest value, or of 1
_CHECKED_SECONDS = (0.0, 0.013, 0.5, 1.7, 4.0, 31.0)  # the first: a single sample


def export_onnx(model: Model, path: str | Path, front_end: FrontEndPlace = "inside") -> float:
    """Write a model with its network fused to an ONNX file of opset 17, atomically.

    Batch size and length are dynamic; all clips of a batch have the same length, without padding. The file takes
    `waveform` (B, N) at the model's rate, or, with the front end outside, `logmel` (B, T, F), and gives
    `segment_probs` (B, S, C), `clip_probs` (B, C) and `embeddings` (B, S, D). Its metadata hold, as JSON under
    "weakaudio", all that `OnnxTagger` needs: labels, sample rate, front end, geometry, the model's metadata and
    checksum, and the version of this package.

    The file is compared with the model before it replaces an older one: tracing fixes whatever a network decides by
    the length of a clip.

    Parameters
    ----------
    model
        Is copied.
    front_end
        "inside": the file takes waveforms. "outside": log-mels, for devices that compute these themselves.

    Returns
    -------
    The greatest difference between probabilities of the file and of the model, over clips from one sample to 31 s.

    Raises
    ------
    CheckpointError
        The name does not end in .onnx.
    WeakAudioError
        The network cannot be exported, or its file computes something else; a package is missing; the file cannot be
        written.
    """
    path = check_name(path)
    if front_end not in get_args(FrontEndPlace):
        raise WeakAudioError(f"front end {front_end!r}: expected inside or outside")
    for name in ("onnx", "onnxruntime"):
        package(name)
    model = copy.deepcopy(model).cpu().eval()
    content = with_header(_trace(model, front_end), _header(model, front_end))
    with atomic_write(path) as part:
        part.write_bytes(content)
        try:
            difference = _difference(part, model)
        except WeakAudioError as error:
            raise _refusal(model, str(error).removeprefix(f"{part}: ")) from error
    return difference


class _Graph(nn.Module):
    """The module to trace: it takes clips of one length, each of which fills its row."""

    def __init__(self, model: Model, front_end: FrontEndPlace) -> None:
        super().__init__()
        self.network = copy.deepcopy(model.network).fuse()
        self.front_end = ProductLogMel(model.logmel) if front_end == "inside" else nn.Identity()
        geometry = self.network.geometry
        # Shorter clips are padded by a branch in Python, of which tracing would keep one side.
        self.least_frames = geometry.span if geometry.coverage == "paper" else 1
        self.extra_rows = geometry.span // geometry.hop - 1  # that a segment spans beyond its own

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Waveforms (B, N) or log-mels (B, T, F) to probabilities (B, R, C) and (B, C) and embeddings (B, S, D)."""
        logmel = _at_least(self.front_end(batch), 1, self.least_frames)
        if isinstance(self.network, StagedNetwork):
            features = self.network.extract(logmel)
        else:
            x, _ = self.network.forward_trunk(logmel)
            x = _at_least(x, 2, 1 + self.extra_rows)
            mask = torch.ones((x.shape[0], x.shape[2] - self.extra_rows), dtype=torch.bool)
            features = Features([], self.network.forward_last(x, mask), mask, mask.sum(1))
        logits, _ = self.network.score_steps(features)
        clip_probs = self.network.score_clips(features.embeddings, logits, features.mask)
        return logits.sigmoid(), clip_probs, features.embeddings


def _at_least(x: Tensor, dim: int, size: int) -> Tensor:
    """Pad x with zeros to `size` along a dimension, by operations that a trace keeps for inputs of any size."""
    if size <= 1:
        return x
    shape = list(x.shape)
    shape[dim] = size
    missing: Any = (torch.zeros((), dtype=torch.int64) + size - x.shape[dim]).clamp(min=0)
    return torch.cat([x, x.new_zeros(shape).narrow(dim, 0, missing)], dim)


def _trace(model: Model, front_end: FrontEndPlace) -> bytes:
    """The ONNX file of a model, without metadata.

    By tracing, since `torch.export`, on which torch's newer exporter builds, cannot branch on whether all clips of a
    batch fill their rows (`weakaudio.networks.layers.ragged`); here they always do.
    """
    graph = _Graph(model, front_end).eval()
    frames = 4 * model.network.geometry.span + 5
    fe = model.front_end
    shape = (2, frames * fe.hop_length + 3) if front_end == "inside" else (2, frames, fe.n_mels)
    name = INPUTS[front_end]
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), quietly():
        warnings.simplefilter("ignore")  # about what a trace fixes, which `_difference` checks
        try:
            torch.onnx.export(
                graph,
                (0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0)),),
                buffer,  # type: ignore[arg-type]
                opset_version=OPSET,
                dynamo=False,
                input_names=[name],
                output_names=list(OUTPUTS),
                dynamic_axes={
                    name: {0: "clips", 1: "samples" if front_end == "inside" else "frames"},
                    "segment_probs": {0: "clips", 1: "steps"},
                    "clip_probs": {0: "clips"},
                    "embeddings": {0: "clips", 1: "segments"},
                },
            )
        except Exception as error:  # tracing fails with many types
            raise _refusal(model, (str(error) or type(error).__name__).splitlines()[0]) from error
    return buffer.getvalue()


def _header(model: Model, front_end: FrontEndPlace) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "weakaudio": __version__,
        "sha256": model_checksum(model),
        "precision": "float32",
        "front_end_place": front_end,
        "front_end": model.front_end.to_dict(),
        "sample_rate": model.sample_rate,
        "geometry": asdict(model.network.geometry),
        "score_geometry": asdict(model.network.score_geometry),
        "labels": model.labels,
        "metadata": model.metadata,
    }


@torch.inference_mode()
def _difference(path: Path, model: Model) -> float:
    """Greatest difference between a file's probabilities and the model's, at lengths other than the traced one.

    Raises
    ------
    WeakAudioError
        It exceeds `TOLERANCE`, shapes differ, or embeddings differ.
    """
    tagger = OnnxTagger(path, threads=1)
    generator = torch.Generator().manual_seed(1)
    differences = []
    for n, seconds in enumerate(_CHECKED_SECONDS):
        samples = max(round(seconds * model.sample_rate), 1)
        waveform = 0.1 * torch.randn((1 + n % 2, samples), generator=generator)
        logmel = model.logmel(waveform)[0]
        output = model.network(logmel)
        expected = OnnxOutput(
            output.segment_logits.sigmoid().numpy(), output.clip_probs.numpy(), output.embeddings.numpy()
        )
        found = tagger.scores((waveform if tagger.front_end_place == "inside" else logmel).numpy())
        for name, actual, value in zip(OUTPUTS, found, expected, strict=True):
            if actual.shape != value.shape:
                raise WeakAudioError(f"its file gives {name} of shape {actual.shape}, expected {value.shape}")
        segments, clips, embeddings = (
            np.abs(actual - value).max() for actual, value in zip(found, expected, strict=True)
        )
        if not embeddings <= _EMBEDDING_TOLERANCE * max(1.0, np.abs(expected.embeddings).max()):
            raise WeakAudioError(f"embeddings of its file differ by {embeddings:.2g} from the model's")
        differences += [segments, clips]
    largest = float(np.max(differences))
    if not largest <= TOLERANCE:
        raise WeakAudioError(
            f"probabilities of its file differ by {largest:.2g} from the model's, more than {TOLERANCE:g}"
        )
    return largest


def _refusal(model: Model, reason: str) -> WeakAudioError:
    return WeakAudioError(f"a {type(model.network).__name__} cannot be exported: {reason}")
