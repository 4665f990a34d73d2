"""Distillation of a network from another one, stage by stage, on unlabelled audio."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from weakaudio.audio.frontend import decimated
from weakaudio.errors import ProtocolError
from weakaudio.networks import build_network
from weakaudio.networks.contract import Features
from weakaudio.networks.model import Model
from weakaudio.networks.pooling import masked_mean
from weakaudio.pretrained.registry import load_model
from weakaudio.training.schedules import warmup_stable_decay

# Weights of the terms of the loss, which start at about 5 (scores), 1.5 (embedding) and 1 (maps). The maps matter
# most: after 300 steps, ESC-50 (fold 5) without fine-tuning was at 61 % with weights of 1, 2 and 1, 77 % with 0.3, 2
# and 4, 78 % with 0.3, 2 and 16.
_SCORES, _EMBEDDING, _MAPS = 0.3, 2.0, 8.0
# Of the teacher's segments beside its clips; less where targets over time are known, as it hears nothing finer than a
# second.
_SEGMENTS, _SEGMENTS_BESIDE_TARGETS = 0.5, 0.15
_RARE = -5.0  # initial bias of the logits: most classes are absent most of the time


class Distiller(lightning.LightningModule):
    """Trains a student network to reproduce a teacher's scores, embeddings and feature maps.

    The loss is a weighted sum of three terms. Scores: binary cross-entropy with the teacher's probabilities, for
    clips and for segments, summed over classes. Embedding: mean squared error between a linear map of the student's
    embedding and the teacher's, for clips and for segments. Maps: mean squared error between 1x1 convolutions of the
    student's stages and the teacher's stages of the same resolution. The teacher's embeddings and maps are
    standardised by channel. Where the mixtures have targets over time (`Mixtures`) and the student has scores finer
    than its embeddings, a fourth: binary cross-entropy of these scores with the targets.

    Parameters
    ----------
    teacher
        Name or path of a model. The student gets its classes and, up to `frame_stride`, its front end.
    network, network_config
        Name and arguments of the student's network, without the numbers of classes and of mels.
    steps
        Total number of training steps.
    learning_rate
        Peak learning rate of AdamW (`schedules.trapezoid`).
    warmup, lr_decay
        Steps over which the learning rate rises at the beginning, and falls to 0 at the end. A run without lr_decay
        can be prolonged.
    weight_decay
        Weight decay of AdamW.
    frame_stride
        The student's front end is decimated: it computes every k-th frame of the teacher's, so its segments are k
        times as long, and its targets are local means of the teacher's outputs (`decimate`).
    init_from
        Name or path of a model to initialise the student from, with the same classes, front end (the hop may differ)
        and network (a head for finer scores may be new); None: random weights.

    Raises
    ------
    CheckpointError
        No such teacher or `init_from`.
    ProtocolError
        Fewer steps than warmup and lr_decay have, no stages of the same resolution, or `init_from` has another
        network, other classes or another front end.
    WeakAudioError
        No such network, or one that does not show its stages.
    """

    def __init__(
        self,
        teacher: str,
        network: str,
        network_config: dict[str, Any],
        steps: int,
        learning_rate: float = 2e-3,
        warmup: int = 500,
        lr_decay: int = 0,
        weight_decay: float = 0.01,
        frame_stride: int = 1,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if steps < warmup + lr_decay:
            raise ProtocolError(f"{steps} steps are fewer than {warmup} of warmup and {lr_decay} of lr_decay")
        self.steps, self.learning_rate, self.weight_decay = steps, learning_rate, weight_decay
        self.warmup, self.lr_decay, self.frame_stride = warmup, lr_decay, frame_stride
        loaded = load_model(teacher)
        loaded.network.fuse()
        self._teacher = [loaded]  # in a list, so that it is no submodule: neither trained nor saved
        net = build_network(
            network, n_classes=len(loaded.labels), n_mels=loaded.front_end.n_mels, **network_config
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, parameter in net.named_parameters():
            if name in ("classifier.bias", "fine.classifier.bias"):
                nn.init.constant_(parameter, _RARE)
        self.model = Model(net, decimated(loaded.front_end, frame_stride), loaded.labels)
        if init_from is not None:
            _initialise(self.model, init_from)
        ours, theirs = _example(self.model), decimate_features(_example(loaded), frame_stride)
        self.pairs = [
            (a, b)
            for a, mine in enumerate(ours.maps)
            for b, its in enumerate(theirs.maps)
            if mine.shape[2:] == its.shape[2:]
        ]
        if not self.pairs:
            raise ProtocolError(f"network {network!r} has no stage of the same resolution as one of {teacher}")
        self.map_adapters = nn.ModuleList(
            nn.Conv2d(ours.maps[a].shape[1], theirs.maps[b].shape[1], 1) for a, b in self.pairs
        )
        self.adapter = nn.Linear(net.n_features, loaded.network.n_features)

    @property
    def teacher(self) -> Model:
        return self._teacher[0].to(self.device)

    def training_step(self, batch: Tensor | list[Tensor], step: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Tensor | list[Tensor], step: int) -> Tensor:
        return self._step(batch, "val")

    def _step(self, batch: Tensor | list[Tensor], stage: str) -> Tensor:
        waveform, targets = (batch, None) if isinstance(batch, Tensor) else batch
        parts = self.losses(waveform, targets)
        scores = parts["scores"] + parts.get("targets", 0.0)
        loss = _SCORES * scores + _EMBEDDING * parts["embedding"] + _MAPS * parts["maps"]
        for name, value in {**parts, "loss": loss}.items():
            bar, title = name == "loss", f"{stage}_{name}"
            self.log(title, value.detach(), bar, False, on_step=False, on_epoch=True, batch_size=len(waveform))
        return loss

    def losses(self, waveform: Tensor, targets: Tensor | None = None) -> dict[str, Tensor]:
        """Terms of the loss, "scores", "embedding", "maps" and with targets (B, R, C) "targets", for waveforms (B, N)
        at the teacher's sample rate."""
        teacher, net = self.teacher.network, self.model.network
        logmel, _ = self.teacher.logmel(waveform)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            theirs = teacher.forward_maps(logmel)
            their_clip = masked_mean(theirs.embeddings, theirs.mask)
            clip_targets = teacher.forward_head(their_clip).sigmoid()
            segment_targets = teacher.score_segments(theirs.embeddings, theirs.mask).sigmoid()
            segment_targets = decimate(segment_targets[:, None], self.frame_stride)[:, 0]
            theirs = decimate_features(theirs, self.frame_stride)
        ours = net.forward_maps(logmel[:, :: self.frame_stride])
        clip = masked_mean(ours.embeddings, ours.mask)
        of_segments = _SEGMENTS if targets is None else _SEGMENTS_BESIDE_TARGETS
        scores = _cross_entropy(net.forward_head(clip), clip_targets) + of_segments * _cross_entropy(
            net.score_segments(ours.embeddings, ours.mask), segment_targets
        )
        embedding = F.mse_loss(self.adapter(clip).float(), _standardise(their_clip)) + 0.5 * F.mse_loss(
            self.adapter(ours.embeddings.flatten(0, 1)).float(),
            _standardise(theirs.embeddings.flatten(0, 1)),
        )
        maps = [
            F.mse_loss(adapter(ours.maps[a]).float(), _standardise(theirs.maps[b]))
            for (a, b), adapter in zip(self.pairs, self.map_adapters, strict=True)
        ]
        found = {"scores": scores, "embedding": embedding, "maps": torch.stack(maps).mean()}
        return found if targets is None else {**found, "targets": _cross_entropy(net.score_steps(ours)[0], targets)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in trained if parameter.ndim > 1]},
            {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
        return warmup_stable_decay(optimizer, self.steps, self.warmup, self.lr_decay)  # type: ignore[return-value]


def decimate(maps: Tensor, frame_stride: int) -> Tensor:
    """(B, channels, T, F) to (B, channels, ceil(T / frame_stride), F): local means around every k-th row.

    The means are centred where the rows of a decimated student are. With an even stride, the two rows at the ends of
    the window count one half. At the ends of a clip, the mean is over the rows inside it.
    """
    if frame_stride == 1:
        return maps
    reach = frame_stride // 2
    weights = [1.0] * (2 * reach + 1)
    if frame_stride % 2 == 0:
        weights[0] = weights[-1] = 0.5

    def sums(x: Tensor) -> Tensor:
        last = (x.shape[2] - 1) // frame_stride * frame_stride
        padded = F.pad(x, (0, 0, reach, reach))
        terms = (weight * padded[:, :, n : n + last + 1 : frame_stride] for n, weight in enumerate(weights))
        return reduce(torch.add, terms)

    return sums(maps) / sums(maps.new_ones(1, 1, maps.shape[2], 1))


def decimate_features(features: Features, frame_stride: int) -> Features:
    """A teacher's features at the resolution of a decimated student, for clips without padding."""
    embeddings = decimate(features.embeddings.transpose(1, 2)[..., None], frame_stride)[..., 0].transpose(1, 2)
    maps, lengths = [decimate(x, frame_stride) for x in features.maps], features.lengths
    lengths = (lengths + (frame_stride - 1)) // frame_stride
    return Features(maps, embeddings, features.mask[:, ::frame_stride], lengths)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, summed over classes, less the entropy of the targets: 0 where both agree."""
    with torch.autocast(logits.device.type, enabled=False):
        total = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
        least = F.binary_cross_entropy(targets, targets, reduction="sum")
        return (total - least) / (targets.numel() / targets.shape[-1])


def _initialise(model: Model, init_from: str) -> None:
    """Copy the weights of another model, whose front end may have another hop."""
    other = load_model(init_from)

    def identity(model: Model) -> dict[str, Any]:
        config = {name: value for name, value in model.network.config.items() if not name.startswith("score_")}
        network = type(model.network).__name__, config
        front_end = replace(model.front_end, name="", hop_length=1)
        return {"network": network, "classes": model.labels, "log-mel": front_end}

    theirs = identity(other)
    for what, expected in identity(model).items():
        if theirs[what] != expected:
            raise ProtocolError(
                f"{init_from}: cannot initialise the student: {what} {theirs[what]}, expected {expected}"
            )
    fine = {name: x for name, x in model.network.state_dict().items() if name.startswith("fine.")}
    model.network.load_state_dict({**fine, **other.network.state_dict()})


def _standardise(x: Tensor) -> Tensor:
    """Zero mean and unit variance of each channel (dimension 1) over the batch, in validation as well."""
    return F.batch_norm(x, None, None, training=True)


@torch.no_grad()
def _example(model: Model) -> Features:
    """Features of a second of silence, whose shapes tell which stages have the same resolution."""
    logmel, _ = model.logmel(torch.zeros(1, model.sample_rate))
    was = model.training
    features = model.eval().network.forward_maps(logmel)
    model.train(was)
    return features
