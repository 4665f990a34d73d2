"""A network is worth what its loss is after a short training of the whole."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning
from lightning.fabric.utilities.warnings import PossibleUserWarning

from weakaudio.data.mixtures import Mixtures, mixture_loader
from weakaudio.nas.proxies import (
    CLIP_NORM,
    COOLDOWN,
    WARMUP,
    check_rate,
    check_training,
    mixtures_of,
    seeded,
    settings_of,
)
from weakaudio.nas.search_space import ArchitectureConfig
from weakaudio.networks.runtime import find_device, find_precision
from weakaudio.training.distillation import Distiller


@dataclass(frozen=True)
class ShortTraining:
    """The validation loss of a network after a few hundred steps of `Distiller` on `Mixtures`.

    All networks hear the same mixtures in the same order, and are validated on the same others. Nothing is written.

    Parameters
    ----------
    teacher
        Name or path of a model that shows its stages.
    corpora
        Folders of prepared corpora with the splits train and val, and how often each is drawn from.
    steps
        Over the first tenth the learning rate rises, over the last three it falls to 0.
    seconds, batch_size
        Length of a mixture, and how many a step has.
    learning_rate
        Of AdamW, at its highest.
    precision
        "bf16-mixed", "32-true", or "auto" for the first where bfloat16 is native; the attribute is the one chosen.
    every
        Networks hear every k-th frame of the teacher's log-mel.
    seed
        Of weights and mixtures.
    workers
        Processes that mix.
    device
        "cpu", "cuda", or "auto" for a GPU if there is one.

    Raises
    ------
    WeakAudioError
        A setting that cannot be.
    """

    teacher: str
    corpora: Mapping[str, float]
    steps: int = 300
    seconds: float = 4.0
    batch_size: int = 32
    learning_rate: float = 2e-3
    precision: str = "auto"
    every: int = 1
    seed: int = 0
    workers: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", find_precision(self.precision, self.device))
        check_training(self.steps, self.batch_size, self.seconds, self.precision, self.every)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the loss beside the network, as JSON."""
        return settings_of(self, {"workers", "device"})

    def check(self) -> None:
        """Find out whether networks can be trained so, without training one.

        Raises
        ------
        WeakAudioError
            What `__call__` raises of any network.
        """
        device = find_device(self.device)
        heard, _ = self._mixtures()
        with seeded(self.seed, device):
            self._distiller({}, heard)

    def __call__(self, config: Mapping[str, Any]) -> float:
        """The loss of a `FlashCNN` of these arguments; not a number if the training has diverged.

        Raises
        ------
        WeakAudioError
            As `Distiller`, `Mixtures` and `FlashCNN` say, or no such device.
        """
        device = find_device(self.device)
        heard, kept = self._mixtures()
        with seeded(self.seed, device), _quiet():
            distiller = self._distiller(ArchitectureConfig.from_config(config).to_config(), heard)
            trainer = lightning.Trainer(
                accelerator=device.type,
                devices=1 if device.index is None else [device.index],
                precision=self.precision,  # type: ignore[arg-type]
                max_epochs=1,
                gradient_clip_val=CLIP_NORM,
                num_sanity_val_steps=0,
                log_every_n_steps=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(
                distiller,
                mixture_loader(heard, self.batch_size, self.steps, self.workers),
                mixture_loader(kept, self.batch_size, workers=0),
            )
        return float(trainer.callback_metrics["val_loss"])

    def _mixtures(self) -> tuple[Mixtures, Mixtures]:
        return mixtures_of(self, self.steps * self.batch_size)

    def _distiller(self, config: dict[str, Any], heard: Mixtures) -> Distiller:
        distiller = Distiller(
            self.teacher,
            "flash",
            config,
            self.steps,
            self.learning_rate,
            warmup=int(WARMUP * self.steps),
            lr_decay=int(COOLDOWN * self.steps),
            frame_stride=self.every,
        )
        check_rate(heard, self.teacher, distiller.teacher)
        return distiller


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning says nothing of devices, workers and its end, as it would for each network of a search."""
    said = [logging.getLogger(f"lightning.pytorch.{name}") for name in ("utilities.rank_zero", "accelerators.cuda")]
    levels = [logger.level for logger in said]
    for logger in said:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
            yield
    finally:
        for logger, level in zip(said, levels, strict=True):
            logger.setLevel(level)
