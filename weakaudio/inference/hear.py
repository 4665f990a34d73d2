"""The common API of HEAR, the Holistic Evaluation of Audio Representations (arXiv 2203.03022), for any model.

`heareval` and others that use this API (https://hearbenchmark.com/hear-api.html) take the name of this module:
`python -m heareval.embeddings.runner weakaudio.inference.hear`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.networks.model import Model
from weakaudio.networks.pooling import masked_mean
from weakaudio.networks.runtime import fused_copy
from weakaudio.pretrained import registry

SAMPLE_RATES = (16000, 22050, 32000, 44100, 48000)  # Hz, in which HEAR's recordings are available


class HearModel(nn.Module):
    """A model with the attributes that HEAR requires; fused, so it cannot be trained."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = fused_copy(model, torch.device("cpu"))
        self.sample_rate = int(model.sample_rate)
        """Hz"""
        self.scene_embedding_size = int(model.network.n_features)
        self.timestamp_embedding_size = int(model.network.n_features)
        self.eval()

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, S, D) of the segments of sounds (B, N), and their mask (B, S)."""
        embeddings, mask = self.model.network.forward_features(*self.model.logmel(audio))
        return embeddings.float(), mask


def load_model(model_file_path: str = "") -> HearModel:
    """Load a model for the functions below, on the CPU; `.to(device)` moves it.

    Parameters
    ----------
    model_file_path
        Path of a model file, or a name of `weakaudio models`; "" is the model that ships with weakaudio.

    Raises
    ------
    CheckpointError
        As `weakaudio.load_model`.
    WeakAudioError
        HEAR has no recordings at the sample rate of the model.
    """
    name = str(model_file_path) or DEFAULT_MODEL
    model = registry.load_model(name)
    if model.sample_rate not in SAMPLE_RATES:
        rates = ", ".join(map(str, SAMPLE_RATES))
        raise WeakAudioError(f"{name}: a model for {model.sample_rate} Hz, but HEAR's recordings are at {rates} Hz")
    return HearModel(model)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Embed each sound as the mean over its segments, like `Embedder`.

    Parameters
    ----------
    audio
        (n_sounds, n_samples), full scale at +-1, at `model.sample_rate`.
    model
        Of `load_model`.

    Returns
    -------
    (n_sounds, model.scene_embedding_size) float32, on the device of `audio`. A sound does not affect the others.

    Raises
    ------
    AudioError
        Another shape, integers, no samples, NaN or infinite samples.
    """
    embeddings, mask = _embed(audio, model)
    return masked_mean(embeddings, mask).to(audio.device)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embed each segment of each sound, with the times of the segment centres.

    Parameters
    ----------
    audio, model
        As for `get_scene_embeddings`.

    Returns
    -------
    embeddings, timestamps
        (n_sounds, n_timestamps, model.timestamp_embedding_size), and (n_sounds, n_timestamps) milliseconds from the
        start of the sound, evenly spaced by the network's hop; float32, on the device of `audio`. HEAR suggests 50 ms
        or less, which matters for music transcription; most networks here have more.

    Raises
    ------
    AudioError
        As `get_scene_embeddings`.
    """
    embeddings, _ = _embed(audio, model)
    centres = _centres(model.model, audio.shape[1], embeddings.shape[1])
    timestamps = torch.from_numpy(centres).to(audio.device, torch.float32)
    return embeddings.to(audio.device), timestamps.repeat(len(audio), 1)


@torch.no_grad()
def _embed(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embed to segments (B, S, D) and their mask (B, S), on the device of the model."""
    if audio.ndim != 2 or not audio.is_floating_point():
        raise AudioError(
            f"audio of shape {tuple(audio.shape)} and type {audio.dtype}: expected floats of shape "
            "(n_sounds, n_samples), full scale at +-1"
        )
    if audio.numel() == 0:
        raise AudioError(f"audio of shape {tuple(audio.shape)}: at least one sound of one sample is needed")
    if not audio.isfinite().all():
        raise AudioError("audio: some of its samples are NaN or infinite")
    found: tuple[Tensor, Tensor] = model(audio.to(next(model.parameters()).device, torch.float32))
    return found


def _centres(model: Model, n_samples: int, n_segments: int) -> np.ndarray:
    """(S,) milliseconds. `Model.segment_times` cuts the first and the last segment to the clip; here they are whole,
    so that the distances are equal."""
    geometry, front_end = model.network.geometry, model.front_end
    frames = np.arange(n_segments) * geometry.hop - geometry.lead + geometry.span / 2
    milliseconds = 1000.0 * frames * front_end.hop_length / front_end.sample_rate
    return np.minimum(milliseconds, 1000.0 * n_samples / front_end.sample_rate)  # a sound may be shorter than one
