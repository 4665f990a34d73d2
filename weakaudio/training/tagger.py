"""The LightningModule: a thin shell around a model, a loss and the metrics."""

from __future__ import annotations

from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from weakaudio.audio.logmel import get_front_end
from weakaudio.data.dataset import Batch, ClipDataModule
from weakaudio.errors import ProtocolError
from weakaudio.networks import build_network
from weakaudio.networks.model import Model
from weakaudio.training.losses import LOSSES
from weakaudio.training.metrics import tagging_metrics


class Tagger(lightning.LightningModule):
    """Trains a network on weakly labelled clips.

    Parameters
    ----------
    labels
        Class names, in the order of the targets.
    network
        Name of the network: "weakcnn" (N_S) or "windowed-cnn" (the network of SLAT).
    network_config
        Its arguments, but for the number of classes and of mels.
    front_end
        Name of a log-mel preset.
    loss
        "weak" compares clips, "slat" every segment, with the clip's labels.
    learning_rate
        Of Adam, at its highest: it rises over the first `warmup` of the steps and falls to 0 along a cosine.
    warmup
        Part of all steps, in (0, 1).
    weight_decay
        Of AdamW.
    channels_last
        Lay the convolutions' weights out channels-last: faster in bf16, on a GPU and on CPUs that have it.
    """

    def __init__(
        self,
        labels: list[str],
        network: str = "weakcnn",
        network_config: dict[str, Any] = {},  # noqa: B006 (read only, and shown in --help)
        front_end: str = "paper-44k",
        loss: Literal["weak", "slat"] = "weak",
        learning_rate: float = 1e-3,
        warmup: float = 0.1,
        weight_decay: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        fe = get_front_end(front_end)
        net = build_network(network, n_classes=len(labels), n_mels=fe.n_mels, **network_config)
        if channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = Model(net, fe, labels)
        self.loss = LOSSES[loss]
        self.learning_rate, self.warmup, self.weight_decay = learning_rate, warmup, weight_decay
        self._seen: list[tuple[Tensor, Tensor]] = []

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ClipDataModule) and data.sample_rate != self.model.sample_rate:
            raise ProtocolError(
                f"{data.corpus.root}: clips at {data.sample_rate} Hz, front end "
                f"{self.model.front_end.name!r} takes {self.model.sample_rate} Hz; prepare the corpus at "
                "that rate or choose another front end"
            )

    def training_step(self, batch: Batch, step: int) -> Tensor:
        # A single segment has no statistics to normalise with: such a batch goes with those of the others.
        alone = len(batch.lengths) == 1 and len(self.model.segment_times(int(batch.lengths[0]))) == 1
        self.model.train(not alone)
        loss = self.loss(self.model(batch.waveform, batch.lengths), batch.targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch.targets))
        return loss

    def validation_step(self, batch: Batch, step: int) -> None:
        output = self.model(batch.waveform, batch.lengths)
        loss = self.loss(output, batch.targets)
        self.log("val_loss", loss, batch_size=len(batch.targets))
        self._seen.append((batch.targets.cpu(), output.clip_probs.cpu()))

    def on_validation_epoch_end(self) -> None:
        targets, scores = (np.concatenate([t.numpy() for t in part]) for part in zip(*self._seen, strict=True))
        self._seen.clear()
        if self.trainer.sanity_checking:
            return
        metrics = tagging_metrics(targets, scores)
        self.log("val_mAP", metrics.mean_ap, prog_bar=True)
        self.log_dict({"val_mAUC": metrics.mean_auc, "val_lwlrap": metrics.lwlrap})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(
            self.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=self.warmup,
            cycle_momentum=False,
            final_div_factor=1e3,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
