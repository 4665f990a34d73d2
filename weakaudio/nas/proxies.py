"""Proxies: what a network is worth, estimated by a short training; lower is better.

`ShortTraining` trains the whole network, `weakaudio.nas.blockwise.BlockwiseDistillation` each stage separately.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import lightning
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning

from weakaudio.data.mixtures import Mixtures, mixture_loader
from weakaudio.errors import ProtocolError, WeakAudioError
from weakaudio.nas.search_space import ArchitectureConfig
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device, find_precision
from weakaudio.pretrained.checkpoint import model_checksum
from weakaudio.pretrained.registry import load_model
from weakaudio.training.distillation import Distiller

WARMUP, LR_DECAY = 0.1, 0.3  # fractions of the steps, over which the learning rate rises and falls
CLIP_NORM = 5.0  # of gradients

_PRECISIONS = ("bf16-mixed", "32-true")
_VAL_BATCHES = 4


@dataclass(frozen=True)
class Proxy:
    """Settings that all proxies share.

    Parameters
    ----------
    teacher
        Name or path of a model that gives the maps of its stages.
    corpora
        Folders of prepared corpora with the splits train and val, and the weight with which each is drawn from.
    steps
        Of each training. Over the first tenth the learning rate rises, over the last three it falls to 0.
    seconds, batch_size
        Length of a mixture, and their number per step.
    learning_rate
        Peak learning rate of AdamW.
    precision
        "bf16-mixed" or "32-true".
    frame_stride
        Networks take every k-th frame of the teacher's log-mel.
    seed
        Of weights and mixtures.
    device
        "cpu", "cuda", or "auto" for a GPU if there is one.

    Raises
    ------
    WeakAudioError
        An invalid setting.
    """

    teacher: str
    corpora: Mapping[str, float]
    steps: int = 300
    seconds: float = 4.0
    batch_size: int = 32
    learning_rate: float = 2e-3
    precision: str = "auto"
    frame_stride: int = 1
    seed: int = 0
    device: str = "cpu"

    _NO_EFFECT: ClassVar = {"device"}  # fields that do not decide scores

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not self.seconds > 0:
            raise WeakAudioError(
                f"proxy: {self.steps} steps of {self.batch_size} mixtures of {self.seconds} s, expected 1 or more, "
                "and more than 0 s"
            )
        if self.frame_stride < 1:
            raise WeakAudioError(f"proxy: a frame stride of {self.frame_stride}, expected 1 or more")
        object.__setattr__(self, "precision", find_precision(self.precision, self.device))
        if self.precision not in _PRECISIONS:
            raise WeakAudioError(f"proxy: precision {self.precision!r}, expected auto, {' or '.join(_PRECISIONS)}")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide scores, besides the network, as JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self._NO_EFFECT}
        values["every"] = values.pop("frame_stride")  # its name in files
        corpora = [[Path(folder).name, weight] for folder, weight in self.corpora.items()]
        return {**values, "teacher": model_checksum(load_model(self.teacher)), "corpora": corpora}

    def draw_mixtures(self, size: int) -> tuple[Mixtures, Mixtures]:
        """`size` training mixtures, and validation mixtures."""
        train = Mixtures(self.corpora, self.seconds, size, self.seed, {"split": "train"})
        n_val = _VAL_BATCHES * self.batch_size
        return train, Mixtures(self.corpora, self.seconds, n_val, self.seed + 1, {"split": "val"})


@dataclass(frozen=True)
class ShortTraining(Proxy):
    """The validation loss of a network after a few hundred steps of `Distiller` on `Mixtures`.

    All networks are trained on the same mixtures in the same order, and validated on the same others. Nothing is
    written.

    Parameters
    ----------
    workers
        Processes that mix.
    """

    workers: int = 1

    _NO_EFFECT: ClassVar = {"device", "workers"}

    def check(self) -> None:
        """Check teacher, corpora and device without training a network.

        Raises
        ------
        WeakAudioError
            What `__call__` would raise for any network.
        """
        train, _ = self._mixtures()
        with seeded(self.seed, find_device(self.device)):
            self._distiller({}, train)

    def __call__(self, config: Mapping[str, Any]) -> float:
        """The loss of a `FlashCNN` of these arguments; not finite if the training diverged.

        Raises
        ------
        WeakAudioError
            As `Distiller`, `Mixtures` and `FlashCNN`, or an unknown device.
        """
        device = find_device(self.device)
        train, val = self._mixtures()
        with seeded(self.seed, device), _quiet_lightning():
            distiller = self._distiller(ArchitectureConfig.from_config(config).to_config(), train)
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
                mixture_loader(train, self.batch_size, self.steps, self.workers),
                mixture_loader(val, self.batch_size, workers=0),
            )
        return float(trainer.callback_metrics["val_loss"])

    def _mixtures(self) -> tuple[Mixtures, Mixtures]:
        return self.draw_mixtures(self.steps * self.batch_size)

    def _distiller(self, config: dict[str, Any], train: Mixtures) -> Distiller:
        distiller = Distiller(
            self.teacher,
            "flash",
            config,
            self.steps,
            self.learning_rate,
            warmup=int(WARMUP * self.steps),
            lr_decay=int(LR_DECAY * self.steps),
            frame_stride=self.frame_stride,
        )
        check_rate(train, self.teacher, distiller.teacher)
        return distiller


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence what Lightning reports of devices, workers and its end, once for each network of a search."""
    loggers = [
        logging.getLogger(f"lightning.pytorch.{name}") for name in ("utilities.rank_zero", "accelerators.cuda")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# --- shared by all proxies


def read_corpora(values: Sequence[str]) -> dict[str, float]:
    """Parse folders of corpora and their weights, from words like `PATH=WEIGHT`, or PATH alone for weight 1.

    Raises
    ------
    WeakAudioError
        An invalid weight, or a folder given twice.
    """
    found: dict[str, float] = {}
    for value in values:
        folder, weight = value, 1.0
        before, equals, after = value.rpartition("=")
        if equals and not Path(value).is_dir():
            try:
                folder, weight = before, float(after)
            except ValueError:
                raise WeakAudioError(f"--corpus {value}: {after!r} is no number; expected PATH=WEIGHT") from None
        if not (math.isfinite(weight) and weight > 0):
            raise WeakAudioError(f"--corpus {value}: a weight of {weight:g}, expected more than 0")
        if folder in found:
            raise WeakAudioError(f"--corpus {folder}: is given twice")
        found[folder] = weight
    return found


def check_rate(mixtures: Mixtures, teacher: str, model: Model) -> None:
    """
    Raises
    ------
    ProtocolError
        The corpora's sample rate is not the teacher's.
    """
    if mixtures.sample_rate != model.sample_rate:
        raise ProtocolError(
            f"corpora at {mixtures.sample_rate} Hz, and the teacher {teacher} takes {model.sample_rate} Hz; prepare "
            "them at that rate"
        )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch within the block, and restore its random state afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
