"""Distillation from another network, stage by stage, on audio that needs no labels."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from weakaudio.audio.frontend import FrontEnd, decimated
from weakaudio.errors import ProtocolError
from weakaudio.networks import build_network
from weakaudio.networks.contract import Features, mean_embedding
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model
from weakaudio.training.decimation import decimate_features, thin

# Weights of the parts of the loss, which begin at about 5 (scores), 1.5 and 1. The maps are what teaches: after 300
# steps, ESC-50 (fold 5) off the shelf was at 61 % with 1, 2 and 1, 77 % with 0.3, 2 and 4, 78 % with 0.3, 2 and 16.
_SCORES, _EMBEDDING, _MAPS = 0.3, 2.0, 8.0
_RARE = -5.0  # logit of most classes most of the time: without it the first steps go into unlearning one half


class Distiller(lightning.LightningModule):
    """Trains a network to hear what another one hears.

    The loss is a sum of three parts. Scores: binary cross-entropy with the teacher's probabilities, of clips and of
    segments, summed over classes. Embedding: mean squared error of a linear map of the student's embedding to the
    teacher's, of clips and of segments. Maps: mean squared error of 1x1 convolutions of the student's stages to
    those of the teacher at the same resolution. The teacher's embeddings and maps are standardised by channel, so
    that each counts alike.

    Parameters
    ----------
    teacher
        Name or path of a model; the student has its classes and, but for `every`, its front end.
    network, network_config
        Name and arguments of the student's network, but for the number of classes and of mels.
    steps
        Of the whole training.
    learning_rate
        Of AdamW: rises over `warmup` steps, stays, and falls to 0 over the last `cooldown` steps.
    warmup, cooldown
        Steps. A run without a cooldown can be prolonged, and cooled down at any time.
    weight_decay
        Of AdamW.
    every
        The student hears every k-th frame of the teacher's log-mel, so its segments are k times as long; it learns
        the means of what the teacher says of these.
    start
        Name or path of a model of the same network, classes and front end, but for the hop, with whose weights the
        student begins; None: with random ones.

    Raises
    ------
    CheckpointError
        No such teacher or start.
    ProtocolError
        Fewer steps than warmup and cooldown have, no stage of student and teacher has the same resolution, or `start`
        is of another network, other classes or another front end.
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
        cooldown: int = 0,
        weight_decay: float = 0.01,
        every: int = 1,
        start: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if steps < warmup + cooldown:
            raise ProtocolError(f"{steps} steps are fewer than {warmup} of warmup and {cooldown} of cooldown")
        self.steps, self.learning_rate, self.weight_decay = steps, learning_rate, weight_decay
        self.warmup, self.cooldown, self.every = warmup, cooldown, every
        loaded = load_model(teacher)
        loaded.network.fuse()
        self._teacher = [loaded]  # in a list, so that it is neither trained nor saved with the student
        net = build_network(
            network, n_classes=len(loaded.labels), n_mels=loaded.front_end.n_mels, **network_config
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        nn.init.constant_(net.classifier.bias, _RARE)
        self.model = Model(net, decimated(loaded.front_end, every), loaded.labels)
        if start is not None:
            _begin_with(self.model, start)
        ours, theirs = _example(self.model), decimate_features(_example(loaded), every)
        self.pairs = [
            (a, b)
            for a, mine in enumerate(ours.maps)
            for b, its in enumerate(theirs.maps)
            if mine.shape[2:] == its.shape[2:]
        ]
        if not self.pairs:
            raise ProtocolError(f"network {network!r} has no stage of a resolution that {teacher} has, too")
        self.map_adapters = nn.ModuleList(
            nn.Conv2d(ours.maps[a].shape[1], theirs.maps[b].shape[1], 1) for a, b in self.pairs
        )
        self.map_norms = nn.ModuleList(_standardise(theirs.maps[b].shape[1]) for _, b in self.pairs)
        self.adapter = nn.Linear(net.n_features, loaded.network.n_features)
        self.norms = nn.ModuleDict(
            {
                level: nn.BatchNorm1d(loaded.network.n_features, affine=False, track_running_stats=False)
                for level in ("clip", "segment")
            }
        )

    @property
    def teacher(self) -> Model:
        return self._teacher[0].to(self.device)

    def training_step(self, waveform: Tensor, step: int) -> Tensor:
        return self._step(waveform, "train")

    def validation_step(self, waveform: Tensor, step: int) -> Tensor:
        return self._step(waveform, "val")

    def _step(self, waveform: Tensor, stage: str) -> Tensor:
        parts = self.losses(waveform)
        loss = _SCORES * parts["scores"] + _EMBEDDING * parts["embedding"] + _MAPS * parts["maps"]
        for name, value in {**parts, "loss": loss}.items():
            bar = name == "loss"
            self.log(
                f"{stage}_{name}", value.detach(), bar, False, on_step=False, on_epoch=True, batch_size=len(waveform)
            )
        return loss

    def losses(self, waveform: Tensor) -> dict[str, Tensor]:
        """Scores, embedding and maps, a scalar each, of mixtures (B, N) at the teacher's sample rate."""
        teacher, net = self.teacher.network, self.model.network
        logmel, _ = self.teacher.logmel(waveform)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            theirs = teacher.forward_maps(logmel)
            their_clip = mean_embedding(theirs.embeddings, theirs.mask)
            clip_targets = teacher.forward_head(their_clip).sigmoid()
            segment_targets = teacher.score_segments(theirs.embeddings, theirs.mask).sigmoid()
            segment_targets = thin(segment_targets[:, None], self.every)[:, 0]
            theirs = decimate_features(theirs, self.every)
        ours = net.forward_maps(logmel[:, :: self.every])
        clip = mean_embedding(ours.embeddings, ours.mask)
        scores = _cross_entropy(net.forward_head(clip), clip_targets) + 0.5 * _cross_entropy(
            net.score_segments(ours.embeddings, ours.mask), segment_targets
        )
        embedding = F.mse_loss(self.adapter(clip).float(), self.norms["clip"](their_clip)) + 0.5 * F.mse_loss(
            self.adapter(ours.embeddings.flatten(0, 1)).float(),
            self.norms["segment"](theirs.embeddings.flatten(0, 1)),
        )
        maps = [
            F.mse_loss(adapter(ours.maps[a]).float(), norm(theirs.maps[b]))
            for (a, b), adapter, norm in zip(self.pairs, self.map_adapters, self.map_norms, strict=True)
        ]
        return {"scores": scores, "embedding": embedding, "maps": torch.stack(maps).mean()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        decayed = [parameter for parameter in trained if parameter.ndim > 1]
        others = [parameter for parameter in trained if parameter.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        rising = (step + 1) / max(self.warmup, 1)
        falling = (self.steps - step) / max(self.cooldown, 1)
        return min(1.0, rising, falling if self.cooldown else 1.0)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed over classes, above what the targets themselves have: 0 where both agree."""
    with torch.autocast(logits.device.type, enabled=False):
        total = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
        least = F.binary_cross_entropy(targets, targets, reduction="sum")
        return (total - least) / (targets.numel() / targets.shape[-1])


def _begin_with(model: Model, start: str) -> None:
    """Give a model the weights of another one, which may hear other frames of the same log-mel."""
    other = load_model(start)
    for name, expected, found in (
        ("network", _network(model), _network(other)),
        ("classes", model.labels, other.labels),
        ("log-mel", _but_for_hop(model.front_end), _but_for_hop(other.front_end)),
    ):
        if found != expected:
            raise ProtocolError(f"{start}: a student cannot begin so: its {name} would be {expected}, not {found}")
    model.network.load_state_dict(other.network.state_dict())


def _network(model: Model) -> tuple[str, dict[str, Any]]:
    return type(model.network).__name__, model.network.config


def _but_for_hop(front_end: FrontEnd) -> dict[str, Any]:
    return {name: value for name, value in asdict(front_end).items() if name not in ("name", "hop_length")}


def _standardise(channels: int) -> nn.Module:
    """By the statistics of the batch, also in validation: they are the teacher's, and nothing to be averaged."""
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


@torch.no_grad()
def _example(model: Model) -> Features:
    """What a model gives for a little silence, of which the shapes say which stages fit each other."""
    logmel, _ = model.logmel(torch.zeros(1, model.sample_rate))
    was = model.training
    features = model.eval().network.forward_maps(logmel)
    model.train(was)
    return features
