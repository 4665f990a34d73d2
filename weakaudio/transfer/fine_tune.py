"""Network adaptation: a trained network learns somebody's classes from labelled clips.

After arXiv 1711.01369, whose networks N_T^I, II and III adapt N_S on the training folds of the target. Which layers
each of them adds and updates is not published; the presets here are three points on the grid of what the new layer
is attached to and what is updated.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from weakaudio.audio.geometry import length_mask
from weakaudio.data.sampling import bucket
from weakaudio.errors import ProtocolError, WeakAudioError
from weakaudio.inference.embedder import Audio
from weakaudio.networks import StackedNetwork, network_name
from weakaudio.networks.contract import Network
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device, find_dtype, stack
from weakaudio.progress import progress
from weakaudio.training.losses import weak_loss

_WARMUP = 0.1  # part of all steps over which the learning rate rises


@dataclass(frozen=True)
class Preset:
    """A point on the grid."""

    attach: Literal["f1", "f2"]
    """where the new layer is put: on the embedding, in place of the classes, or on the classes' probabilities"""
    update: Literal["new", "heads", "all"]
    """what is trained: the new layer; also the layer that makes the embedding and all after it; or everything"""
    layer_decay: float = 1.0
    """the learning rate of each layer is this times that of the layer after it"""
    new_rate: float = 1.0
    """the learning rate of the new layer is this times that of the others: probabilities, most of which are near 0,
    take larger weights than embeddings"""


PRESETS = {
    "head": Preset("f1", "new"),
    "I": Preset("f1", "heads"),
    "II": Preset("f1", "all"),
    "III": Preset("f2", "heads", new_rate=30.0),
    "full": Preset("f1", "all", layer_decay=0.7),
}


@dataclass(frozen=True)
class FineTuneConfig:
    """How a network is adapted.

    Parameters
    ----------
    epochs
        At most; the epoch that is best on the clips held out is kept.
    patience
        Epochs without a better one after which training stops.
    learning_rate
        By AdamW, at its highest; it rises over the first tenth of the steps and falls to 0 along a cosine. Of layers,
        as the preset says, a part or a multiple of it.
    weight_decay
        Of AdamW.
    freeze_norms
        Leave means and variances of the batch normalisations as they are.
    dtype
        Precision of the network, as of `Embedder`: "float32", "bfloat16" or "auto".
    held_out
        Part of the recordings whose clips choose the epoch, in (0, 1); they are taken from those that are given,
        so no test fold is touched.
    batch_seconds
        Most audio in a batch.
    seed
        Of all draws.
    """

    epochs: int = 20
    patience: int = 5
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    freeze_norms: bool = True
    dtype: str = "auto"
    held_out: float = 0.15
    batch_seconds: float = 80.0
    seed: int = 0


def adapt(
    model: Model,
    clips: Sequence[Audio],
    targets: NDArray[np.floating],
    labels: Sequence[str],
    preset: str | Preset = "I",
    practice: FineTuneConfig | None = None,
    sources: Sequence[str] | None = None,
    device: str = "cpu",
) -> Model:
    """A copy of a model that was adapted to other classes.

    Parameters
    ----------
    model
        Stays as it is.
    clips
        n recordings (N,) at the model's `sample_rate`.
    targets
        (n, C) weak labels, 0 or 1.
    labels
        C class names.
    preset
        A name of `PRESETS`, or an own point on the grid.
    practice
        How; None is the default.
    sources
        (n,) the recording that each clip was cut from; None: every clip is its own. Clips that choose the epoch
        share no recording with those that are trained on.
    device
        E.g. "cpu" or "cuda".

    Raises
    ------
    ProtocolError
        Lengths that differ, fewer than two recordings, a class without clips, or one class that all clips have.
    WeakAudioError
        No such preset, dtype or device.
    """
    practice = practice or FineTuneConfig()
    if isinstance(preset, str) and preset not in PRESETS:
        raise WeakAudioError(f"preset {preset!r}: unknown; there are {', '.join(PRESETS)}")
    point = PRESETS[preset] if isinstance(preset, str) else preset
    _check(clips, targets, labels)
    place = find_device(device)
    practice = replace(practice, dtype=find_dtype(practice.dtype, place))
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(practice.seed)
        adapted = attach(model, labels, point.attach).to(place)
        train, held = _split(len(clips), sources, practice)
        truth = torch.from_numpy(np.asarray(targets, dtype=np.float32))
        _fit(adapted, clips, truth, train, held, point, practice)
    adapted.metadata = {
        **model.metadata,
        "adapted": {
            "preset": preset if isinstance(preset, str) else vars(point),
            "clips": len(clips),
            **vars(practice),
        },
    }
    return adapted.cpu().eval()


def attach(model: Model, labels: Sequence[str], layer: Literal["f1", "f2"] = "f1") -> Model:
    """A copy of a model with a new layer for other classes: in place of its classes, or on top of them."""
    network = copy.deepcopy(model.network)
    if layer == "f1":
        network.reset_classifier(len(labels))
    else:
        stacked = StackedNetwork(len(labels), network_name(network), network.config)
        stacked.base.load_state_dict(network.state_dict(), strict=True)
        network = stacked
    return Model(network, model.front_end, labels, model.metadata).eval()


def trained_parameters(network: Network, preset: Preset, learning_rate: float) -> list[dict[str, object]]:
    """Groups for an optimizer: what the preset updates, each with its rate; all else is frozen."""
    layers = network.layers()
    in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
    new = list(network.classifier.parameters())
    after = [p for p in network.parameters() if id(p) not in in_layers and all(p is not q for q in new)]
    first = {"new": len(layers), "heads": len(layers) - 1, "all": 0}[preset.update]
    groups: list[dict[str, object]] = [{"params": new, "lr": learning_rate * preset.new_rate}]
    if preset.update != "new":
        groups.append({"params": after, "lr": learning_rate * preset.layer_decay})
    for depth, layer in enumerate(reversed(layers[first:]), 1):
        groups.append({"params": list(layer.parameters()), "lr": learning_rate * preset.layer_decay**depth})
    network.requires_grad_(False)
    for group in groups:
        for parameter in group["params"]:  # type: ignore[attr-defined]
            parameter.requires_grad_(True)
    return [group for group in groups if group["params"]]


def _fit(
    model: Model,
    clips: Sequence[Audio],
    truth: Tensor,
    train: NDArray[np.int64],
    held: NDArray[np.int64],
    preset: Preset,
    practice: FineTuneConfig,
) -> None:
    groups = trained_parameters(model.network, preset, practice.learning_rate)
    optimizer = torch.optim.AdamW(groups, weight_decay=practice.weight_decay)
    rng = np.random.default_rng(practice.seed)
    epochs = [list(_batches(clips, train, model.sample_rate, practice, rng)) for _ in range(practice.epochs)]
    steps = sum(len(batches) for batches in epochs)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    trunks = _trunks(model, clips, practice) if practice.freeze_norms and preset.update != "all" else None
    best, state, waited = np.inf, copy.deepcopy(model.state_dict()), 0
    for batches in progress(epochs, len(epochs), "adapting"):
        for batch in batches:
            model.train()
            if practice.freeze_norms or not has_statistics(model, [clips[n] for n in batch]):
                for layer in model.modules():
                    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                        layer.eval()
            loss = _loss(model, clips, truth, batch, practice, trunks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        now = _validate(model, clips, truth, held, practice, trunks)
        if now < best:
            best, state, waited = now, copy.deepcopy(model.state_dict()), 0
        else:
            waited += 1
            if waited >= practice.patience:
                break
    model.load_state_dict(state)


def has_statistics(model: Model, clips: Sequence[Audio]) -> bool:
    """Whether clips give a batch normalisation more than one value of each channel to take the variance of."""
    return len(clips) > 1 or len(model.segment_times(len(clips[0]))) > 1


def _rate(step: int, steps: int) -> float:
    """Part of the highest learning rate."""
    rise = max(round(_WARMUP * steps), 1)
    return min((step + 1) / rise, (1 + cos(pi * max(step - rise, 0) / max(steps - rise, 1))) / 2)


def _loss(
    model: Model,
    clips: Sequence[Audio],
    truth: Tensor,
    batch: Sequence[int],
    practice: FineTuneConfig,
    trunks: Sequence[Tensor] | None,
) -> Tensor:
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=practice.dtype == "bfloat16"):
        if trunks is None:
            output = model(*stack([clips[n] for n in batch], device))
        else:
            x, mask = _join([trunks[n] for n in batch], [len(model.segment_times(len(clips[n]))) for n in batch])
            output = model.network.forward_scores(model.network.forward_last(x, mask), mask)
    return weak_loss(output, truth[list(batch)].to(device))


@torch.no_grad()
def _trunks(model: Model, clips: Sequence[Audio], practice: FineTuneConfig) -> list[Tensor]:
    """(channels, rows, F') of each clip: what layers make of it that stay as they are is made once."""
    device = next(model.parameters()).device
    found: list[Tensor] = [torch.empty(0)] * len(clips)
    model.eval()
    for batch in _batches(clips, np.arange(len(clips)), model.sample_rate, practice, None):
        with torch.autocast(device.type, torch.bfloat16, enabled=practice.dtype == "bfloat16"):
            x, mask = model.network.forward_trunk(*model.logmel(*stack([clips[n] for n in batch], device)))
        for n, own, inside in zip(batch, x, mask, strict=True):
            found[n] = own[:, : own.shape[1] - int((~inside).sum())].clone()
    return found


def _join(trunks: Sequence[Tensor], n_segments: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(B, channels, rows, F') filled up with 0, and the (B, S) mask of their segments."""
    rows = pad_sequence([trunk.transpose(0, 1) for trunk in trunks], batch_first=True)  # (B, rows, channels, F')
    return rows.transpose(1, 2), length_mask(torch.tensor(n_segments, device=rows.device), max(n_segments))


@torch.no_grad()
def _validate(
    model: Model,
    clips: Sequence[Audio],
    truth: Tensor,
    held: NDArray[np.int64],
    practice: FineTuneConfig,
    trunks: Sequence[Tensor] | None,
) -> float:
    model.eval()
    batches = _batches(clips, held, model.sample_rate, practice, None)
    total = sum(float(_loss(model, clips, truth, batch, practice, trunks)) * len(batch) for batch in batches)
    return total / len(held)


def _batches(
    clips: Sequence[Audio],
    which: NDArray[np.int64],
    sample_rate: int,
    practice: FineTuneConfig,
    rng: np.random.Generator | None,
) -> Iterator[list[int]]:
    lengths = [len(clips[n]) for n in which]
    for batch in bucket(lengths, int(practice.batch_seconds * sample_rate), rng):
        yield [int(which[n]) for n in batch]


def _split(
    n_clips: int, sources: Sequence[str] | None, practice: FineTuneConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clips to train on, and clips of other recordings that choose the epoch."""
    groups = np.arange(n_clips) if sources is None else np.unique(list(sources), return_inverse=True)[1]
    if len(np.unique(groups)) < 2:
        raise ProtocolError("adaptation needs clips of at least two recordings, as some choose the epoch")
    splitter = GroupShuffleSplit(1, test_size=practice.held_out, random_state=practice.seed)
    train, held = next(splitter.split(np.zeros(n_clips), groups=groups))
    return train, held


def _check(clips: Sequence[Audio], targets: NDArray[np.floating], labels: Sequence[str]) -> None:
    if targets.shape != (len(clips), len(labels)):
        raise ProtocolError(f"targets of shape {targets.shape} for {len(clips)} clips and {len(labels)} classes")
    counts = targets.sum(0)
    rare = [label for label, count in zip(labels, counts, strict=True) if count < 1]
    if rare:
        raise ProtocolError(f"class {rare[0]!r} has no clip among the {len(clips)}: add some, or leave it out")
    if len(labels) < 2 and counts[0] == len(clips):
        raise ProtocolError(f"all clips are {labels[0]!r}: add clips of something else, or there is nothing to tell")
