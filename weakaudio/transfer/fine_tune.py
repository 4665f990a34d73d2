"""Fine-tuning: a trained network learns other classes from labelled clips.

After Kumar et al., arXiv 1711.01369, whose networks N_T^I, II and III adapt N_S on the training folds of the target
task. The paper does not say which layers each of them adds and updates; the presets here are three combinations of
where the new layer is attached and what is updated.
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

from weakaudio.audio import Waveform
from weakaudio.audio.geometry import length_mask
from weakaudio.data.sampling import bucket
from weakaudio.errors import ProtocolError, WeakAudioError
from weakaudio.networks import StackedNetwork, network_name
from weakaudio.networks.contract import Features, Network
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device, find_dtype, stack
from weakaudio.progress import progress
from weakaudio.training.losses import weak_loss

_WARMUP = 0.1  # fraction of all steps over which the learning rate rises


@dataclass(frozen=True)
class Preset:
    """Where the new layer is attached, and what is updated."""

    attach: Literal["f1", "f2"]
    """input of the new layer: "f1", the embedding (it replaces the classifier), or "f2", the class probabilities"""
    update: Literal["new", "heads", "all"]
    """layers to train: the new one; also those from the embedding on ("heads"); or all of them"""
    layer_decay: float = 1.0
    """factor between the learning rate of a layer and that of the layer after it"""
    new_rate: float = 1.0
    """factor on the learning rate of the new layer: probabilities, most of them near 0, need larger weights than
    embeddings"""


PRESETS = {
    "head": Preset("f1", "new"),
    "I": Preset("f1", "heads"),
    "II": Preset("f1", "all"),
    "III": Preset("f2", "heads", new_rate=30.0),
    "full": Preset("f1", "all", layer_decay=0.7),
}


@dataclass(frozen=True)
class FineTuneConfig:
    """Hyperparameters of fine-tuning.

    Parameters
    ----------
    epochs
        Maximum number of epochs; the epoch with the lowest loss on the held-out clips is kept.
    patience
        Epochs without improvement after which training stops.
    learning_rate
        Peak rate of AdamW, reached by a linear warm-up over a tenth of the steps and followed by a cosine decay to 0.
        A preset may scale it for each layer.
    weight_decay
        Weight decay of AdamW.
    freeze_norms
        Keep the running means and variances of batch normalisation.
    dtype
        Precision of the network, as of `Embedder`: "float32", "bfloat16" or "auto".
    held_out
        Fraction of the recordings that select the epoch, in (0, 1). They are split off the clips given, so no test
        fold is touched.
    batch_seconds
        Maximum audio in a batch, seconds.
    seed
        Seeds the split, the batches and the new layer.
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


def fine_tune(
    model: Model,
    clips: Sequence[Waveform],
    targets: NDArray[np.floating],
    labels: Sequence[str],
    preset: str | Preset = "I",
    config: FineTuneConfig | None = None,
    sources: Sequence[str] | None = None,
    device: str = "cpu",
) -> Model:
    """Fine-tune a copy of a model on other classes.

    Parameters
    ----------
    model
        Model to start from; it is not changed.
    clips
        n recordings (N,) at the model's `sample_rate`, each of its own length.
    targets
        (n, C) weak labels, 0 or 1.
    labels
        C class names.
    preset
        A name in `PRESETS`, or a `Preset`.
    config
        Hyperparameters; None for the defaults.
    sources
        (n,) recording that each clip was cut from; None if every clip is a recording of its own. The clips that
        select the epoch share no recording with the training clips.
    device
        Torch device, e.g. "cpu" or "cuda".

    Returns
    -------
    The fine-tuned model, on the CPU and in eval mode.

    Raises
    ------
    ProtocolError
        Lengths differ; there are fewer than two recordings; a class has no clips, or the only class has them all.
    WeakAudioError
        Unknown preset, dtype or device.
    """
    config = config or FineTuneConfig()
    if isinstance(preset, str) and preset not in PRESETS:
        raise WeakAudioError(f"preset {preset!r}: unknown; there are {', '.join(PRESETS)}")
    chosen = PRESETS[preset] if isinstance(preset, str) else preset
    _check(clips, targets, labels)
    place = find_device(device)
    config = replace(config, dtype=find_dtype(config.dtype, place))
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(config.seed)
        tuned = attach(model, labels, chosen.attach).to(place)
        truth = torch.from_numpy(np.asarray(targets, dtype=np.float32))
        _FineTuning(tuned, clips, truth, chosen, config).fit(*_split(len(clips), sources, config))
    recorded = preset if isinstance(preset, str) else vars(preset)
    tuned.metadata = {**model.metadata, "adapted": {"preset": recorded, "clips": len(clips), **vars(config)}}
    return tuned.cpu().eval()


def attach(model: Model, labels: Sequence[str], layer: Literal["f1", "f2"] = "f1") -> Model:
    """Copy a model and add a layer for other classes: in place of its classifier (f1), or on top of it (f2)."""
    network = copy.deepcopy(model.network)
    if layer == "f1":
        network.reset_classifier(len(labels))
    else:
        stacked = StackedNetwork(len(labels), network_name(network), network.config)
        stacked.base.load_state_dict(network.state_dict(), strict=True)
        network = stacked
    return Model(network, model.front_end, labels, model.metadata).eval()


def trained_parameters(network: Network, preset: Preset, learning_rate: float) -> list[dict[str, object]]:
    """Group the parameters that a preset updates, each group with its learning rate, and freeze all others."""
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


class _FineTuning:
    """Training loop over clips held in memory."""

    def __init__(
        self, model: Model, clips: Sequence[Waveform], truth: Tensor, preset: Preset, config: FineTuneConfig
    ) -> None:
        self.model, self.clips, self.config, self.preset = model, clips, config, preset
        self.device = next(model.parameters()).device
        self.truth = truth.to(self.device)
        self.trunks: list[Tensor] | None = None  # outputs of the frozen layers, by clip

    def fit(self, train: NDArray[np.int64], held_out: NDArray[np.int64]) -> None:
        model, config = self.model, self.config
        groups = trained_parameters(model.network, self.preset, config.learning_rate)
        optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        rng = np.random.default_rng(config.seed)
        epochs = [list(self._batches(train, rng)) for _ in range(config.epochs)]
        steps = sum(len(batches) for batches in epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        if config.freeze_norms and self.preset.update != "all":
            self.trunks = self._forward_trunks()
        best, state, waited = np.inf, copy.deepcopy(model.state_dict()), 0
        for batches in progress(epochs, len(epochs), "fine-tuning"):
            for batch in batches:
                model.train()
                if config.freeze_norms or not has_statistics(model, [self.clips[n] for n in batch]):
                    for layer in model.modules():
                        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                            layer.eval()
                loss = self._loss(batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            validation = self._validate(held_out)
            if validation < best:
                best, state, waited = validation, copy.deepcopy(model.state_dict()), 0
            elif (waited := waited + 1) >= config.patience:
                break
        model.load_state_dict(state)

    def _loss(self, batch: list[int]) -> Tensor:
        model, clips = self.model, [self.clips[n] for n in batch]
        with self._autocast():
            if self.trunks is None:
                output = model(*stack(clips, self.device))
            else:
                n_segments = [len(model.segment_times(len(clip))) for clip in clips]
                x, mask = _pad([self.trunks[n] for n in batch], n_segments)
                embeddings = model.network.forward_last(x, mask)
                # Neither maps nor lengths are used: a new classifier has no finer head.
                output = model.network.forward_scores(Features([], embeddings, mask, mask.sum(1)))
        return weak_loss(output, self.truth[batch])

    @torch.no_grad()
    def _validate(self, held_out: NDArray[np.int64]) -> float:
        self.model.eval()
        return sum(float(self._loss(batch)) * len(batch) for batch in self._batches(held_out)) / len(held_out)

    @torch.no_grad()
    def _forward_trunks(self) -> list[Tensor]:
        """Compute the output of the frozen layers, (channels, rows, F') for each clip, once for all epochs."""
        model = self.model.eval()
        found: list[Tensor] = [torch.empty(0)] * len(self.clips)
        for batch in self._batches(np.arange(len(self.clips))):
            with self._autocast():
                logmel = model.logmel(*stack([self.clips[n] for n in batch], self.device))
                x, mask = model.network.forward_trunk(*logmel)
            for n, trunk, valid in zip(batch, x, mask, strict=True):
                found[n] = trunk[:, : trunk.shape[1] - int((~valid).sum())].clone()
        return found

    def _batches(self, which: NDArray[np.int64], rng: np.random.Generator | None = None) -> Iterator[list[int]]:
        lengths = [len(self.clips[n]) for n in which]
        for batch in bucket(lengths, int(self.config.batch_seconds * self.model.sample_rate), rng):
            yield [int(which[n]) for n in batch]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")


def has_statistics(model: Model, clips: Sequence[Waveform]) -> bool:
    """Check that batch normalisation gets more than one value per channel, as a variance needs."""
    return len(clips) > 1 or len(model.segment_times(len(clips[0]))) > 1


def _rate(step: int, steps: int) -> float:
    """Fraction of the peak learning rate: linear warm-up, cosine decay."""
    rise = max(round(_WARMUP * steps), 1)
    return min((step + 1) / rise, (1 + cos(pi * max(step - rise, 0) / max(steps - rise, 1))) / 2)


def _pad(trunks: Sequence[Tensor], n_segments: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Zero-pad (channels, rows, F') to (B, channels, rows, F'), with the (B, S) mask of the segments."""
    rows = pad_sequence([trunk.transpose(0, 1) for trunk in trunks], batch_first=True)  # (B, rows, channels, F')
    return rows.transpose(1, 2), length_mask(torch.tensor(n_segments, device=rows.device), max(n_segments))


def _split(
    n_clips: int, sources: Sequence[str] | None, config: FineTuneConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split clips by recording: those to train on, and those that select the epoch."""
    groups = np.arange(n_clips) if sources is None else np.unique(list(sources), return_inverse=True)[1]
    if len(np.unique(groups)) < 2:
        raise ProtocolError("fine-tuning needs clips of at least two recordings, as some of them select the epoch")
    splitter = GroupShuffleSplit(1, test_size=config.held_out, random_state=config.seed)
    train, held_out = next(splitter.split(np.zeros(n_clips), groups=groups))
    return train, held_out


def _check(clips: Sequence[Waveform], targets: NDArray[np.floating], labels: Sequence[str]) -> None:
    if targets.shape != (len(clips), len(labels)):
        raise ProtocolError(f"targets of shape {targets.shape} for {len(clips)} clips and {len(labels)} classes")
    counts = targets.sum(0)
    rare = [label for label, count in zip(labels, counts, strict=True) if count < 1]
    if rare:
        raise ProtocolError(f"class {rare[0]!r} has no clip among the {len(clips)}: add some, or drop the class")
    if len(labels) < 2 and counts[0] == len(clips):
        raise ProtocolError(f"all clips are {labels[0]!r}: add clips without it, as there is nothing to tell apart")
