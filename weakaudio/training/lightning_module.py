"""The LightningModule of `weakaudio train`: a thin shell around a model, a loss and the metrics."""

from __future__ import annotations

from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from weakaudio.audio.augment import mask_logmel, mixup
from weakaudio.audio.frontend import get_front_end
from weakaudio.data.datamodule import Batch, ClipDataModule, ClipDataset
from weakaudio.errors import ProtocolError
from weakaudio.evaluation.tagging import tagging_metrics
from weakaudio.networks import Output, build_network
from weakaudio.networks.model import Model
from weakaudio.training.losses import LOSSES, smooth
from weakaudio.training.schedules import one_cycle
from weakaudio.training.soft_targets import SoftTargets, open_teacher


class TaggingModule(lightning.LightningModule):
    """Trains a network on weakly labelled clips.

    Random draws of a step depend only on the seed of the run, the epoch, the step and the device, so that a resumed
    run ends as if it had never stopped.

    Parameters
    ----------
    labels
        Class names, in the order of the targets.
    network
        Name of the network: "weakcnn" (N_S), "windowed-cnn" (the network of SLAT), "flash", "mobilenet" or "cnn14".
    network_config
        Arguments of the network, without the numbers of classes and of mels.
    front_end
        Preset of the log-mel: "paper-44k", "32k", "16k", "panns-32k" or "efficientat-32k"; with "/k" appended, as in
        "efficientat-32k/2", every k-th of its frames. Presets are defined, and new ones added, in FRONT_ENDS of
        weakaudio/audio/frontend.py. The corpus must have the preset's sample rate.
    loss
        "weak": of the pooled clip probabilities; "slat": of every segment, against the labels of its clip.
    focal_gamma
        Exponent of the focal loss, which down-weights terms that are already small; 0 for none.
    label_smoothing
        Moves targets towards one half: 1 becomes 1 - label_smoothing / 2. In [0, 1].
    mixup
        What is mixed with another clip of the batch: waveforms, log-mels or none.
    mixup_alpha
        Mixing weights are drawn from Beta(mixup_alpha, mixup_alpha).
    time_mask, mel_mask
        SpecAugment: longest masks of a clip, in frames and in mels; 0 for none.
    teacher
        Knowledge distillation: name or path of a model, or a file of soft targets (`weakaudio teach`). Given as
        `--teacher` on the command line, and as `teacher` at the top level of a YAML file.
    teacher_weight
        Weight of the loss against the teacher's probabilities, in [0, 1]; the loss against the labels has the rest.
    learning_rate
        Peak learning rate of AdamW, reached after warmup; it then falls to 0 along a cosine.
    warmup
        Fraction of all steps over which the learning rate rises, in (0, 1).
    weight_decay
        Weight decay of AdamW.
    channels_last
        Use the channels-last memory format: faster in bf16, on GPUs and on CPUs with native bf16.
    compile
        Compile the network with `torch.compile`, which takes minutes at the start.

    Raises
    ------
    ProtocolError
        An option is out of its range or, at the start of training, the corpus has another sample rate.
    WeakAudioError
        No such network or front end, or an invalid argument of the network.
    """

    def __init__(
        self,
        labels: list[str],
        network: str = "weakcnn",
        network_config: dict[str, Any] = {},  # noqa: B006 (read only, and shown in --help)
        front_end: str = "paper-44k",
        loss: Literal["weak", "slat"] = "weak",
        focal_gamma: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: Literal["none", "waveform", "logmel"] = "none",
        mixup_alpha: float = 0.4,
        time_mask: int = 0,
        mel_mask: int = 0,
        teacher: str | None = None,
        teacher_weight: float = 0.5,
        learning_rate: float = 1e-3,
        warmup: float = 0.1,
        weight_decay: float = 0.0,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if focal_gamma < 0 or mixup_alpha <= 0 or min(time_mask, mel_mask) < 0:
            raise ProtocolError("focal_gamma, time_mask and mel_mask must be at least 0, and mixup_alpha above 0")
        if not (0 <= label_smoothing <= 1 and 0 <= teacher_weight <= 1 and 0 < warmup < 1):
            raise ProtocolError("label_smoothing and teacher_weight must be in [0, 1], and warmup in (0, 1)")
        fe = get_front_end(front_end)
        net = build_network(network, n_classes=len(labels), n_mels=fe.n_mels, **network_config)
        if channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            net.compile(dynamic=True)
        self.model = Model(net, fe, labels)
        self.loss, self.focal_gamma, self.label_smoothing = LOSSES[loss], focal_gamma, label_smoothing
        self.mixup, self.mixup_alpha, self.masks = mixup, mixup_alpha, (time_mask, mel_mask)
        self.teacher, self.teacher_weight = teacher, teacher_weight
        self.learning_rate, self.warmup, self.weight_decay = learning_rate, warmup, weight_decay
        self._losses = torch.zeros(2)  # of this epoch so far: sum over clips, number of clips
        self._seed = torch.initial_seed()  # set by `seed_everything`
        self._soft_targets: SoftTargets | None = None
        self._validated: list[tuple[Tensor, Tensor, Tensor]] = []

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ClipDataModule):
            return
        if data.sample_rate != self.model.sample_rate:
            raise ProtocolError(
                f"{data.corpus.root}: clips at {data.sample_rate} Hz, front end "
                f"{self.model.front_end.name!r} takes {self.model.sample_rate} Hz; prepare the corpus at "
                "that rate or choose another front end"
            )
        if self.teacher and stage == "fit":
            dataset = ClipDataset(data.corpus, data.train)
            self._soft_targets = open_teacher(self.teacher, dataset, self.model.labels)

    def on_train_epoch_start(self) -> None:
        self._losses.zero_()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"] = self._sum_over_devices(self._losses)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the running loss of an epoch that was interrupted."""
        self._losses = checkpoint["losses"] if self.global_rank == 0 else torch.zeros(2)

    def _sum_over_devices(self, values: Tensor) -> Tensor:
        summed = self.trainer.strategy.reduce(values.to(self.device).clone(), reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed

    def training_step(self, batch: Batch, step: int) -> Tensor:
        # A single segment has no batch statistics: such a batch is normalised by the running ones.
        alone = len(batch.lengths) == 1 and len(self.model.segment_times(int(batch.lengths[0]))) == 1
        self.model.train(not alone)
        targets = smooth(batch.targets, self.label_smoothing) if self.label_smoothing else batch.targets
        if self._soft_targets is not None:  # side by side, so that mixup treats both alike
            targets = torch.cat([targets, self._soft_targets(batch)], 1)
        waveform, lengths, rng = batch.waveform, batch.lengths, self._rng(step)
        if self.mixup == "waveform":
            waveform, lengths, targets = mixup(waveform, lengths, targets, self.mixup_alpha, rng)
        logmel, n_frames = self.model.logmel(waveform, lengths)
        if self.mixup == "logmel":
            logmel, n_frames, targets = mixup(logmel, n_frames, targets, self.mixup_alpha, rng)
        if any(self.masks):
            logmel = mask_logmel(logmel, n_frames, *self.masks, rng)
        loss = self._loss(self.model.network(logmel, n_frames), targets)
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        counted = len(batch.targets) * torch.stack([loss.detach(), loss.new_ones(())])
        self._losses = self._losses.to(loss.device) + counted
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, step: int) -> None:
        if self.trainer.is_last_batch:
            total, count = self._sum_over_devices(self._losses)
            self.log("train_loss", total / count, on_step=False, on_epoch=True, prog_bar=True)

    def _loss(self, output: Output, targets: Tensor) -> Tensor:
        """Loss against labels (B, C), or labels and the teacher's probabilities (B, 2 C)."""
        if self._soft_targets is None:
            return self.loss(output, targets, self.focal_gamma)
        labels, soft = targets.chunk(2, 1)
        weight = self.teacher_weight
        return (1 - weight) * self.loss(output, labels, self.focal_gamma) + weight * self.loss(output, soft, 0.0)

    def _rng(self, step: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, self.current_epoch, step, self.global_rank])

    def validation_step(self, batch: Batch, step: int) -> None:
        output = self.model(batch.waveform, batch.lengths)
        loss = self.loss(output, batch.targets, 0.0)
        self.log("val_loss", loss, batch_size=len(batch.targets), sync_dist=True)
        self._validated.append((batch.clips.cpu(), batch.targets.cpu(), output.clip_probs.cpu()))

    def on_validation_epoch_end(self) -> None:
        clips, targets, scores = (
            np.concatenate([t.numpy() for t in part]) for part in zip(*self._validated, strict=True)
        )
        self._validated.clear()
        if self.trainer.sanity_checking:
            return
        if self.trainer.world_size > 1:  # metrics are of the clips of all devices together
            shares: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(shares, (clips, targets, scores))
            clips, targets, scores = (np.concatenate(part) for part in zip(*shares, strict=True))
        order = np.argsort(clips)
        metrics = tagging_metrics(targets[order], scores[order])
        self.log("val_mAP", metrics.mean_ap, prog_bar=True, sync_dist=True)
        self.log_dict({"val_mAUC": metrics.mean_auc, "val_lwlrap": metrics.lwlrap}, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(
            self.parameters(),
            self.learning_rate,
            weight_decay=self.weight_decay,
            fused=not self.trainer.gradient_clip_val,  # Lightning cannot clip for a fused one in mixed precision
        )
        steps = int(self.trainer.estimated_stepping_batches)
        return one_cycle(optimizer, self.learning_rate, steps, self.warmup)  # type: ignore[return-value]
